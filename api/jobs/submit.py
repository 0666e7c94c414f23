"""Accepts a submission: finds its duplicates, cuts it into chunks, and writes job and chunks in one
statement.

One statement is one transaction and one round trip. It inserts nothing unless the campaign is the
company's, and it may be sent again with the same job id after a lost connection: what is there
already is not inserted twice.
"""

import json
from datetime import datetime
from typing import Any

import structlog
from anyio import to_thread
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.http.callback_urls import check_host
from api.database import LIMITS, rows
from api.http.answers import Forbidden
from api.jobs.entries import Identifiers, Texts, cut, find_duplicates, read_again
from api.jobs.idempotency import KEYED, Accepted, Asked, in_progress, is_in_progress, replayed
from api.jobs.schedules import Schedule
from api.jobs.submission import Options, Submission
from shared.broker.sender import JOBS_QUEUE, OFF_PEAK_QUEUE
from shared.database.arrays import smallint_array, text_array
from shared.database.plans import BY_INDEX
from shared.identifiers.canonical import FORM
from shared.identifiers.phone_regions import is_region
from shared.settings import Settings
from shared.states import Outcome
from shared.windows import Window, next_opening, parse_window, window_text

# Of a new job, by its time.
STATE = """CASE WHEN CAST(:run_at AS timestamptz) > clock_timestamp() THEN 'scheduled' ELSE 'queued' END AS state,
            CAST(:run_at AS timestamptz) AS run_at"""

# What stands first in a statement that submits: nothing comes of it unless the campaign is the
# company's and the key is free, nor where the entries were read as in another region than the
# campaign's, which is to be looked up then.
JOB = f"""
    {LIMITS},
    subject AS MATERIALIZED (
        SELECT CAST(:job_id AS uuid) AS job_id, id AS campaign_id, company_id, clock_timestamp() AS now,
            {STATE}
        FROM campaigns WHERE id = :campaign_id AND company_id = :company_id AND {BY_INDEX}
            AND (:region_named OR phone_region IS NOT DISTINCT FROM CAST(:phone_region AS text))
    ),
    {KEYED},
    job AS (
        INSERT INTO jobs (id, company_id, campaign_id, key_id, queue, state, client_reference, phone_fallback_rule,
            phone_region, form, mode, dry_run, schedule, callback_url, max_leads_per_second, run_window, total, created_at,
            run_at, closes_at, awaited, history)
        SELECT job_id, company_id, campaign_id, CAST(:key_id AS uuid), :queue, state, :client_reference, :phone_fallback_rule,
            :phone_region, :form, :mode, :dry_run, CAST(:schedule AS jsonb), :callback_url, :max_leads_per_second,
            :run_window, :total, now, run_at,
            CAST(:closes_at AS timestamptz), :wait > 0,
            jsonb_build_array(jsonb_build_object('status', state, 'at', now, 'by', CAST(:key_name AS text)))
        FROM go
        ON CONFLICT (id) DO NOTHING
        RETURNING id, created_at
    )
"""

_ACCEPT = text(f"""
    WITH {JOB.strip()},
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

_REGION = text(
    f"SELECT phone_region FROM campaigns WHERE id = :campaign_id AND company_id = :company_id AND {BY_INDEX}"
)

_OFF_PEAK = text(f"""
    SELECT off_peak, clock_timestamp() AS now FROM campaigns
    WHERE id = :campaign_id AND company_id = :company_id AND {BY_INDEX}
""")


async def accept(
    engine: AsyncEngine, settings: Settings, asked: Asked, submission: Submission
) -> Accepted:
    """Writes the job, which is durable then, or finds the answer that the Idempotency-Key already
    had.

    Raises Forbidden, InvalidRequest for its callbackUrl, ApiError 409 and 422, DBAPIError.
    """
    options, entries = submission.options, submission.identifiers
    values = await draft(engine, settings, asked, submission.campaign_id, options) | _values(
        entries, settings.chunk_size
    )
    if options.callback_url and not await replayed(
        engine, asked
    ):  # what was accepted once is not looked at again
        await check_host("callbackUrl", options.callback_url, settings.webhook_allow)
    try:
        written = await rows(engine, _ACCEPT, values)
        if not written and options.phone_region is None:
            # Most campaigns have no region, so that is tried first.
            region = await region_of(engine, asked.key.company_id, submission.campaign_id)
            entries = await to_thread.run_sync(read_again, entries, region)
            values |= {"phone_region": region, "region_named": True} | _values(
                entries, settings.chunk_size
            )
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
    return Accepted(
        asked.job_id, state, values["total"], created_at, run_at, asked.wait, queue=values["queue"]
    )


def _values(entries: Identifiers, chunk_size: int) -> dict[str, Any]:
    external_ids, phone_numbers = entries.canonical_external_ids, entries.canonical_phone_numbers
    duplicates = find_duplicates(external_ids, phone_numbers)
    cuts = cut(len(external_ids), duplicates, chunk_size)
    return {
        "total": len(external_ids),
        "external_ids": text_array(external_ids),
        "phone_numbers": text_array(phone_numbers),
        "written_external_ids": written_if_other(entries.external_ids, external_ids),
        "written_phone_numbers": written_if_other(entries.phone_numbers, phone_numbers),
        "outcomes": smallint_array(
            Outcome.DUPLICATE if i in duplicates else 0 for i in range(len(external_ids))
        )
        if duplicates
        else "{" + ",".join("0" * len(external_ids)) + "}",
        "first_indexes": [c.first_index for c in cuts],
        "end_indexes": [c.end_index for c in cuts],
        "duplicates": [c.duplicates for c in cuts],
    }


def written_if_other(written: Texts, canonical: Texts) -> str | None:
    """What the caller wrote, as the array of a chunk; None where that is the canonical form."""
    return None if written is canonical or written == canonical else text_array(written)


log = structlog.get_logger()


async def draft(
    engine: AsyncEngine, settings: Settings, asked: Asked, campaign_id: str, options: Options
) -> dict[str, Any]:
    """The parameters of JOB but for `total`. Raises Forbidden for a campaign that the key may not
    see.
    """
    # PostgreSQL knows no U+0000, so no campaign has one in its name.
    if not asked.key.sees(campaign_id) or "\0" in campaign_id:
        raise Forbidden
    return (
        asked.values()
        | {
            "campaign_id": campaign_id,
            "client_reference": options.client_reference,
            "phone_fallback_rule": options.phone_fallback,
            "phone_region": options.phone_region,
            "region_named": options.phone_region is not None,
            "form": FORM,
            "mode": options.mode,
            "dry_run": options.dry_run,
            "callback_url": options.callback_url,
            "max_leads_per_second": options.max_leads_per_second,
        }
        | await times(engine, settings, asked.key.company_id, campaign_id, options.schedule)
    )


async def region_of(engine: AsyncEngine, company_id: str, campaign_id: str) -> str | None:
    """The region of the campaign's phone numbers. Raises Forbidden where there is no such
    campaign.
    """
    found = await rows(engine, _REGION, {"campaign_id": campaign_id, "company_id": company_id})
    if not found:
        raise Forbidden
    region = found[0].phone_region
    if region and not is_region(region):  # an operator may have written it by hand
        log.warning(
            "region of a campaign not understood",
            region=region,
            mend="set it with: leadsweep campaigns phone-region",
        )
        return None
    return region and str(region)


async def times(
    engine: AsyncEngine,
    settings: Settings,
    company_id: str,
    campaign_id: str,
    schedule: Schedule | None,
) -> dict[str, Any]:
    """When a job is to run, and in which queue: columns of its row. Raises Forbidden where there is
    no such campaign.
    """
    if schedule is None or schedule.run_at:
        return _columns(schedule, JOBS_QUEUE, None, schedule and schedule.run_at, None)
    # Whether a window is open now is for the database's clock to say.
    found = await rows(engine, _OFF_PEAK, {"campaign_id": campaign_id, "company_id": company_id})
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
        log.warning(
            "window of a campaign not understood",
            error=str(error),
            mend="set it with: leadsweep campaigns off-peak",
        )
        return None


def _columns(
    schedule: Schedule | None,
    queue: str,
    window: str | None,
    run_at: datetime | None,
    closes_at: datetime | None,
) -> dict[str, Any]:
    written = json.dumps(schedule.written) if schedule else None
    return {
        "schedule": written,
        "queue": queue,
        "run_window": window,
        "run_at": run_at,
        "closes_at": closes_at,
    }
