"""`leadsweep leads`: counting and listing them, and loading them from a file."""

import csv
import itertools
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, BinaryIO, TextIO

import click
from leadsweep.terminal import options
from leadsweep.terminal.output import minute, moment, remark, say, show, show_list

from cli.options import on_data_dir, phone_region

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leadsweep.terminal.output import Columns
    from sqlalchemy import RowMapping

    from cli.leads.importer import Rejection, Tally
    from cli.leads.reader import Format

_SHOWN = 20  # rejections that are printed at the terminal
_FORMAT_OF: dict[str, "Format"] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}


@click.group()
def leads() -> None:
    """Count, list and load the leads of a campaign."""


@leads.command()
@options.campaign("The campaign whose leads to count.", required=True)
@on_data_dir
@options.as_json
def count(campaign_id: str, data_dir: Path | None, *, as_json: bool) -> None:
    """Count the leads of a campaign."""
    from cli.accounts import registry
    from cli.connection import connected

    with connected(data_dir) as connection:
        number = registry.count_leads(connection, campaign_id)
    show({"count": number}, str(number), as_json=as_json)


@leads.command("list")
@options.campaign("The campaign whose leads to list.", required=True)
@options.limit
@on_data_dir
@options.as_json
def list_(campaign_id: str, limit: int, data_dir: Path | None, *, as_json: bool) -> None:
    """List leads of a campaign.

    Those with an externalId come first, sorted by it, then the others, sorted by phone number. With
    --json each lead has its metadata too.
    """
    from cli.accounts import registry
    from cli.connection import connected

    with connected(data_dir) as connection:
        rows = registry.list_leads(connection, campaign_id, limit + 1)
    if_none = f"no leads; load some: leadsweep leads import FILE --campaign {quote(campaign_id)}"
    show_list(rows[:limit], _described, _COLUMNS, if_none, as_json=as_json)
    if len(rows) > limit:
        remark("there are more; --limit N shows them")


_COLUMNS: "Columns" = {
    "ID": lambda row: row["id"],
    "EXTERNAL ID": lambda row: row["external_id"] or "",
    "PHONE NUMBER": lambda row: row["phone_number"] or "",
    "CREATED": lambda row: minute(row["created_at"]),
}


def _described(row: "RowMapping") -> dict[str, object]:
    return {
        "id": str(row["id"]),
        "externalId": row["external_id"],
        "phoneNumber": row["phone_number"],
        "metadata": row["metadata"],
        "createdAt": moment(row["created_at"]),
    }


@leads.command()
@on_data_dir
@options.as_json
def recanonicalise(data_dir: Path | None, *, as_json: bool) -> None:
    """Rewrite the identifiers of all leads in canonical form, after an upgrade that changed it.

    Runs beside everything else, a few thousand leads at a time; it may be stopped and run again. A
    lead whose new identifier another lead has already stays as it is, and `leadsweep doctor` lists
    it. Exit code 1 if there is such a lead.
    """
    from leadsweep.terminal.failure import if_cut_off

    from cli.connection import connected
    from cli.leads.recanonicaliser import Progress, recanonicalise

    progress = Progress(0, 0, [])
    with connected(data_dir) as connection:
        if_cut_off("what is changed stays changed; to do the rest, run it again")
        for progress in recanonicalise(connection):
            if sys.stderr.isatty():
                remark(
                    f"{progress.looked_at:,} leads looked at, {progress.changed:,} changed",
                    head="\r",
                    end="",
                )
    if sys.stderr.isatty() and progress.looked_at:
        remark("")
    result = {"leads": progress.looked_at, "changed": progress.changed, "left": len(progress.left)}
    text = f"changed {progress.changed:,} of {progress.looked_at:,} leads"
    if progress.left:
        text += f", {len(progress.left):,} could not be changed"
    show(result, text, as_json=as_json)
    if progress.left:
        remark("other leads have their new identifiers already; to see some: leadsweep doctor")
        raise click.exceptions.Exit(1)


@leads.command("import")
@click.argument("file", type=options.OpenFile())
@options.campaign("The campaign to which the leads are added.", required=True)
@options.form
@options.naming
@phone_region
@click.option(
    "--rejects",
    type=click.File("w", lazy=False),
    help="Write the line and the reason of each rejected row to this file, as CSV.",
)
@on_data_dir
@options.as_json
def import_(
    file: BinaryIO,
    campaign_id: str,
    form: "Format | None",
    columns: dict[str, str],
    ignored: tuple[str, ...],
    phone_region: str | None,
    rejects: TextIO | None,
    data_dir: Path | None,
    *,
    as_json: bool,
) -> None:
    """Load leads from FILE (- for stdin), CSV or NDJSON, in UTF-8.

    CSV begins with a header that has a column externalId, phoneNumber or both; the other columns
    become metadata, empty cells left out. NDJSON has one object on each line with externalId,
    phoneNumber or both. Its other keys become metadata, and so do those of an object `metadata`;
    where both have a key, the one outside `metadata` counts.

    A row is rejected, and listed with its line and the reason, if it is damaged, has no identifier,
    has a phone number that is not one, or has an identifier that an earlier row or a lead of the
    campaign already has. All other rows are imported, in one transaction: a run that is stopped or
    fails imports nothing.

    Exit code 0 if every row was imported, 1 if any was rejected or the run failed.
    """
    from leadsweep.terminal.progress import progress, watched

    from cli.accounts import registry
    from cli.connection import changing
    from cli.leads.importer import Rejection, import_leads, rejections
    from cli.leads.reader import read
    from shared.identifiers.columns import Naming
    from shared.identifiers.phone_regions import is_region

    began = time.monotonic()
    naming = Naming(*options.naming_of(columns, ignored))
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as report:
        found_by = f"leadsweep leads count --campaign {quote(campaign_id)}"
        with progress() as show_progress, changing(data_dir, found_by) as connection:
            registry.require_campaign(connection, campaign_id)
            region = phone_region or registry.phone_region(connection, campaign_id)
            if not is_region(region):
                region = None
            source = watched(file, show_progress, "reading", "preparing")
            rows = read(source, form or _format_of(file), naming, region)
            tally = import_leads(connection, campaign_id, rows, show_progress)
            if tally.rejected:
                csv.writer(report, lineterminator="\n").writerows(rejections(connection))
            if rejects:
                _write_rejects(report, rejects)
            show_progress("committing")
        report.seek(0)
        rejected = (Rejection(int(line), reason) for line, reason in csv.reader(report))
        if as_json:
            _print_json(tally, rejected)
        else:
            _print_text(tally, rejected, time.monotonic() - began)
    if tally.rejected:
        raise click.exceptions.Exit(1)


def _format_of(file: BinaryIO) -> "Format | None":
    """By the name of the file; None where that does not say it."""
    return _FORMAT_OF.get(Path(str(getattr(file, "name", ""))).suffix.lower())


def _write_rejects(report: TextIO, rejects: TextIO) -> None:
    """To be called before the commit: if the file cannot be written, nothing is imported."""
    report.seek(0)
    rejects.write("line,reason\n")
    shutil.copyfileobj(report, rejects)
    rejects.flush()


def _print_json(tally: "Tally", rejected: "Iterator[Rejection]") -> None:
    """Streams the rejections, of which there may be a million."""
    out = sys.stdout
    out.write(f'{{"imported": {tally.imported}, "rejected": {tally.rejected}, "rejections": [')
    for number, rejection in enumerate(rejected):
        out.write(", " * (number > 0) + json.dumps(rejection._asdict()))
    out.write("]}\n")


def _print_text(tally: "Tally", rejected: "Iterator[Rejection]", seconds: float) -> None:
    for rejection in itertools.islice(rejected, _SHOWN):
        remark(f"line {rejection.line}: {rejection.reason}")
    if tally.rejected > _SHOWN:
        remark(f"… and {tally.rejected - _SHOWN:,} more; --rejects FILE writes them all")
    counts = f"imported {tally.imported:,} of {sum(tally):,} rows, rejected {tally.rejected:,}"
    say(f"{counts}, in {seconds:.1f} s")
