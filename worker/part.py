"""The transaction of a part: some entries of a chunk, or all. Its statements share one span of
time, so that a part which takes long is cut, and its worker is free for others, long before its
lease is over.
"""

import time
from typing import Any

from sqlalchemy import Connection, CursorResult, text
from sqlalchemy.sql.base import Executable

PART_SECONDS = 2.0  # beside two slow jobs, another company's small one is begun so soon
# Seconds that a lead gets, alone: with what comes before and after, less than a lease.
LONGEST_PART = 15
QUICK_PART = 0.5  # seconds; the next part may be bigger than one that took less
FINISH_SECONDS = 1.0  # that writing the outcomes has at least

# Seconds by which a time-out may be off; setting it anew for each statement would cost a round trip
# each.
_SLACK = 0.05

# COMMIT checks under no time-out: PostgreSQL ends that of the statement first. And what refuses
# there does so when it is too late to say which lead. What is to be taken next is checked late
# again, as triggers may put things right in between.
_CHECK, _CHECK_LATE = text("SET CONSTRAINTS ALL IMMEDIATE"), text("SET CONSTRAINTS ALL DEFERRED")

_LIMIT = text("SELECT set_config('statement_timeout', :milliseconds, true)")


class TimeIsUp(Exception):
    """The statements of a part have used up their time: no further one is begun."""


class Part:
    """What the statements of a part share: their connection, their time, and what there is to say
    of single entries.
    """

    connection: Connection  # that of its transaction, once it has begun

    def __init__(self, deadline: float) -> None:
        """`deadline` by the monotonic clock; the first statement sets `milliseconds` as the
        time-out of those that follow.
        """
        self.size: int | None = None  # entries; None until they are known
        self.defers = False  # whether any constraint is checked at COMMIT only
        self.details: dict[int, str] = {}  # what refused an entry, by its index in the part
        self._deadline, self._began = deadline, time.monotonic()
        self._limit = max(_SLACK, self.left)  # seconds: the time-out in force

    @property
    def left(self) -> float:
        """Seconds."""
        return self._deadline - time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds."""
        return time.monotonic() - self._began

    @property
    def milliseconds(self) -> str:
        """The time-out with which the transaction is to begin."""
        return _milliseconds(self._limit)

    @property
    def is_over(self) -> bool:
        """Whether the time is used up, or will be as soon as the clocks agree."""
        return self.left < _SLACK

    def execute(
        self, statement: Executable, values: dict[str, Any] | None = None
    ) -> CursorResult[*tuple[Any, ...]]:
        """Executes `statement` within what is left of the time. Raises TimeIsUp, DBAPIError."""
        left = self.left
        if left < _SLACK:
            raise TimeIsUp
        if self._limit - left > _SLACK:
            self._set_limit(left)
        return self.connection.execute(statement, values)

    def check_what_is_deferred(self, *, more: bool = False) -> None:
        """Has deferred constraints checked now, and from then on at once, unless there is `more` to
        be taken. Raises TimeIsUp, DBAPIError.
        """
        if self.defers:
            self.execute(_CHECK)
            if more:
                self.execute(_CHECK_LATE)

    def allow_to_finish(self) -> None:
        """Leaves time to write down what is done, however little there is."""
        if self.left < FINISH_SECONDS:
            self._set_limit(FINISH_SECONDS)

    def _set_limit(self, seconds: float) -> None:
        self._limit = seconds
        self.connection.execute(_LIMIT, {"milliseconds": _milliseconds(seconds)})


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
