"""Accepts a submission: finds its duplicates, cuts it into chunks, and writes job and chunks in one statement.

One statement is one transaction and one round trip. It inserts nothing unless the campaign is the company's, and it may be
sent again with the same job id after a lost connection: what is there already is not inserted twice.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.checker import check_host
from api.database import rows
from api.errors import Forbidden
from api.parser import Submission
from api.replayer import KEYED, Accepted, Asked, in_progress, is_in_progress, replayed
from api.scheduling import Schedule
from shared.arrays import smallint_array, text_array
from shared.broker import JOBS_QUEUE, OFF_PEAK_QUEUE
from shared.settings import Settings
from shared.states import Outcome
from shared.windows import Window, next_opening, parse_window, window_text

log = structlog.get_logger()

_ACCEPT = text(f"""
    WITH subject AS MATERIALIZED (
        SELECT CAST(:job_id AS uuid) AS job_id, id AS campaign_id, company_id, clock_timestamp() AS now,
            CASE WHEN CAST(:run_at AS timestamptz) > clock_timestamp() THEN 'scheduled' ELSE 'queued' END AS state,
            CAST(:run_at AS timestamptz) AS run_at
        FROM campaigns WHERE id = :campaign_id AND company_id = :company_id
    ),
    {KEYED},
    job AS (
        INSERT INTO jobs (id, company_id, campaign_id, key_id, queue, state, client_reference, phone_fallback, mode, dry_run,
            schedule, callback_url, run_window, total, created_at, run_at, closes_at, awaited, history)
        SELECT job_id, company_id, campaign_id, CAST(:key_id AS uuid), :queue, state, :client_reference, :phone_fallback,
            :mode, :dry_run, CAST(:schedule AS jsonb), :callback_url, :run_window, :total, now, run_at,
            CAST(:closes_at AS timestamptz), :wait > 0,
            jsonb_build_array(jsonb_build_object('status', state, 'at', now, 'by', CAST(:key_name AS text)))
        FROM go
        ON CONFLICT (id) DO NOTHING
        RETURNING id, created_at
    ),
    entries (external_ids, phone_numbers, written_external_ids, written_phone_numbers, outcomes) AS MATERIALIZED (
        SELECT CAST(:external_ids AS text[]), CAST(:phone_numbers AS text[]), CAST(:written_external_ids AS text[]),
            CAST(:written_phone_numbers AS text[]), CAST(:outcomes AS smallint[])
    ),
    cut AS (
        INSERT INTO chunks (job_id, number, first_index, external_ids, phone_numbers,
            written_external_ids, written_phone_numbers, outcomes, not_found)
        SELECT job.id, part.number - 1, part.first_index, external_ids[first_index + 1:end_index],
            phone_numbers[first_index + 1:end_index], written_external_ids[first_index + 1:end_index],
            written_phone_numbers[first_index + 1:end_index], outcomes[first_index + 1:end_index], part.duplicates
        FROM job CROSS JOIN entries CROSS JOIN unnest(
            CAST(:first_indexes AS int[]), CAST(:end_indexes AS int[]), CAST(:duplicates AS int[])
        ) WITH ORDINALITY AS part (first_index, end_index, duplicates, number)
    )
    SELECT state, run_at, coalesce((SELECT created_at FROM job), (SELECT created_at FROM jobs WHERE id = job_id),
        -- where the lost connection's statement is committed while this one runs:
        CASE WHEN CAST(:idempotency_key AS text) IS NULL THEN now END) AS created_at
    FROM subject
""")

_OFF_PEAK = text("""
    SELECT off_peak, clock_timestamp() AS now FROM campaigns WHERE id = :campaign_id AND company_id = :company_id
""")


class Cut(NamedTuple):
    """A chunk of a submission: entries from `first_index` up to, not including, `end_index`."""

    first_index: int
    end_index: int
    duplicates: int


async def accept(engine: AsyncEngine, settings: Settings, asked: Asked, submission: Submission) -> Accepted:
    """Writes the job, which is durable then, or finds the answer that the Idempotency-Key already had.

    Raises Forbidden, InvalidRequest for its callbackUrl, ApiError 409 and 422, DBAPIError.
    """
    # PostgreSQL knows no U+0000, so no campaign has one in its name.
    if not asked.key.sees(submission.campaign_id) or "\0" in submission.campaign_id:
        raise Forbidden
    if submission.callback_url and not await replayed(engine, asked):  # what was accepted once is not looked at again
        await check_host("callbackUrl", submission.callback_url, settings.webhook_allow)
    values = asked.values() | _values(submission, settings.chunk_size) | await _times(engine, settings, asked, submission)
    try:
        written = await rows(engine, _ACCEPT, values)
    except DBAPIError as error:
        if is_in_progress(error):
            raise in_progress() from None
        raise
    if not written:
        raise Forbidden
    state, run_at, created_at = written[0]
    if created_at is None:
        if earlier := await replayed(engine, asked):
            # Its own job, where a connection broke after the commit, is no replay.
            return earlier._replace(replayed=earlier.job_id != asked.job_id)
        raise in_progress()
    return Accepted(asked.job_id, state, values["total"], created_at, run_at, asked.wait, queue=values["queue"])


async def _times(engine: AsyncEngine, settings: Settings, asked: Asked, submission: Submission) -> dict[str, Any]:
    """When the job is to run, and in which queue. Raises Forbidden where there is no such campaign."""
    schedule = submission.schedule
    if schedule is None or schedule.run_at:
        return _columns(schedule, JOBS_QUEUE, None, schedule and schedule.run_at, None)
    # Whether a window is open now is for the database's clock to say.
    place = {"campaign_id": submission.campaign_id, "company_id": asked.key.company_id}
    found = await rows(engine, _OFF_PEAK, place)
    if not found:
        raise Forbidden
    window = schedule.window or _campaigns_own(found[0].off_peak) or settings.off_peak
    opening = next_opening(window, found[0].now)
    return _columns(schedule, OFF_PEAK_QUEUE, window_text(window), opening.opens, opening.closes)


def _campaigns_own(written: str | None) -> Window | None:
    """The off-peak window of a campaign, which an operator may have written by hand."""
    try:
        return parse_window(written) if written else None
    except ValueError as error:
        log.warning("window of a campaign not understood", error=str(error), mend="set it with: leadsweep campaigns off-peak")
        return None


def _columns(
    schedule: Schedule | None, queue: str, window: str | None, run_at: datetime | None, closes_at: datetime | None
) -> dict[str, Any]:
    written = json.dumps(schedule.written) if schedule else None
    return {"schedule": written, "queue": queue, "run_window": window, "run_at": run_at, "closes_at": closes_at}


def _values(submission: Submission, chunk_size: int) -> dict[str, Any]:
    external_ids, phone_numbers = submission.canonical_external_ids, submission.canonical_phone_numbers
    duplicates = find_duplicates(external_ids, phone_numbers)
    cuts = cut(len(external_ids), duplicates, chunk_size)
    return {
        "campaign_id": submission.campaign_id,
        "client_reference": submission.client_reference,
        "phone_fallback": submission.phone_fallback,
        "mode": submission.mode,
        "dry_run": submission.dry_run,
        "callback_url": submission.callback_url,
        "total": len(external_ids),
        "external_ids": text_array(external_ids),
        "phone_numbers": text_array(phone_numbers),
        "written_external_ids": _if_other(submission.external_ids, external_ids),
        "written_phone_numbers": _if_other(submission.phone_numbers, phone_numbers),
        "outcomes": smallint_array(Outcome.DUPLICATE if i in duplicates else 0 for i in range(len(external_ids)))
        if duplicates
        else "{" + ",".join("0" * len(external_ids)) + "}",
        "first_indexes": [c.first_index for c in cuts],
        "end_indexes": [c.end_index for c in cuts],
        "duplicates": [c.duplicates for c in cuts],
    }


def _if_other(written: Sequence[str | None], canonical: Sequence[str | None]) -> str | None:
    return None if written is canonical else text_array(written)


def find_duplicates(external_ids: Sequence[str | None], phone_numbers: Sequence[str | None]) -> set[int]:
    """The indexes of entries that repeat an earlier entry's external id or, having none, an earlier such entry's number."""
    lone_numbers = [None if external_id else number for external_id, number in zip(external_ids, phone_numbers, strict=True)]
    return _repeated(external_ids) | _repeated(lone_numbers)


def _repeated(texts: Sequence[str | None]) -> set[int]:
    present = [identifier for identifier in texts if identifier is not None]
    if len(set(present)) == len(present):
        return set()
    seen: set[str] = set()
    repeated = set()
    for index, identifier in enumerate(texts):
        if identifier in seen:
            repeated.add(index)
        elif identifier is not None:
            seen.add(identifier)
    return repeated


def cut(total: int, duplicates: set[int], chunk_size: int) -> list[Cut]:
    """Chunks of up to `chunk_size` entries besides duplicates, in request order; each begins with one that is none."""
    starts = (
        [index for index in range(total) if index not in duplicates][::chunk_size] if duplicates else range(0, total, chunk_size)
    )
    ends = [*starts[1:], total]
    return [Cut(start, end, sum(start <= index < end for index in duplicates)) for start, end in zip(starts, ends, strict=True)]
