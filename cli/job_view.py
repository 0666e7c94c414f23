"""How a job looks at a terminal, and in a pipe."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from cli.output import moment, printable, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from client import Job

_COUNTS = {
    "deleted": "deleted",
    "would_delete": "would delete",
    "restored": "restored",
    "conflict": "conflict",
    "not_found": "not found",
    "unprocessed": "unprocessed",
    "invalid": "invalid",
}


_HEAD = ("JOB", "STATUS", "CAMPAIGN", "TOTAL", "DELETED", "NOT FOUND", "CREATED", "REFERENCE")
_ALIGN = (str.ljust, str.ljust, str.ljust, str.rjust, str.rjust, str.rjust, str.ljust, str.ljust)


def show_job(job: "Job", *, as_json: bool) -> None:
    """Prints the job: as the API has it, or a fact a line."""
    if as_json:
        show(_as_the_api_has_it(job), "", as_json=True)
        return
    facts = {
        "job": job.job_id,
        "status": job.status + (f", {job.requested} requested" if job.requested else ""),
        "campaign": job.campaign_id,
        "reference": job.client_reference,
        "mode": ("preview of " if job.dry_run else "") + job.mode,
        "pace": f"{job.max_leads_per_second:,}/s" if job.max_leads_per_second else None,
        "total": f"{job.total:,}",
        "pending": f"{job.total - job.processed:,}" if job.processed < job.total else None,
        **{words: f"{getattr(job, name):,}" for name, words in _COUNTS.items() if getattr(job, name)},
        "error": job.error,
        "created": moment(job.created_at),
        "runs at": moment(job.run_at),
        "started": moment(job.started_at),
        "finished": moment(job.finished_at),
    }
    for name, fact in facts.items():
        if fact is not None:
            click.echo(f"{name:<12} {printable(fact)}")


def show_jobs(jobs: "Sequence[Job]", *, as_json: bool) -> None:
    """Prints a list of jobs. Ids are never cut, as they are there to be copied."""
    if as_json:
        show({"items": [_as_the_api_has_it(job) for job in jobs]}, "", as_json=True)
        return
    rows = [_HEAD, *map(_row_of, jobs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        aligned = (align(cell, width) for align, cell, width in zip(_ALIGN, row, widths, strict=True))
        click.echo("  ".join(aligned).rstrip())


def _row_of(job: "Job") -> tuple[str, ...]:
    counts = (f"{count:,}" for count in (job.total, job.deleted, job.not_found))
    words = (job.campaign_id, *counts, moment(job.created_at) or "", job.client_reference or "")
    return (job.job_id, job.status, *map(printable, words))


def _as_the_api_has_it(job: "Job") -> dict[str, Any]:
    """But for the lists that it leaves out."""
    import msgspec

    found = msgspec.to_builtins(job, builtin_types=(datetime,))
    return {name: fact for name, fact in found.items() if fact is not None or not name.endswith("Identifiers")}


def summary(job: "Job") -> str:
    """`completed: 7 of 10 deleted, 3 not found`."""
    counts = [f"{getattr(job, name):,} {words}" for name, words in _COUNTS.items() if getattr(job, name)]
    return f"{job.status}: {', '.join(counts) or 'nothing done'}, of {job.total:,}"
