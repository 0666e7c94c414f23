"""Reads the `schedule` of a submission: at a time, in the server's off-peak window, or in a window
of the caller's own.
"""

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from api.http.answers import InvalidRequest
from shared.printable import brief
from shared.windows import Window, make_window

_ISO_8601 = re.compile(
    r"[0-9W-]+[T ][0-9:.,Z+-]+"
)  # Python takes anything for the T, even what PostgreSQL cannot store
_KINDS = ("runAt", "offPeak", "window")
_WINDOW_FIELDS = ("start", "end", "timeZone", "days")


class Schedule(NamedTuple):
    """When a job is to run: from `run_at` on, or only within `window`, or, with neither, in the
    off-peak window.
    """

    written: dict[str, Any]
    run_at: datetime | None
    window: Window | None

    @property
    def off_peak(self) -> bool:
        """Whether the window is the server's, or the campaign's."""
        return self.run_at is None and self.window is None


def is_same(one: Schedule | None, other: Schedule | None) -> bool:
    """Whether both mean the same, however they are written; None is at once."""
    return (one and one[1:]) == (other and other[1:])


def parse_schedule(value: Any) -> Schedule | None:
    """The schedule, or None where there is none. Raises InvalidRequest."""
    if value is None:
        return None
    fields = _object(value, "schedule", _KINDS)
    if len(fields) != 1:
        raise InvalidRequest("schedule must have exactly one of runAt, offPeak, window")
    kind, wanted = next(iter(fields.items()))
    if kind == "runAt":
        return Schedule(fields, _run_at(wanted), None)
    if kind == "window":
        return Schedule(fields, None, _window(_object(wanted, "schedule.window", _WINDOW_FIELDS)))
    if wanted is not True:
        raise InvalidRequest("schedule.offPeak must be true")
    return Schedule(fields, None, None)


def _object(value: Any, name: str, known: tuple[str, ...]) -> dict[str, Any]:
    """`value` without its nulls, which count as missing."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be an object")
    for field in value:
        if field not in known:
            raise InvalidRequest(f"Unknown field: {name}.{brief(field)}")
    return {field: part for field, part in value.items() if part is not None}


def parse_moment(written: Any) -> datetime | None:
    """A time as ISO 8601 has it, with an offset; None for anything else."""
    if isinstance(written, str) and _ISO_8601.fullmatch(written):
        with suppress(ValueError, OverflowError):
            moment = datetime.fromisoformat(written)
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
    return None


def _run_at(written: Any) -> datetime:
    if moment := parse_moment(written):
        return moment
    raise InvalidRequest(
        "schedule.runAt must be an ISO 8601 time with an offset, as 2026-01-31T22:00:00+01:00"
    )


def _window(fields: dict[str, Any]) -> Window:
    start, end, zone, days = (
        fields.get(name, default)
        for name, default in zip(_WINDOW_FIELDS, ("", "", "UTC", []), strict=True)
    )
    if not isinstance(days, list):
        raise InvalidRequest("schedule.window.days must be an array")
    try:
        return make_window(start, end, zone, days)
    except ValueError as error:
        raise InvalidRequest(f"schedule.window.{error}") from None
