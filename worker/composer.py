"""Makes the body of a delivery from the job's row and chunks, which do not change once it has ended: so each attempt sends the
same bytes, and nothing that is to be purged lies anywhere else.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from shared.states import Event, Outcome

MAX_BODY = 20_000  # bytes; above that the lists are left out

_SHORTEST = len('"1",')  # of an identifier in a list: what cannot fit is not read

_DECIDED = text("""
    SELECT coalesce(written_external_ids, external_ids), coalesce(written_phone_numbers, phone_numbers), outcomes
    FROM chunks WHERE job_id = :job_id ORDER BY number
""")

_encode = msgspec.json.Encoder().encode


def compose_test(delivery: Any) -> bytes:
    """The body of a test. `delivery` has `webhook_id` and `created_at`."""
    content = {"webhookId": str(delivery.webhook_id)}
    return _encode({"type": Event.TEST, "timestamp": _time_text(delivery.created_at), "data": content})


def compose(connection: Connection, event: str, job: Any) -> bytes:
    """The body that tells of a job's end; `job` is its row."""
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
    if job.identifiers_purged_at is None and (job.deleted + job.not_found) * _SHORTEST < MAX_BODY:
        chunks = connection.execute(_DECIDED, {"job_id": job.id}).all()
        body = _encode(told | {"data": content | _lists(chunks)})
        if len(body) < MAX_BODY:
            return body
    return _encode(told | {"data": content | {"identifiersOmitted": True}})


def _lists(chunks: Sequence[Any]) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {"deleted": [], "not_found": []}
    for external_ids, phone_numbers, outcomes in chunks:
        for external_id, phone_number, outcome in zip(external_ids, phone_numbers, outcomes, strict=True):
            if (counted := _COUNTED[outcome]) in lists:
                lists[counted].append(external_id or phone_number)
    return {"deletedIdentifiers": lists["deleted"], "notFoundIdentifiers": lists["not_found"]}


_COUNTED = {int(outcome): outcome.count for outcome in Outcome}


def _time_text(moment: datetime) -> str:
    """As the API writes it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
