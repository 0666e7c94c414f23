"""Makes the jobs that follow a finished one, which itself stays as it is: retry, execute and
restore.

Each is made once: whoever asks again gets the same job. Its entries are copied within the database,
in one statement.
"""

from typing import NamedTuple
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import LIMITS, rows
from api.http.answers import Accepted, ApiError, Forbidden
from api.http.request import Caller
from api.jobs.idempotency import KEYED, in_progress, replayed
from api.jobs.options import OPTIONS, Schedule, is_same, parse_schedule
from api.jobs.status import SEEN, seen
from api.jobs.submit import STATE, inserted_job, times
from shared.database.arrays import smallint_array
from shared.database.plans import BY_INDEX, squeezed
from shared.settings import Settings
from shared.states import POSSIBLE_IN, Action, JobState, Mode, Outcome, outcomes_of

COPY_TIMEOUT = 60.0  # seconds; a million entries are copied in some two

_SOURCE = text(f"""
    SELECT state, jobs.campaign_id, mode, dry_run, identifiers_purged_at IS NOT NULL AS purged,
        finished_at > clock_timestamp() - interval '24 h' AS is_fresh,
        finished_at > clock_timestamp() - CAST(:archive_days AS int) * interval '1 day'
            AND archive_purged_at IS NULL AS is_kept,
        campaigns.id IS NOT NULL AS has_campaign
    FROM jobs LEFT JOIN campaigns
        ON campaigns.id = jobs.campaign_id AND campaigns.company_id = jobs.company_id
    WHERE {SEEN}
""")

_FOLLOWING = text(f"""
    SELECT id, state, total, created_at, run_at, schedule FROM jobs
    WHERE source_job_id = :source_id AND mode = :mode AND {BY_INDEX}
""")

# The entries that are to go into the new job, by chunk: `part` says which belong together.
_OF_CHUNKS = f"""
    SELECT number AS part, position, external_id, phone_number, written_external_id,
        written_phone_number, lead_id, lead_external_id, lead_phone_number
    FROM chunks CROSS JOIN unnest(external_ids, phone_numbers,
        coalesce(written_external_ids, external_ids),
        coalesce(written_phone_numbers, phone_numbers),
        outcomes, lead_ids, lead_external_ids, lead_phone_numbers
    ) WITH ORDINALITY AS entry (external_id, phone_number, written_external_id,
        written_phone_number, outcome, lead_id, lead_external_id, lead_phone_number, position)
    WHERE job_id = :source_id AND outcome = ANY(CAST(:outcomes AS smallint[])) AND {BY_INDEX}
"""
# A copy that was erased since is listed too: its row is still there.
_OF_ARCHIVE = f"""
    SELECT (row_number() OVER (ORDER BY lead_id) - 1) / CAST(:chunk_size AS int) AS part,
        lead_id AS position, lead ->> 'external_id' AS external_id,
        lead ->> 'phone_number' AS phone_number, lead ->> 'external_id' AS written_external_id,
        lead ->> 'phone_number' AS written_phone_number,
        lead_id, NULL AS lead_external_id, NULL AS lead_phone_number
    FROM archived_leads WHERE job_id = :source_id AND {BY_INDEX}
"""


def _following(entries: str) -> TextClause:
    """The statement that makes a job of the `entries` of another, in chunks of its own. A chunk has
    no `lead_ids` where no lead is known: its entries are looked up.
    """
    inherited = ", ".join(option.column for option in OPTIONS if option.is_inherited)
    return squeezed(f"""
        WITH picked AS ({entries}),
        parts AS MATERIALIZED (
            SELECT (row_number() OVER by_part) - 1 AS number,
                sum(count(*)) OVER by_part - count(*) AS first_index, count(*) AS entries,
                array_agg(external_id ORDER BY position) AS external_ids,
                array_agg(phone_number ORDER BY position) AS phone_numbers,
                nullif(
                    array_agg(written_external_id ORDER BY position),
                    array_agg(external_id ORDER BY position)
                ) AS written_external_ids,
                nullif(
                    array_agg(written_phone_number ORDER BY position),
                    array_agg(phone_number ORDER BY position)
                ) AS written_phone_numbers,
                CASE WHEN count(lead_id) > 0 THEN array_agg(lead_id ORDER BY position) END
                    AS lead_ids,
                CASE WHEN count(lead_id) > 0 THEN array_agg(lead_external_id ORDER BY position) END
                    AS lead_external_ids,
                CASE WHEN count(lead_id) > 0 THEN array_agg(lead_phone_number ORDER BY position) END
                    AS lead_phone_numbers
            FROM picked GROUP BY part WINDOW by_part AS (ORDER BY part)
        ),
        subject AS MATERIALIZED (
            SELECT CAST(:job_id AS uuid) AS job_id, company_id, campaign_id, form, {inherited},
                {STATE}, clock_timestamp() AS now, (SELECT sum(entries) FROM parts) AS total
            FROM jobs WHERE id = :source_id AND EXISTS (SELECT FROM parts)
        ),
        {LIMITS},
        {KEYED},
        job AS ({inserted_job(follows=True)}),
        cut AS (
            INSERT INTO chunks (job_id, number, first_index, external_ids, phone_numbers,
                written_external_ids, written_phone_numbers, outcomes, lead_ids, lead_external_ids,
                lead_phone_numbers)
            SELECT job.id, number, first_index, external_ids, phone_numbers, written_external_ids,
                written_phone_numbers,
                array_fill(0::smallint, ARRAY[cardinality(external_ids)]),
                lead_ids, lead_external_ids, lead_phone_numbers
            FROM job CROSS JOIN parts
        )
        SELECT state, total, created_at, run_at FROM job
    """)


_FOLLOW_CHUNKS = _following(_OF_CHUNKS)
_FOLLOW_ARCHIVE = _following(_OF_ARCHIVE)

_KEY_OF_EXISTING = text(f"""
    WITH {LIMITS},
    subject AS (
        SELECT id AS job_id, company_id, state, run_at FROM jobs
        WHERE id = :job_id AND company_id = :company_id AND {BY_INDEX}
    ),
    {KEYED}
    SELECT job_id FROM go
""")

_PICKED = {
    Action.RETRY: smallint_array(outcomes_of("unprocessed")),
    Action.EXECUTE: smallint_array(outcomes_of("wouldDelete")),
    Action.RESTORE: smallint_array([Outcome.PENDING]),  # none: its entries come from the archive
}


class _Source(NamedTuple):
    """The job that is to be followed."""

    state: str
    campaign_id: str
    mode: str
    dry_run: bool
    purged: bool
    is_fresh: bool
    is_kept: bool
    has_campaign: bool


async def follow(
    engine: AsyncEngine,
    settings: Settings,
    caller: Caller,
    source_id: UUID,
    action: Action,
    schedule: Schedule | None = None,
) -> Accepted:
    """The job that carries out `action` on a finished one: a new one, or the one that was made when
    it was first asked for.

    `schedule` says when a preview is executed. Whether the preview is fresh enough is decided now,
    and not when that time comes.

    Raises ApiError 404, 409 and 422, Forbidden, DBAPIError.
    """
    source = await _source(engine, caller, source_id, settings)
    if not source.has_campaign:
        raise Forbidden
    if earlier := await replayed(engine, caller):
        return earlier
    _check_possible(source, action)
    mode = Mode.RESTORE if action == Action.RESTORE else Mode(source.mode)
    if existing := await _existing(engine, caller, source_id, mode, schedule):
        return existing
    _check_not_too_late(source, action, settings)
    values = caller.values() | {
        "source_id": source_id,
        "mode": mode,
        "dry_run": source.dry_run and action == Action.RETRY,
        "outcomes": _PICKED[action],
        "chunk_size": settings.chunk_size,
    }
    values |= await times(engine, settings, caller, source.campaign_id, schedule)
    statement = _FOLLOW_ARCHIVE if action == Action.RESTORE else _FOLLOW_CHUNKS
    try:
        made = await rows(engine, statement, values, seconds=COPY_TIMEOUT, if_locked=in_progress)
    except IntegrityError:
        # Another call has made the job meanwhile, so this key refers to one that is not written.
        made = ()
    if made:
        job = made[0]
        return Accepted(
            job_id=caller.job_id,
            state=job.state,
            total=job.total,
            created_at=job.created_at,
            run_at=job.run_at,
            wait=caller.wait,
            queue=values["queue"],
        )
    # Another call was faster, or a connection broke after the job was made.
    again = await replayed(engine, caller)
    again = again or await _existing(engine, caller, source_id, mode, schedule)
    if again is None:
        raise ApiError(409, f"Cannot {action} this job: it has no leads to {action}")
    return again._replace(replayed=again.replayed and again.job_id != caller.job_id)


async def _source(
    engine: AsyncEngine, caller: Caller, source_id: UUID, settings: Settings
) -> _Source:
    job = await seen(engine, caller.key, source_id, _SOURCE, archive_days=settings.archive_days)
    return _Source(**job[0]._asdict())


async def _existing(
    engine: AsyncEngine, caller: Caller, source_id: UUID, mode: Mode, schedule: Schedule | None
) -> Accepted | None:
    """The job that follows already; the caller's key stands for it from now on. Raises ApiError 409
    for another schedule.
    """
    following = await rows(engine, _FOLLOWING, {"source_id": source_id, "mode": mode})
    if not following:
        return None
    job = following[0]
    if not is_same(schedule, parse_schedule(job.schedule)):
        raise ApiError(
            409, "Cannot execute this job: it is executed already, with another schedule"
        )
    if caller.idempotency:
        await rows(engine, _KEY_OF_EXISTING, caller.values() | {"job_id": job.id})
    return Accepted(job.id, job.state, job.total, job.created_at, job.run_at, caller.wait)


def _check_possible(source: _Source, action: Action) -> None:
    """Raises ApiError 409 that says why not."""
    if JobState(source.state) not in POSSIBLE_IN[action]:
        raise ApiError(409, f"Cannot {action} a job that is {source.state}")
    if action == Action.EXECUTE and not source.dry_run:
        raise ApiError(409, "Cannot execute this job: it is not a preview")
    if action == Action.RESTORE and (source.mode != Mode.ARCHIVE or source.dry_run):
        raise ApiError(409, "Cannot restore this job: it archived no leads")


def _check_not_too_late(source: _Source, action: Action, settings: Settings) -> None:
    """Raises ApiError 409 where what the new job needs is kept no longer."""
    if action == Action.EXECUTE and not source.is_fresh:
        raise ApiError(409, "Cannot execute this job: the preview is older than 24 hours")
    if action == Action.RESTORE and not source.is_kept:
        raise ApiError(
            409,
            f"Cannot restore this job: archived leads are kept for {settings.archive_days} days",
        )
    if action != Action.RESTORE and source.purged:
        raise ApiError(409, f"Cannot {action} this job: its identifiers have been purged")
