"""Makes the body of a delivery from the job's row and chunks, which do not change once it has ended: so each attempt sends the
same bytes, and nothing that is to be purged lies anywhere else.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from shared.states import Event, Outcome
from worker.outbox import Claimed

MAX_BODY = 20_000  # bytes; above that the lists are left out

_SHORTEST = len('"1",')  # of an identifier in a list: what cannot fit is not read

# With the chunks of a job whose lists may fit.
_JOB = text("""
    SELECT id, campaign_id, client_reference, jobs.state, mode, dry_run, total, jobs.deleted, jobs.not_found, jobs.unprocessed,
        finished_at, outcomes, coalesce(written_external_ids, external_ids) AS external_ids,
        coalesce(written_phone_numbers, phone_numbers) AS phone_numbers
    FROM jobs LEFT JOIN chunks ON job_id = id AND (jobs.deleted + jobs.not_found) * :shortest < :most
    WHERE id = :job_id ORDER BY number
""")

_encode = msgspec.json.Encoder().encode


def compose(connection: Connection, claimed: Claimed) -> bytes:
    """The body of a delivery. Raises LookupError where its job has been removed meanwhile."""
    if claimed.job_id is None:
        content = {"webhookId": str(claimed.webhook_id)}
        return _encode({"type": Event.TEST, "timestamp": _time_text(claimed.created_at), "data": content})
    values = {"job_id": claimed.job_id, "shortest": _SHORTEST, "most": MAX_BODY}
    return _of_job(claimed.event, connection.execute(_JOB, values).all())


def _of_job(event: str, parts: Sequence[Any]) -> bytes:
    """Of a job with each of its chunks. Raises LookupError where there is none."""
    job = parts[0]
    content: dict[str, Any] = {
        "jobId": str(job.id),
        "campaignId": job.campaign_id,
        "clientReference": job.client_reference,
        "status": job.state,
        "mode": job.mode,
        "dryRun": job.dry_run,
        "total": job.total,
        "deleted": job.deleted,
        "notFound": job.not_found,
        "unprocessed": job.unprocessed,
        "statusUrl": f"/api/v1/jobs/{job.id}",
    }
    told = {"type": event, "timestamp": _time_text(job.finished_at)}
    if job.outcomes is not None:  # else they are too many, or purged
        body = _encode(told | {"data": content | _lists(parts)})
        if len(body) < MAX_BODY:
            return body
    return _encode(told | {"data": content | {"identifiersOmitted": True}})


def _lists(parts: Sequence[Any]) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {"deleted": [], "not_found": []}
    for part in parts:
        for external_id, phone_number, outcome in zip(part.external_ids, part.phone_numbers, part.outcomes, strict=True):
            if (counted := _COUNTED[outcome]) in lists:
                lists[counted].append(external_id or phone_number)
    return {"deletedIdentifiers": lists["deleted"], "notFoundIdentifiers": lists["not_found"]}


_COUNTED = {int(outcome): outcome.count for outcome in Outcome}


def _time_text(moment: datetime) -> str:
    """As the API writes it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
