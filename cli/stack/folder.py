"""The data folder of a stack: its owner, its contents, who may read it, and its secrets.

Only its user may read it, whatever its permissions were before. A folder that holds other files is
refused before anything in it changes.
"""

import os
import pwd
import re
import secrets
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from leadsweep.terminal.failure import Failure

from cli.stack.processes import write_private

_RUN_AS_NOBODY = ("postgres", "postgres.new", "redis")  # folders that nobody owns under root
_FILES = ("password", "secrets_key", "ports.json", "runtime.json", "redis_version")
# All that a stack ever makes in its folder. Other files there are left alone.
_OURS = {"logs", "lock", *_RUN_AS_NOBODY, *_FILES, *(f"{name}.new" for name in _FILES)}
_OUR_LOGS = re.compile(r"(initdb|postgres|redis|api|worker|deliverer|ticker)\b.*\.log")


def claim(data_dir: Path) -> None:
    """Makes the folder if it is missing, and makes it and the stack's files in it private.

    Raises Failure, and changes nothing, where the folder is of something else, or where another
    user owns a part of it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in data_dir.iterdir()}
    # A folder without ports.json may be one in which a first start was cut off, but then it holds
    # only our files. A disk has lost+found.
    if "ports.json" not in names and (others := names - _OURS - {"lost+found"}):
        raise Failure(
            f"{data_dir} is not a stack's folder: it has {min(others)}",
            "name one that is empty, or does not exist yet: --data-dir",
        )
    _make_private([data_dir, *(data_dir / name for name in names & _OURS)])
    logs = data_dir / "logs"
    logs.mkdir(exist_ok=True)
    _make_private(path for path in logs.iterdir() if _OUR_LOGS.fullmatch(path.name))


def own_folder(path: Path) -> Path:
    """Makes the folder `path` if it is missing, and lets the servers write to it."""
    path.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        shutil.chown(path, "nobody")
    return path


def password(data_dir: Path) -> str:
    """The password of both servers, made on first use."""
    path = data_dir / "password"
    if not path.exists():
        write_private(path, secrets.token_hex(24))
    return path.read_text()


def secrets_key(data_dir: Path) -> str:
    """The key that encrypts webhook secrets, made on first use."""
    path = data_dir / "secrets_key"
    if not path.exists():
        from shared.credentials import new_secrets_key

        write_private(path, new_secrets_key())
    return path.read_text()


def _make_private(paths: Iterable[Path]) -> None:
    """Lets nobody else read or write these paths.

    Raises Failure, and changes nothing, if another user owns one of them or the folder to which it
    is a link.
    """
    nobody = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    owned = []
    for path in paths:
        with suppress(FileNotFoundError):  # a stack that runs here may just have replaced a file
            status = path.lstat()
            owners = {os.geteuid(), nobody} if path.name in _RUN_AS_NOBODY else {os.geteuid()}
            owned.append((path, status, owners))
            if stat.S_ISLNK(status.st_mode) and path.is_dir():  # to a bigger disk, say
                owned.append((path.resolve(), path.stat(), owners))
    for path, status, owners in owned:
        if status.st_uid not in owners:
            raise Failure(
                f"{path} belongs to another user (uid {status.st_uid})",
                "name another folder: --data-dir",
            )
    for path, status, _ in owned:
        if not stat.S_ISLNK(status.st_mode):
            with suppress(FileNotFoundError):
                path.chmod(0o700 if stat.S_ISDIR(status.st_mode) else 0o600)
