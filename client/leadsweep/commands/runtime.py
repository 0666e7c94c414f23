"""Finds the stack that runs in a data folder by the file `runtime.json`, which its supervisor keeps
there.
"""

import fcntl
import json
import os
from pathlib import Path


def running_stack(folder: Path) -> dict[str, str] | None:
    """The `database_url`, `broker_url`, `secrets_key` and API `url` of the stack that runs in
    `folder`; None if no stack runs there.
    """
    try:
        runtime = json.loads((folder / "runtime.json").read_text())
        with (folder / "lock").open() as lock:
            os.kill(runtime["pid"], 0)
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:  # locked: the stack runs, and the file is its own
        return {
            name: runtime.get(name, "")
            for name in ("database_url", "broker_url", "secrets_key", "url")
        }
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None
