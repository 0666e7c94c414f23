"""`leadsweep results`: what became of each entry, as CSV, as NDJSON or as a list of identifiers.

A list has one identifier on each line. `submit --by` takes it, and it must mean the same there;
where it would not, no list is printed.
"""

import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from leadsweep.commands.server import EXIT_CODES, server
from leadsweep.models import OUTCOMES
from leadsweep.rules.printable import printable, printable_json
from leadsweep.terminal import options
from leadsweep.terminal.failure import Failure
from leadsweep.terminal.output import remark
from leadsweep.terminal.progress import counted, progress
from leadsweep.terminal.signals import stop_by_signals

if TYPE_CHECKING:
    from leadsweep import Job, Result

_BY_SUFFIX = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".txt": "identifiers"}
_RESULTS_AT_A_TIME = 1000  # that are written
_CSV_HEAD = (
    b"index,externalId,phoneNumber,identifier,outcome,matchedBy,reason,erasedFromArchive,detail\r\n"
)
_BYTES_AT_A_TIME = 1 << 16  # of a list that is read
_WAY_OUT = "CSV has both, and can be submitted as it is: --format csv"


def _in_a_folder(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
    if value and not value.resolve().parent.is_dir():
        raise click.BadParameter(f"there is no folder {value.parent}")
    return value


@click.command(epilog=EXIT_CODES)
@click.argument("job_id", metavar="JOB", type=options.Word())
@click.option("--outcome", type=click.Choice(OUTCOMES), help="Only entries with this outcome.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True, writable=True),
    callback=_in_a_folder,
    help="Write to this file, which appears only once it is complete.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "ndjson", "identifiers"]),
    help="identifiers is a list for submit --by: one on each line, all of one kind."
    "  [default: by the name of the output, else csv]",
)
@click.option(
    "--raw",
    is_flag=True,
    help="Leave out the quote that CSV has before what a spreadsheet would take for a formula, such"
    " as +1555….",
)
def results(
    job_id: str, outcome: str | None, output: Path | None, form: str | None, *, raw: bool
) -> None:
    """Print what became of each entry, in the order of the request, also while the job runs.

    CSV is safe to open in a spreadsheet: a quote stands before what it would take for a formula.
    With that quote or without, what is printed can be submitted again with the job's options, and
    means the same.

    A list of identifiers has either externalIds or phone numbers. Where such a list would lose
    something, the command refuses before it prints anything: where some entries have one kind and
    some the other, or where an entry has both (unless the job had --no-phone-fallback). CSV keeps
    both. Entries without any identifier are left out.
    """
    if output == Path("-"):
        output = None
    chosen = form or (_BY_SUFFIX.get(output.suffix.lower(), "csv") if output else "csv")
    if raw and chosen != "csv":
        raise click.UsageError("--raw is for CSV; the other formats have no such quotes")
    to_terminal = _is_terminal(output)
    cell = printable if to_terminal else str  # a file or a pipe gets the text unchanged
    with server() as leadsweep, progress(is_wanted=not to_terminal) as show_progress:
        job = leadsweep.job(job_id)
        entries = counted(
            leadsweep.results(job_id, outcome=outcome),
            show_progress,
            "reading",
            _count_of(job, outcome),
            "entries",
        )
        if chosen == "identifiers":
            parts = _identifier_list(entries, cell, phone_fallback=job.phone_fallback is not False)
        elif chosen == "csv":
            parts = _lines(entries, partial(_as_csv, raw=raw, cell=cell))
        else:
            parts = _lines(entries, partial(_as_ndjson, to_terminal=to_terminal))
        # A list may be refused here, before anything is written.
        first = list(itertools.islice(parts, 1))
        head = [_CSV_HEAD] if chosen == "csv" else []
        with _opened(output) as file:
            for part in itertools.chain(head, first, parts):
                file.write(part)
    if output:
        remark(f"written: {output}")


def _is_terminal(output: Path | None) -> bool:
    """Whether a person sees what is written."""
    if output is None:
        return bool(sys.stdout) and sys.stdout.isatty()
    if not output.is_char_device():
        return False
    with output.open("wb") as device:
        return device.isatty()


def _count_of(job: "Job", outcome: str | None) -> int:
    """How many entries of the job have this outcome by now."""
    if outcome is None:
        return job.total
    if outcome == "pending":
        return job.total - job.processed
    counts = {"archived": job.deleted, "wouldDelete": job.would_delete, "notFound": job.not_found}
    return counts[outcome] if outcome in counts else int(getattr(job, outcome))


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Stdout, or a file that gets its name only once it is complete. A pipe or a device is written
    to directly.
    """
    if output is None:
        if not sys.__stdout__:  # sys.stdout leads to nothing then
            raise Failure("stdout is closed", "name a file: -o FILE")
        yield sys.stdout.buffer
        return
    if output.exists() and not output.is_file():
        with output.open("wb") as device:
            yield device
        return
    stop_by_signals()
    complete = output.resolve()  # where a link leads
    unfinished = complete.with_name(f".{complete.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(complete)
    finally:
        unfinished.unlink(missing_ok=True)


def _lines(
    results: Iterable["Result"], write: Callable[[list["Result"]], bytes]
) -> Iterator[bytes]:
    source = iter(results)
    while batch := list(itertools.islice(source, _RESULTS_AT_A_TIME)):
        yield write(batch)


def _as_csv(batch: list["Result"], *, raw: bool, cell: Callable[[str], str]) -> bytes:
    import csv
    import io

    from leadsweep.rules.files.spreadsheets import guarded, raw_safe

    def safe(text: str | None) -> str | None:
        written = raw_safe(text) if raw else guarded(text)
        return written and cell(written)

    lines = io.StringIO()
    csv.writer(lines).writerows(
        (
            r.index,
            safe(r.external_id),
            safe(r.phone_number),
            safe(r.identifier),
            safe(r.outcome),
            safe(r.matched_by),
            safe(r.reason),
            str(r.erased_from_archive).lower(),
            safe(r.detail),
        )
        for r in batch
    )
    return lines.getvalue().encode()


def _as_ndjson(batch: list["Result"], *, to_terminal: bool) -> bytes:
    import msgspec

    lines = msgspec.json.Encoder().encode_lines(batch)
    return printable_json(lines.decode()).encode() if to_terminal else lines


def _identifier_list(
    results: Iterable["Result"], cell: Callable[[str], str], *, phone_fallback: bool
) -> Iterator[bytes]:
    """The list in parts. The first comes once all results have been read and nothing would be lost;
    until then the list is kept on disk. Each identifier is written by `cell`.

    With `phone_fallback` an entry with an externalId may be looked up by its phone number too,
    which a list would lose. Raises Failure where it would lose something.
    """
    kind = None
    with tempfile.TemporaryFile() as file:
        for result in results:
            if not result.identifier:  # an invalid entry
                continue
            if result.external_id and result.phone_number and phone_fallback:
                wrong = f"entry {result.index} has an externalId and a phone number"
                raise Failure(f"{wrong}, and a list would lose one of them", _WAY_OUT)
            its_kind = "externalId" if result.external_id else "phoneNumber"
            if its_kind != (kind := kind or its_kind):
                raise Failure(
                    "some entries have an externalId, others only a phone number, "
                    "and a list has only one kind",
                    _WAY_OUT,
                )
            if not _is_a_line(result.identifier, kind):
                raise Failure(
                    f"the {kind} of entry {result.index} would mean something else in a list",
                    _WAY_OUT,
                )
            file.write(f"{cell(result.identifier)}\n".encode())
        if kind:
            remark(f"to send them back: leadsweep submit FILE --by {kind}")
        file.seek(0)
        while part := file.read(_BYTES_AT_A_TIME):
            yield part


def _is_a_line(identifier: str, kind: str) -> bool:
    """Whether the identifier, read back from a line, means the same."""
    from leadsweep.rules.identifiers import canonical

    same = canonical.canonical_external_id
    if kind == "phoneNumber":
        same = canonical.canonical_phone_number
    read = identifier.removeprefix("\ufeff").strip()
    return "\n" not in read and same(read) == same(identifier)
