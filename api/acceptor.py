"""Accepts a submission: finds its duplicates, cuts it into chunks, and writes job and chunks in one statement.

One statement is one transaction and one round trip. It inserts nothing unless the campaign is the company's, and it may be
sent again with the same job id after a lost connection: what is there already is not inserted twice.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.authenticator import Key
from api.database import rows
from api.errors import Forbidden
from api.parser import Submission
from shared.arrays import smallint_array, text_array
from shared.states import Outcome

_ACCEPT = text("""
    WITH job AS (
        INSERT INTO jobs (id, company_id, campaign_id, key_id, client_reference, phone_fallback, total)
        SELECT CAST(:job_id AS uuid), company_id, id, CAST(:key_id AS uuid), :client_reference, :phone_fallback, :total
        FROM campaigns WHERE id = :campaign_id AND company_id = :company_id
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
    SELECT coalesce((SELECT created_at FROM job), (SELECT created_at FROM jobs WHERE id = CAST(:job_id AS uuid)),
        clock_timestamp()) AS created_at -- the last where the lost connection's statement is committed while this one runs
    FROM campaigns WHERE id = :campaign_id AND company_id = :company_id
""")


class Cut(NamedTuple):
    """A chunk of a submission: entries from `first_index` up to, not including, `end_index`."""

    first_index: int
    end_index: int
    duplicates: int


async def accept(engine: AsyncEngine, key: Key, submission: Submission, job_id: UUID, chunk_size: int) -> datetime:
    """Writes the job; returns when it was created. It is durable then. Raises Forbidden, DBAPIError."""
    # PostgreSQL knows no U+0000, so no campaign has one in its name.
    if not key.sees(submission.campaign_id) or "\0" in submission.campaign_id:
        raise Forbidden
    values = _values(submission, chunk_size) | {"job_id": job_id, "key_id": key.id, "company_id": key.company_id}
    created = await rows(engine, _ACCEPT, values)
    if not created:
        raise Forbidden
    created_at: datetime = created[0].created_at
    return created_at


def _values(submission: Submission, chunk_size: int) -> dict[str, object]:
    external_ids, phone_numbers = submission.canonical_external_ids, submission.canonical_phone_numbers
    duplicates = find_duplicates(external_ids, phone_numbers)
    cuts = cut(len(external_ids), duplicates, chunk_size)
    return {
        "campaign_id": submission.campaign_id,
        "client_reference": submission.client_reference,
        "phone_fallback": submission.phone_fallback,
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
