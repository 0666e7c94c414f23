"""Submits a job: drafts its row, writes it with its chunks in one statement, sends word to the
workers, and answers.

One statement is one transaction and one round trip. It inserts nothing unless the campaign is the
company's, and it may be sent again with the same job id after a lost connection: what is there
already is not inserted twice.
"""

import asyncio
import json
from datetime import datetime
from typing import Any

import structlog
from anyio import to_thread
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request

from api.database import LIMITS, rows
from api.http.answers import Accepted, Answer, Forbidden, success
from api.http.callback_urls import check_host
from api.http.request import Caller, preferred_wait, services_of
from api.jobs.entries import Identifiers, Texts, cut, find_duplicates, read_again
from api.jobs.idempotency import KEYED, in_progress, replayed
from api.jobs.options import OPTIONS, Schedule
from api.jobs.submission import Submission
from api.jobs.waiting import results_in_time
from shared.broker.sender import JOBS_QUEUE, OFF_PEAK_QUEUE
from shared.database.arrays import smallint_array, text_array
from shared.database.plans import BY_INDEX, squeezed
from shared.identifiers.canonical import FORM
from shared.identifiers.phone_regions import is_region
from shared.settings import Settings
from shared.states import JobState, Outcome
from shared.windows import Window, next_opening, parse_window, window_text

log = structlog.get_logger()

# The state of a new job: scheduled, if its time is yet to come.
STATE = """
    CASE WHEN CAST(:run_at AS timestamptz) > clock_timestamp() THEN 'scheduled' ELSE 'queued' END
        AS state, CAST(:run_at AS timestamptz) AS run_at
"""


def inserted_job(*, follows: bool) -> str:
    """The part of a statement that writes the row of a job, of what `go` selects from `subject`.

    A job that `follows` another has `source_id` as a parameter, and finds in `subject` what it
    inherits: its form and some of OPTIONS. Nothing is written where there is one already.
    """
    options = {
        option.column: option.column if follows and option.is_inherited else f":{option.column}"
        for option in OPTIONS
    }
    options["schedule"] = "CAST(:schedule AS jsonb)"
    form, source = ("form", "CAST(:source_id AS uuid)") if follows else (":form", "NULL")
    return f"""
        INSERT INTO jobs (id, company_id, campaign_id, key_id, queue, state, form, source_job_id,
            run_window, total, created_at, run_at, closes_at, awaited, history,
            {", ".join(options)})
        SELECT job_id, company_id, campaign_id, CAST(:key_id AS uuid), :queue, state, {form},
            {source}, :run_window, {"total" if follows else ":total"}, now, run_at,
            CAST(:closes_at AS timestamptz), :wait > 0, jsonb_build_array(
                jsonb_build_object('status', state, 'at', now, 'by', CAST(:key_name AS text))
            ), {", ".join(options.values())}
        FROM go
        ON CONFLICT {"" if follows else "(id)"} DO NOTHING
        RETURNING id, state, total, created_at, run_at
    """


# Stands first in a statement that submits. It writes nothing unless the campaign is the company's
# and the Idempotency-Key is free. Nor does it where the caller named no region, and the entries
# were read as in another region than the campaign's, which must be looked up then.
JOB = f"""
    {LIMITS},
    subject AS MATERIALIZED (
        SELECT CAST(:job_id AS uuid) AS job_id, id AS campaign_id, company_id,
            clock_timestamp() AS now, {STATE}
        FROM campaigns WHERE id = :campaign_id AND company_id = :company_id AND {BY_INDEX}
            AND (:region_named OR phone_region IS NOT DISTINCT FROM CAST(:phone_region AS text))
    ),
    {KEYED},
    job AS ({inserted_job(follows=False)})
"""

# Where this statement is sent again after a lost connection, and the first one is committed only
# while this one runs, this one sees no job: `created_at` is `now` then.
_SUBMIT = squeezed(f"""
    WITH {JOB},
    entries (external_ids, phone_numbers, written_external_ids, written_phone_numbers, outcomes)
        AS MATERIALIZED (
            SELECT CAST(:external_ids AS text[]), CAST(:phone_numbers AS text[]),
                CAST(:written_external_ids AS text[]), CAST(:written_phone_numbers AS text[]),
                CAST(:outcomes AS smallint[])
        ),
    cut AS (
        INSERT INTO chunks (job_id, number, first_index, external_ids, phone_numbers,
            written_external_ids, written_phone_numbers, outcomes, not_found)
        SELECT job.id, part.number - 1, part.first_index, external_ids[first_index + 1:end_index],
            phone_numbers[first_index + 1:end_index],
            written_external_ids[first_index + 1:end_index],
            written_phone_numbers[first_index + 1:end_index], outcomes[first_index + 1:end_index],
            part.duplicates
        FROM job CROSS JOIN entries CROSS JOIN unnest(
            CAST(:first_indexes AS int[]), CAST(:end_indexes AS int[]), CAST(:duplicates AS int[])
        ) WITH ORDINALITY AS part (first_index, end_index, duplicates, number)
    )
    SELECT state, run_at,
        coalesce(
            (SELECT created_at FROM job), (SELECT created_at FROM jobs WHERE id = job_id),
            CASE WHEN CAST(:idempotency_key AS text) IS NULL THEN now END
        ) AS created_at
    FROM subject
""")

_REGION = text(f"""
    SELECT phone_region FROM campaigns
    WHERE id = :campaign_id AND company_id = :company_id AND {BY_INDEX}
""")

_OFF_PEAK = text(f"""
    SELECT off_peak, clock_timestamp() AS now FROM campaigns
    WHERE id = :campaign_id AND company_id = :company_id AND {BY_INDEX}
""")


async def submit(
    engine: AsyncEngine, settings: Settings, caller: Caller, submission: Submission
) -> Accepted:
    """Writes the job, which is durable then, or finds the answer that the Idempotency-Key already
    had.

    Raises Forbidden, InvalidRequest for its callbackUrl, ApiError 409 and 422, DBAPIError.
    """
    options, entries = submission.options, submission.identifiers
    values = await draft(engine, settings, caller, submission.campaign_id, options)
    # The URL of a request that was accepted before is not checked again.
    if options["callback_url"] and not await replayed(engine, caller):
        await check_host("callbackUrl", options["callback_url"], settings.webhook_allow)
    values |= _chunks_of(entries, settings.chunk_size)
    written = await rows(engine, _SUBMIT, values, if_locked=in_progress)
    if not written and options["phone_region"] is None:
        # Most campaigns have no region, so that is tried first.
        region = await region_of(engine, caller.key.company_id, submission.campaign_id)
        entries = await to_thread.run_sync(read_again, entries, region)
        values |= {"phone_region": region, "region_named": True}
        values |= _chunks_of(entries, settings.chunk_size)
        written = await rows(engine, _SUBMIT, values, if_locked=in_progress)
    if not written:
        raise Forbidden
    job = written[0]
    if job.created_at is None:
        if earlier := await replayed(engine, caller):
            # A call's own job, where a connection broke after the commit, is not a replay.
            return earlier._replace(replayed=earlier.job_id != caller.job_id)
        raise in_progress()
    return Accepted(
        job_id=caller.job_id,
        state=job.state,
        total=values["total"],
        created_at=job.created_at,
        run_at=job.run_at,
        wait=caller.wait,
        queue=values["queue"],
    )


async def answer(
    request: Request, caller: Caller, accepted: Accepted, ended: asyncio.Event | None
) -> Answer:
    """202 with the job; or, where somebody waits and the job completes in time, 200 with its
    results. The answer is a function of what stands in the database, so a repeated POST gets the
    same one, whenever it comes.

    `ended` is set when there is news of the caller's own job; None where nobody waits for it.
    """
    services = services_of(request)
    if accepted.state == JobState.QUEUED and not accepted.replayed:
        services.sender.send(accepted.queue)
    if accepted.may_end_in_time:
        results = await results_in_time(request, caller, accepted, ended)
        if results:
            applied = preferred_wait(request) is not None
            headers = {"Preference-Applied": f"wait={accepted.wait}"} if applied else {}
            return success(results, headers=accepted.replay_header | headers)
    return accepted.answer()


async def draft(
    engine: AsyncEngine,
    settings: Settings,
    caller: Caller,
    campaign_id: str,
    options: dict[str, Any],
) -> dict[str, Any]:
    """The parameters of JOB but for `total`. Raises Forbidden for a campaign that the key may not
    see.
    """
    # PostgreSQL knows no U+0000, so no campaign has one in its name.
    if not caller.key.sees(campaign_id) or "\0" in campaign_id:
        raise Forbidden
    values = caller.values() | options
    values["campaign_id"] = campaign_id
    values["region_named"] = options["phone_region"] is not None
    values["form"] = FORM
    return values | await times(engine, settings, caller, campaign_id, options["schedule"])


async def region_of(engine: AsyncEngine, company_id: str, campaign_id: str) -> str | None:
    """The region of the campaign's phone numbers. Raises Forbidden where there is no such
    campaign.
    """
    place = {"campaign_id": campaign_id, "company_id": company_id}
    campaigns = await rows(engine, _REGION, place)
    if not campaigns:
        raise Forbidden
    region: str | None = campaigns[0].phone_region
    if region and not is_region(region):  # an operator may have written it by hand
        log.warning(
            "region of a campaign not understood",
            region=region,
            hint="set it with: leadsweep campaigns phone-region",
        )
        return None
    return region or None


async def times(
    engine: AsyncEngine,
    settings: Settings,
    caller: Caller,
    campaign_id: str,
    schedule: Schedule | None,
) -> dict[str, Any]:
    """When a job is to run, and in which queue: columns of its row. Raises Forbidden where there is
    no such campaign.
    """
    written = json.dumps(schedule.written) if schedule else None
    if schedule is None or schedule.run_at:
        run_at = schedule.run_at if schedule else None
        return _columns(written, JOBS_QUEUE, run_at=run_at)
    # Whether a window is open now is for the database's clock to say.
    place = {"campaign_id": campaign_id, "company_id": caller.key.company_id}
    campaigns = await rows(engine, _OFF_PEAK, place)
    if not campaigns:
        raise Forbidden
    campaign = campaigns[0]
    window = schedule.window or _own_window(campaign.off_peak) or settings.off_peak
    opening = next_opening(window, campaign.now)
    return _columns(
        written,
        OFF_PEAK_QUEUE,
        run_window=window_text(window),
        run_at=opening.opens,
        closes_at=opening.closes,
    )


def _own_window(written: str | None) -> Window | None:
    """The off-peak window of a campaign, which an operator may have written by hand."""
    try:
        return parse_window(written) if written else None
    except ValueError as error:
        log.warning(
            "window of a campaign not understood",
            error=str(error),
            hint="set it with: leadsweep campaigns off-peak",
        )
        return None


def _columns(
    schedule: str | None,
    queue: str,
    *,
    run_window: str | None = None,
    run_at: datetime | None = None,
    closes_at: datetime | None = None,
) -> dict[str, Any]:
    return {
        "schedule": schedule,
        "queue": queue,
        "run_window": run_window,
        "run_at": run_at,
        "closes_at": closes_at,
    }


def _chunks_of(entries: Identifiers, chunk_size: int) -> dict[str, Any]:
    """The parameters of _SUBMIT that say what its chunks hold."""
    external_ids, phone_numbers = entries.canonical_external_ids, entries.canonical_phone_numbers
    total = len(external_ids)
    duplicates = find_duplicates(external_ids, phone_numbers)
    cuts = cut(total, duplicates, chunk_size)
    return {
        "total": total,
        "external_ids": text_array(external_ids),
        "phone_numbers": text_array(phone_numbers),
        "written_external_ids": written_if_other(entries.external_ids, external_ids),
        "written_phone_numbers": written_if_other(entries.phone_numbers, phone_numbers),
        "outcomes": _outcomes(total, duplicates),
        "first_indexes": [part.first_index for part in cuts],
        "end_indexes": [part.end_index for part in cuts],
        "duplicates": [part.duplicates for part in cuts],
    }


def _outcomes(total: int, duplicates: set[int]) -> str:
    if not duplicates:
        return "{" + ",".join("0" * total) + "}"  # takes a seventh of the time
    return smallint_array(Outcome.DUPLICATE if i in duplicates else 0 for i in range(total))


def written_if_other(written: Texts, canonical: Texts) -> str | None:
    """What the caller wrote, as the array of a chunk; None where that is the canonical form."""
    return None if written is canonical or written == canonical else text_array(written)
