"""Runs a real process of ours that kills itself, as `kill -9` would, before or after a chosen
statement.

    python -m tests.faults.processes.dying FOLDER MODULE [ARGUMENT …]

MODULE [ARGUMENT …] is, for example, `worker --processes 2`.

A fail point is a file in FOLDER, named `before FRAGMENT` or `after FRAGMENT`: the process that is
about to execute (or has just executed) a statement that contains FRAGMENT, itself or in a
parameter, removes the file and dies. `before COMMIT` is the moment before a commit is sent, `after
COMMIT` when the connection goes back to its pool. Each file kills one process, once; one whose name
begins with `always` stays, and grows by a byte with each death.
"""

import os
import runpy
import signal
import sys
import threading
from pathlib import Path

from sqlalchemy import Engine, Pool, event

COMMIT = "COMMIT"


def arm(folder: Path, point: str) -> None:
    """Sets the fail point `point`, e.g. `after INSERT INTO jobs`."""
    (folder / point).touch()


def deaths_at(folder: Path, point: str) -> int:
    """How many processes the fail point `point`, an `always …`, has killed."""
    return (folder / point).stat().st_size


def _die_at(folder: Path, when: str, statement: str, parameters: object = None) -> None:
    if threading.current_thread().name == "heartbeat":
        return
    for point in folder.iterdir():
        moment, _, fragment = point.name.removeprefix("always ").partition(" ")
        if moment == when and (fragment in statement or fragment in repr(parameters)):
            try:
                if point.name.startswith("always "):
                    with point.open("ab", buffering=0) as deaths:
                        deaths.write(b".")
                else:
                    point.unlink()
            except FileNotFoundError:  # another process was faster, and dies of it
                continue
            os.kill(os.getpid(), signal.SIGKILL)


def install(folder: Path) -> None:
    """Watches every statement and commit of this process and of those it forks."""
    committed = set()

    @event.listens_for(Engine, "before_cursor_execute")
    def _(_connection, _cursor, statement, parameters, _context, _many):
        _die_at(folder, "before", statement, parameters)

    @event.listens_for(Engine, "after_cursor_execute")
    def _(_connection, _cursor, statement, parameters, _context, _many):
        _die_at(folder, "after", statement, parameters)

    @event.listens_for(Engine, "commit")
    def _(connection):
        committed.add(id(connection.connection.dbapi_connection))
        _die_at(folder, "before", COMMIT)

    @event.listens_for(Pool, "checkin")
    def _(dbapi_connection, _record):
        if id(dbapi_connection) in committed:
            committed.discard(id(dbapi_connection))
            _die_at(folder, "after", COMMIT)


def main() -> None:
    """Installs the fail points, then becomes the module."""
    folder, module, *arguments = sys.argv[1:]
    install(Path(folder))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
