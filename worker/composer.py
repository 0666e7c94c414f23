"""Makes the body of a delivery from the job's row and chunks, which do not change once it has
ended: so each attempt sends the same bytes, and nothing that is to be purged lies anywhere else.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from shared.database.arrays import smallint_array
from shared.states import Event, Outcome
from worker.outbox import Claimed

MAX_BODY = 20_000  # bytes; above that the lists are left out

_SHORTEST_IDENTIFIER = len('"1",')  # bytes, in a list: what cannot fit is not read

# With the lists of a job, where they may fit: of millions of entries only those that would be
# listed are fetched.
_JOB = text("""
    SELECT id, campaign_id, client_reference, state, mode, dry_run, total, deleted, not_found,
        unprocessed, finished_at,
        identifiers_purged_at IS NULL AND (deleted + not_found) * :shortest < :longest AS may_fit,
        lists.deleted_identifiers, lists.not_found_identifiers
    FROM jobs CROSS JOIN LATERAL (
        SELECT
            array_agg(identifier ORDER BY number, position)
                FILTER (WHERE NOT is_missing) AS deleted_identifiers,
            array_agg(identifier ORDER BY number, position)
                FILTER (WHERE is_missing) AS not_found_identifiers
        FROM (
            SELECT number, position, coalesce(external_id, phone_number) AS identifier,
                outcome = ANY(CAST(:not_found AS smallint[])) AS is_missing
            FROM chunks CROSS JOIN unnest(
                coalesce(written_external_ids, external_ids),
                coalesce(written_phone_numbers, phone_numbers),
                outcomes
            ) WITH ORDINALITY AS entry (external_id, phone_number, outcome, position)
            WHERE job_id = jobs.id AND (jobs.deleted + jobs.not_found) * :shortest < :longest
                AND chunks.deleted + chunks.not_found > 0
                AND outcome = ANY(CAST(:listed AS smallint[]))
        ) AS entry
    ) AS lists
    WHERE id = :job_id
""")

_NOT_FOUND = [outcome for outcome in Outcome if outcome.count == "not_found"]
_LISTED = [outcome for outcome in Outcome if outcome.count in {"deleted", "not_found"}]

_encode = msgspec.json.Encoder().encode


def compose(connection: Connection, claimed: Claimed) -> bytes:
    """The body of a delivery. Raises LookupError where its job has been removed meanwhile."""
    if claimed.job_id is None:
        content = {"webhookId": str(claimed.webhook_id)}
        return _encode(
            {"type": Event.TEST, "timestamp": _time_text(claimed.created_at), "data": content}
        )
    values = {"job_id": claimed.job_id, "shortest": _SHORTEST_IDENTIFIER, "longest": MAX_BODY}
    values |= {"not_found": smallint_array(_NOT_FOUND), "listed": smallint_array(_LISTED)}
    job = connection.execute(_JOB, values).one_or_none()
    if job is None:
        raise LookupError(claimed.job_id)
    return _of_job(claimed.event, job)


def _of_job(event: str, job: Any) -> bytes:
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
    if job.may_fit:
        lists = {
            "deletedIdentifiers": job.deleted_identifiers or [],
            "notFoundIdentifiers": job.not_found_identifiers or [],
        }
        body = _encode(told | {"data": content | lists})
        if len(body) < MAX_BODY:
            return body
    return _encode(told | {"data": content | {"identifiersOmitted": True}})


def _time_text(moment: datetime) -> str:
    """As the API writes it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
