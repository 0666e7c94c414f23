"""What a submission can say of how its job is to be done: each option stands once in OPTIONS.

From that table come the JSON form and the query of a file, the row of a job and that of one which
follows it, the job's answer, and the description in /docs.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from api.http.answers import InvalidRequest
from api.http.callback_urls import checked_url
from api.http.fields import described
from api.http.request import MAX_TEXT, checked_text
from shared.destinations import MAX_URL
from shared.identifiers.phone_regions import REGIONS, is_region
from shared.printable import brief
from shared.states import Mode, PhoneFallback
from shared.windows import Window, make_window

MAX_RATE = 1_000_000  # leads a second; more than any database deletes

# Python takes anything for the T, even what PostgreSQL cannot store.
_ISO_8601 = re.compile(r"[0-9W-]+[T ][0-9:.,Z+-]+")
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
    """Whether both mean the same, however they are written. None means at once."""
    if one is None or other is None:
        return one is other
    return (one.run_at, one.window) == (other.run_at, other.window)


def parse_schedule(value: Any) -> Schedule | None:
    """The schedule, or None where there is none. Raises InvalidRequest."""
    if value is None:
        return None
    fields = _object(value, "schedule", _KINDS)
    if len(fields) != 1:
        raise InvalidRequest("schedule must have exactly one of runAt, offPeak, window")
    kind, written = next(iter(fields.items()))
    if kind == "runAt":
        return Schedule(fields, _run_at(written), None)
    if kind == "window":
        return Schedule(fields, None, _window(_object(written, "schedule.window", _WINDOW_FIELDS)))
    if written is not True:
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


def _checked_reference(value: Any) -> str:
    return checked_text("clientReference", value)


def _checked_phone_fallback(value: Any) -> PhoneFallback:
    for rule in PhoneFallback:
        if value is rule.written or value == rule == PhoneFallback.IF_UNIDENTIFIED:
            return rule
    raise InvalidRequest("phoneFallback must be true, false or onlyIfUnidentified")


def parse_region(value: Any) -> str | None:
    """The `phoneRegion`, None where none is named. Raises InvalidRequest."""
    if value is None:
        return None
    if not isinstance(value, str) or not is_region(value):
        raise InvalidRequest("phoneRegion must be an ISO 3166 country code, as DE")
    return value


def _checked_mode(value: Any) -> Mode:
    if value not in (Mode.DELETE, Mode.ARCHIVE):
        raise InvalidRequest("mode must be delete or archive")
    return Mode(value)


def _checked_dry_run(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest("dryRun must be a boolean")
    return value


def _checked_callback_url(value: Any) -> str:
    return checked_url("callbackUrl", value)


def parse_rate(value: Any) -> int | None:
    """The `maxLeadsPerSecond`, None for as fast as it goes. Raises InvalidRequest."""
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 1 <= value <= MAX_RATE or value % 1:
        raise InvalidRequest(f"maxLeadsPerSecond must be an integer from 1 to {MAX_RATE}")
    return int(value)  # to JSON, 5.0 is an integer too


def _flag_in_query(written: str) -> Any:
    return {"true": True, "false": False}.get(written, written)


def _number_in_query(written: str) -> Any:
    return int(written[:12]) if written.isascii() and written.isdecimal() else written


def _json_in_query(written: str) -> Any:
    try:
        return msgspec.json.decode(written)
    except (msgspec.MsgspecError, RecursionError):
        raise InvalidRequest("schedule must be an object") from None


class Option(NamedTuple):
    """`name` is its name in JSON, in the query, and in the job's answer; `column` is the job's.

    `checked` turns what JSON holds into what is stored, and raises InvalidRequest; `default` is
    stored where the caller says nothing. `in_query` turns the text of a parameter into what JSON
    would hold. `schema` describes the option as it is sent. `answer` is the type of its field in
    the job's answer, and `answered` turns what is stored into that. If it `is_inherited`, a job
    that follows another has the same.
    """

    name: str
    column: str
    checked: Callable[[Any], Any]
    schema: dict[str, Any]
    answer: Any
    default: Any = None
    in_query: Callable[[str], Any] = str
    answered: Callable[[Any], Any] = lambda stored: stored
    is_inherited: bool = True


OPTIONS = (
    Option(
        "clientReference",
        "client_reference",
        _checked_reference,
        {
            "type": ["string", "null"],
            "description": "Stored with the job, echoed, and a filter of the list",
            "maxLength": MAX_TEXT,
            "pattern": r"^[^\u0000]*$",
        },
        described(str | None, "As it was sent; removed with the job's identifiers"),
    ),
    Option(
        "phoneFallback",
        "phone_fallback_rule",
        _checked_phone_fallback,
        {
            "enum": [True, False, PhoneFallback.IF_UNIDENTIFIED, None],
            "default": True,
            "description": "Whether an entry whose `externalId` names no lead may take the one "
            "with its `phoneNumber`; with `onlyIfUnidentified`, phone numbers find only leads that "
            "have no `externalId` of their own",
        },
        described(Any, "As it was sent, or true", enum=[rule.written for rule in PhoneFallback]),
        default=PhoneFallback.ALWAYS,
        in_query=_flag_in_query,
        answered=lambda rule: PhoneFallback(rule).written,
    ),
    Option(
        "phoneRegion",
        "phone_region",
        parse_region,
        {
            "type": ["string", "null"],
            "description": "Country (ISO 3166) by whose rules phone numbers are read that begin "
            "without a `+`, if they are valid there; without it, the campaign's",
            "enum": [*REGIONS, None],
            "examples": ["DE"],
        },
        described(str | None, "As it was sent, or the campaign's"),
    ),
    Option(
        "mode",
        "mode",
        _checked_mode,
        {
            "type": ["string", "null"],
            "enum": [Mode.DELETE, Mode.ARCHIVE, None],
            "default": Mode.DELETE,
            "description": "`archive` keeps the leads for a while, so that the job can be restored",
        },
        described(str, "What it does with leads", enum=list(Mode)),
        default=Mode.DELETE,
        is_inherited=False,
    ),
    Option(
        "dryRun",
        "dry_run",
        _checked_dry_run,
        {
            "type": ["boolean", "null"],
            "default": False,
            "description": "A preview: says what would be deleted, changes nothing, and can be "
            "executed within 24 hours",
        },
        described(bool, "Whether it is a preview, which changes no lead"),
        default=False,
        in_query=_flag_in_query,
        is_inherited=False,
    ),
    Option(
        "schedule",
        "schedule",
        parse_schedule,
        {"anyOf": [{"$ref": "#/components/schemas/Schedule"}, {"type": "null"}]},
        described(
            Any,
            "As it was sent",
            anyOf=[{"$ref": "#/components/schemas/Schedule"}, {"type": "null"}],
        ),
        in_query=_json_in_query,
        is_inherited=False,
    ),
    Option(
        "callbackUrl",
        "callback_url",
        _checked_callback_url,
        {
            "type": ["string", "null"],
            "description": "Told when the job ends. Signed with the company's webhook secret",
            "maxLength": MAX_URL,
            "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[!-~]+$",
            "examples": ["https://example.com/hook"],
        },
        described(str | None, "As it was sent; a job that follows this one has the same"),
    ),
    Option(
        "maxLeadsPerSecond",
        "max_leads_per_second",
        parse_rate,
        {
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": MAX_RATE,
            "description": "The pace at which its leads are worked on, averaged over 10 seconds; "
            "without it, as fast as it goes",
        },
        described(int | None, "As it was sent, or changed to", minimum=0),
        in_query=_number_in_query,
    ),
)

NAMES = frozenset(option.name for option in OPTIONS)

DEFAULTS = {option.column: option.default for option in OPTIONS}


def options_in_query(query: Mapping[str, str]) -> dict[str, Any]:
    """The options among a query's parameters, as JSON would hold them. Raises InvalidRequest."""
    return {
        option.name: option.in_query(query[option.name])
        for option in OPTIONS
        if option.name in query
    }
