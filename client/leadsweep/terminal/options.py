"""The options and argument types that several commands share.

Kept free of heavy imports: every command module reads this one at start-up.
"""

import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from leadsweep.terminal.failure import Failure

if TYPE_CHECKING:
    from leadsweep.rules.identifiers.columns import Naming

MAX_WORD = 255  # code points, as for identifiers of leads
_LONGEST = timedelta(days=36500)
_DURATION = re.compile(r"(\d{1,9})([mhdw])")
_REGION = re.compile("[A-Z]{2}")
_UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}

Command = Callable[..., Any]


class Word(click.ParamType[str]):
    """An id or a name: printable, at most 255 characters, without space at its ends; an id may not
    be empty.
    """

    name = "text"

    def __init__(self, *, may_be_empty: bool = False) -> None:
        """`may_be_empty` is for names."""
        self.may_be_empty = may_be_empty

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """`value` itself, or a usage error."""
        text = str(value)
        if not text and not self.may_be_empty:
            self.fail("must not be empty", param, ctx)
        if len(text) > MAX_WORD:
            self.fail(f"must not be longer than {MAX_WORD} characters", param, ctx)
        if not text.isprintable() or text != text.strip():
            self.fail("must be printable, without space before or after it", param, ctx)
        return text


FILE = click.Path(exists=True, dir_okay=False, allow_dash=True)  # that is read; `-` is stdin


def check_stdin() -> None:
    """Raises Failure where stdin is closed, and so cannot be read."""
    if not sys.stdin:
        raise Failure("stdin is closed", "name a file")


class OpenFile(click.File):
    """A file that is opened to be read in bytes; `-` is stdin."""

    def __init__(self) -> None:
        """The mode is always the same."""
        super().__init__("rb")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The file. Raises Failure."""
        if value == "-":
            check_stdin()
        return super().convert(value, param, ctx)


class Printable(click.ParamType[str]):
    """A text that can be sent in a header: printable ASCII, at most 255 characters."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """`value` itself, or a usage error."""
        text = str(value)
        if not (text.isascii() and text.isprintable() and 0 < len(text) <= MAX_WORD):
            self.fail(f"must be 1 to {MAX_WORD} printable ASCII characters", param, ctx)
        return text


class Expiry(click.ParamType[datetime | timedelta]):
    """When a key ends: a time (ISO 8601; UTC if it names no zone) or how long from now (30m, 12h,
    90d, 4w).
    """

    name = "time or duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime | timedelta:
        """A time with its zone, or a duration of at most 100 years; anything else is a usage
        error.
        """
        if isinstance(value, datetime | timedelta):
            return value
        if duration := _DURATION.fullmatch(value):
            count, unit = int(duration[1]), _UNITS[duration[2]]
            if not 1 <= count <= _LONGEST // unit:
                self.fail("must be a duration between 1m and 36500d", param, ctx)
            return count * unit
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                "write a time, such as 2030-01-31T12:00:00Z, or a duration: 30m, 12h, 90d or 4w",
                param,
                ctx,
            )
        if not 1970 < moment.year < 9999:  # noqa: PLR2004 - what neither side can shift by a time zone
            self.fail("must be a year between 1971 and 9998", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Past(Expiry):
    """A time, as for Expiry, or how long ago it was."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """A time with its zone; anything else is a usage error."""
        when = super().convert(value, param, ctx)
        return datetime.now(UTC) - when if isinstance(when, timedelta) else when


def checked_window(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """The callback of an argument that takes a window such as `22:00-06:00 mon-sun Europe/Berlin`;
    gives its usual form.
    """
    from leadsweep.rules.windows import parse_window, window_text

    if value is None:
        return None
    try:
        return window_text(parse_window(value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _checked_region(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Checks the form only: the server knows which codes there are."""
    if value is not None and not _REGION.fullmatch(value):
        raise click.BadParameter("write an ISO 3166 country code, such as DE")
    return value


def phone_region(command: Command) -> Command:
    """Adds `--phone-region`."""
    return click.option(
        "--phone-region",
        metavar="CODE",
        callback=_checked_region,
        help="Read phone numbers without a + as those of this country, such as DE."
        "  [default: the campaign's]",
    )(command)


def campaign(help_text: str, *, required: bool) -> Callable[[Command], Command]:
    """Adds `--campaign`, as `campaign_id`."""
    return click.option(
        "--campaign",
        "campaign_id",
        required=required,
        metavar="ID",
        type=Word(),
        help=help_text,
    )


def form(command: Command) -> Command:
    """Adds `--format`, as `form`."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(["csv", "ndjson"]),
        help="What FILE is.  [default: by its name, else by its first character]",
    )(command)


def limit(command: Command) -> Command:
    """Adds `--limit`."""
    return click.option(
        "--limit",
        type=click.IntRange(1),
        default=20,
        show_default=True,
        help="Show no more than so many.",
    )(command)


def _read_columns(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """Reads `externalId=CRM ID`, and returns the identifier of each column."""
    columns: dict[str, str] = {}
    for value in values:
        identifier, _, column = value.partition("=")
        if identifier not in {"externalId", "phoneNumber"} or not column.strip():
            raise click.BadParameter("write it as externalId=COLUMN or phoneNumber=COLUMN")
        if identifier in columns.values() or column in columns:
            raise click.BadParameter(
                "name one column for each identifier, and one identifier for each column"
            )
        columns[column] = identifier
    return columns


def naming(command: Command) -> Command:
    """Adds `--column` and `--ignore`, for `naming_of`."""
    command = click.option(
        "--ignore",
        "ignored",
        multiple=True,
        metavar="NAME",
        help="A column (or key) that looks like an identifier but is not one.",
    )(command)
    return click.option(
        "--column",
        "columns",
        multiple=True,
        metavar="externalId=NAME",
        callback=_read_columns,
        help="The column of the CSV (or key of the NDJSON) that holds the externalId; likewise"
        " phoneNumber=NAME.",
    )(command)


def naming_of(columns: dict[str, str], ignored: tuple[str, ...]) -> "Naming":
    """The naming that the options of `naming` ask for. Raises UsageError."""
    from leadsweep.rules.identifiers.columns import Naming

    if not columns.keys().isdisjoint(ignored):
        raise click.UsageError("--column and --ignore name the same column")
    return Naming(
        columns, frozenset(ignored), '--column {identifier}="{name}"', '--ignore "{name}"'
    )


def schedule(command: Command) -> Command:
    """Adds `--run-at`, `--off-peak` and `--window`, for `schedule_of`."""
    command = click.option(
        "--window",
        metavar="WINDOW",
        callback=checked_window,
        help="Run the job within this window, such as '22:00-06:00 mon-fri Europe/Berlin'.",
    )(command)
    command = click.option(
        "--off-peak", is_flag=True, help="Run the job within the campaign's off-peak window."
    )(command)
    return click.option(
        "--run-at",
        metavar="TIME",
        help="Run the job at this time or later, such as 2030-01-31T22:00:00+01:00.",
    )(command)


def schedule_of(run_at: str | None, window: str | None, *, off_peak: bool) -> dict[str, Any] | None:
    """The schedule that the options of `schedule` ask for, in the API's form. Raises UsageError."""
    schedules: list[dict[str, Any]] = []
    if run_at:
        schedules.append({"runAt": run_at})
    if off_peak:
        schedules.append({"offPeak": True})
    if window:
        schedules.append({"window": _window(window)})
    if len(schedules) > 1:
        raise click.UsageError("give only one of --run-at, --off-peak and --window")
    return schedules[0] if schedules else None


def _window(written: str) -> dict[str, Any]:
    """The window in the API's form."""
    from leadsweep.rules.windows import DAY_NAMES, parse_window

    window = parse_window(written)
    start, _, end = written.partition(" ")[0].partition("-")
    return {
        "start": start,
        "end": end,
        "timeZone": window.zone,
        "days": [DAY_NAMES[day] for day in sorted(window.days)],
    }


def as_json(command: Command) -> Command:
    """Adds `--json`: the result as one JSON object on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(
        command
    )


def check_waiting(timeout: float | None, *, wait: bool, fail_on_not_found: bool) -> None:
    """Raises UsageError for options of `waiting` that have no meaning without `--wait`."""
    if not wait and (timeout is not None or fail_on_not_found):
        raise click.UsageError("--timeout and --fail-on-not-found need --wait")


def waiting(command: Command) -> Command:
    """Adds `--timeout` and `--fail-on-not-found`."""
    command = click.option(
        "--fail-on-not-found", is_flag=True, help="Exit code 3 if leads were not found."
    )(command)
    return click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="Stop waiting after so many seconds; the job goes on.",
    )(command)
