"""The files of the embedded PostgreSQL while it does not run: initdb makes them, and they are
checked before each start.
"""

import os
import shutil
import time
from pathlib import Path

from leadsweep.terminal.failure import Failure
from leadsweep.terminal.signals import uninterrupted

from cli.stack import folder, programs
from cli.stack.processes import last_words, spawn


def prepare(cluster: Path, password_file: Path, log: Path) -> None:
    """Makes the files where there are none, and makes sure that PostgreSQL can start on them.
    Raises Failure where they cannot be made or read, or where a PostgreSQL runs on them already.
    """
    if not cluster.exists():
        _make(cluster, password_file, log)
    _check_version(cluster)
    _disown_dead_postmaster(cluster)


def _make(cluster: Path, password_file: Path, log: Path) -> None:
    """Runs initdb in another folder: an interrupted run then leaves nothing that looks complete."""
    unfinished = cluster.with_name(f"{cluster.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    folder.own_folder(unfinished)
    command = [
        str(programs.postgres_program("initdb")),
        "-D",
        str(unfinished),
        "--encoding=UTF8",
        "--locale-provider=builtin",  # sorts by bytes
        "--locale=C.UTF-8",
        "--username=leadsweep",
        "--auth=scram-sha-256",
        f"--pwfile={password_file}",
    ]
    with uninterrupted():  # a second; and it must not write into a folder that is being removed
        code = spawn(command, log, as_nobody=True).wait()
    if code:
        raise Failure(
            f"PostgreSQL could not be set up in {cluster.parent}: {last_words(log)} "
            f"(all of it: {log})"
        )
    unfinished.rename(cluster)


def _check_version(cluster: Path) -> None:
    """Raises Failure unless the PostgreSQL that is here can read the files."""
    made_by = (cluster / "PG_VERSION").read_text().strip()
    ours = programs.postgres_version().partition(".")[0]
    if made_by != ours:
        raise Failure(
            f"the files in {cluster} are of PostgreSQL {made_by}, and the one that is installed "
            f"is {ours}",
            f"dump them with PostgreSQL {made_by}, and restore them into another folder: "
            "--data-dir",
        )


def _disown_dead_postmaster(cluster: Path) -> None:
    """Replaces the pid of a PostgreSQL that was killed by our own, since another process may have
    that pid by now.

    PostgreSQL takes a file with its parent's pid for a remnant, and then only checks whether
    sessions of the dead PostgreSQL still run.
    """
    pid_file = cluster / "postmaster.pid"
    deadline = time.monotonic() + 10
    while pid_file.exists():
        pid, *others = pid_file.read_text().split("\n")
        try:
            is_old_one = str(cluster).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            is_old_one = False
        if not is_old_one:
            pid_file.write_text("\n".join([str(os.getpid()), *others]))
            return
        if time.monotonic() > deadline:
            raise Failure(
                f"an older PostgreSQL (pid {pid}) still runs in {cluster}; end it: kill {pid}"
            )
        time.sleep(0.02)
