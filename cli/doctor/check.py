"""What a check of `leadsweep doctor` finds."""

from typing import NamedTuple

from leadsweep.terminal.failure import Failure


class Check(NamedTuple):
    """What is so, and how to mend it; `mend` is empty where nothing need be done. A check that is
    `ok` and has a `mend` is a warning: all works, but could work better.
    """

    name: str
    ok: bool
    finding: str
    mend: str = ""


def failed(name: str, failure: Failure) -> Check:
    """The check that ended with this failure."""
    return Check(
        name, ok=False, finding=failure.wrong, mend=failure.mend or "read PostgreSQL's log"
    )
