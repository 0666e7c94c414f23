"""Drafts the row of a job that is submitted, by a request or by a file: where it goes, how it is to
be done, and when.
"""

import json
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import LIMITS, rows
from api.http.errors import Forbidden
from api.jobs.idempotency import KEYED, Asked
from api.jobs.schedules import Schedule
from api.jobs.submission import Options
from shared.broker.sender import JOBS_QUEUE, OFF_PEAK_QUEUE
from shared.database.plans import BY_INDEX
from shared.identifiers.canonical import FORM
from shared.identifiers.phone_regions import is_region
from shared.settings import Settings
from shared.windows import Window, next_opening, parse_window, window_text

log = structlog.get_logger()

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

_REGION = text(
    f"SELECT phone_region FROM campaigns WHERE id = :campaign_id AND company_id = :company_id AND {BY_INDEX}"
)

_OFF_PEAK = text(f"""
    SELECT off_peak, clock_timestamp() AS now FROM campaigns
    WHERE id = :campaign_id AND company_id = :company_id AND {BY_INDEX}
""")


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
            hint="set it with: leadsweep campaigns phone-region",
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
            hint="set it with: leadsweep campaigns off-peak",
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
