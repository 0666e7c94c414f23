"""Goes around leads that the database refuses to change: an operator's constraint or trigger may
forbid it, which must not stop the other leads of the part.

Most errors say by their SQLSTATE whether they are about a lead. Others, such as an object in the
wrong state, are doubtful: an error is about the lead if other leads of the part can be changed, and
this one still cannot when it is tried again after them.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError

from shared.database.sqlstates import (
    culprit,
    is_cancelled,
    is_refusal,
    is_shortage,
    is_transient,
    sqlstate,
)
from worker.part import Part

Item = TypeVar("Item")
Row = Any
Do = Callable[[Sequence[Item]], Sequence[Row]]
Refused = Callable[[Sequence[Item], str], Sequence[Row]]
"""The rows of one item that was refused, and by what."""
Went = Callable[[Row], bool]
"""Whether a row says that something was changed."""


class Refusals:
    """What is refused in a part. `doubtful`: errors that may not be about a lead are looked into as
    well.
    """

    def __init__(self, part: Part, *, doubtful: bool) -> None:
        self._part, self._doubtful = part, doubtful
        self._doubt: DBAPIError | None = None
        self._went = False  # whether anything could be changed

    def around(
        self, items: Sequence[Item], do: Do[Item], refused: Refused[Item], went: Went
    ) -> list[Row]:
        """What `do` returns for `items`, which are halved until those that the database refuses
        stand alone; for these, what `refused` returns.

        Raises DBAPIError for an error that is not about a lead, TimeIsUp.
        """
        rows: list[Row] = []
        doubts: list[Sequence[Item]] = []

        def go(some: Sequence[Item]) -> None:
            error = self._try(some, do, rows)
            if error is None:
                return
            if len(some) > 1:
                middle = len(some) // 2
                go(some[:middle])
                go(some[middle:])
            elif is_refusal(error):
                rows.extend(refused(some, culprit(error)))
            else:
                doubts.append(some)

        go(items)
        for one in doubts:
            if error := self._try(one, do, rows):
                rows.extend(refused(one, culprit(error)))
                self._doubt = error
        self._went = self._went or any(map(went, rows))
        return rows

    def check(self, *, fails_alone: bool) -> None:
        """Raises the DBAPIError that every lead raised, which then is not about any of them; unless
        the chunk `fails_alone`.
        """
        if self._doubt and not self._went and not fails_alone:
            raise self._doubt

    def _try(self, some: Sequence[Item], do: Do[Item], rows: list[Row]) -> DBAPIError | None:
        try:
            with self._part.connection.begin_nested():
                done = do(some)
                self._part.check_what_is_deferred(more=True)
        except DBAPIError as error:
            if not (is_refusal(error) or (self._doubtful and self._is_doubtful(error))):
                raise
            return error
        rows.extend(done)
        return None

    def _is_doubtful(self, error: DBAPIError) -> bool:
        if sqlstate(error) is None or is_transient(error) or is_shortage(error):
            return False
        return not (is_cancelled(error) and self._part.is_over)
