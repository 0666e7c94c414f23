"""How a job looks at a terminal, and in a pipe."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from leadsweep.rules.printable import printable
from leadsweep.terminal.output import moment, say, show, width_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leadsweep import Job, Submitted

WIDTH = 100  # columns that every line of a list fits

# Counts that deserve a look; their entries are among the other counts as well.
_NOTED = {
    "erased_from_archive": "from archive",
    "lacks_plus": "lacking plus",
    "other_external_id": "other ids",
}
# The words of a job that archives.
_ARCHIVED = {"deleted": "archived", "would_delete": "would archive"}

_HEAD = ("JOB", "STATUS", "MODE", "TOTAL", "DONE", "CREATED UTC", "CAMPAIGN", "REFERENCE")
_NUMBERS = {3, 4}  # the columns that are aligned to the right
_RECENT = timedelta(days=180)  # times within this span are printed without their year


def show_job(job: "Job", *, as_json: bool) -> None:
    """Prints the job: in the API's form, or one fact on each line."""
    if as_json:
        show(_as_the_api_has_it(job), "", as_json=True)
        return
    facts = {
        "job": job.job_id,
        "status": job.status + (f", {job.requested} requested" if job.requested else ""),
        "campaign": job.campaign_id,
        "reference": job.client_reference,
        "mode": ("preview of " if job.dry_run else "") + job.mode,
        "phone region": job.phone_region,
        "pace": f"{job.max_leads_per_second:,}/s" if job.max_leads_per_second else None,
        "total": f"{job.total:,}",
        "pending": f"{job.total - job.processed:,}" if job.processed < job.total else None,
        **{words: f"{count:,}" for words, count in _counts(job).items()},
        **{words: f"{count:,}" for name, words in _NOTED.items() if (count := getattr(job, name))},
        "waits": _waits(job),
        "error": job.error,
        "created": moment(job.created_at),
        "runs at": moment(job.run_at),
        "started": moment(job.started_at),
        "finished": moment(job.finished_at),
    }
    shown = {name: fact for name, fact in facts.items() if fact is not None}
    width = max(12, *map(len, shown))
    for name, fact in shown.items():
        say(f"{name:<{width}} {fact}")


def show_new_job(job: "Submitted", *, as_json: bool) -> None:
    """Prints the id of a job that was just accepted, or with its status and total as JSON."""
    result = {"jobId": job.job_id, "status": job.status, "total": job.total}
    show(result, job.job_id, as_json=as_json)


def _waits(job: "Job") -> str | None:
    if (waiting := job.waiting_for) is None:
        return None
    return waiting.detail + (f", since {moment(waiting.since)}" if waiting.since else "")


def _counts(job: "Job") -> dict[str, int]:
    """The counts of the job that are not 0, under their names in its mode."""
    archived = _ARCHIVED if job.mode == "archive" else {}
    counts = {}
    for field in job.__struct_fields__:
        name = field.removesuffix("_identifiers")  # each count has a list of identifiers
        if name != field and getattr(job, name):
            counts[archived.get(name, name.replace("_", " "))] = getattr(job, name)
    return counts


def show_jobs(jobs: "Sequence[Job]", *, as_json: bool) -> None:
    """Prints a list of jobs."""
    if as_json:
        show({"items": [_as_the_api_has_it(job) for job in jobs]}, "", as_json=True)
        return
    for line in listed(jobs, datetime.now(UTC)):
        say(line)


def listed(jobs: "Sequence[Job]", now: datetime) -> list[str]:
    """The lines of a list. Ids are never cut, so that they can be copied; campaign and reference
    share the rest of the line.
    """
    rows = [_HEAD, *(_row_of(job, now) for job in jobs)]
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    *others, campaign, reference = widths
    room = WIDTH - sum(others) - len(others) - 1  # with one blank between two columns; 9 at least
    if campaign + reference > room:
        campaign = min(campaign, max(room // 2, room - reference))
        reference = room - campaign
    widths = [*others, campaign, reference]
    return [
        " ".join(_fitted(*cell) for cell in zip(row, widths, range(len(row)), strict=True)).rstrip()
        for row in rows
    ]


def _row_of(job: "Job", now: datetime) -> tuple[str, ...]:
    mode = job.mode
    if job.dry_run:
        mode = "preview-arch" if mode == "archive" else "preview"
    # A job has only one of these, by its mode.
    done = job.deleted + job.would_delete + job.restored
    created = job.created_at.astimezone(UTC)
    when = f"{created:%m-%d %H:%M}" if abs(now - created) < _RECENT else f"{created:%Y-%m-%d}"
    cells = (
        job.job_id,
        job.status,
        mode,
        _short(job.total),
        _short(done),
        when,
        job.campaign_id,
        job.client_reference or "",
    )
    return tuple(map(printable, cells))


def _short(count: int) -> str:
    """The count; from a million on without its last digits. It is never rounded up, so that a part
    does not look like the whole.
    """
    return f"{count:,}" if count < 1_000_000 else f"{count // 10_000 / 100:.2f}M"  # noqa: PLR2004


def _fitted(cell: str, width: int, column: int) -> str:
    """`cell` in `width` columns: filled with blanks, or cut."""
    if width_of(cell) > width:
        cell = cell[:width]
        while cell and width_of(cell) >= width:
            cell = cell[:-1]
        cell += "…"
    blanks = " " * (width - width_of(cell))
    return blanks + cell if column in _NUMBERS else cell + blanks


def _as_the_api_has_it(job: "Job") -> dict[str, Any]:
    """The fields of the job, without lists that the API left out."""
    import msgspec

    fields = msgspec.to_builtins(job, builtin_types=(datetime,))
    return {
        name: value
        for name, value in fields.items()
        if value is not None or not name.endswith("Identifiers")
    }


def summary(job: "Job") -> str:
    """`completed: 7 deleted, 3 not found, of 10`."""
    counts = [f"{count:,} {words}" for words, count in _counts(job).items()]
    return f"{job.status}: {', '.join(counts) or 'nothing done'}, of {job.total:,}"
