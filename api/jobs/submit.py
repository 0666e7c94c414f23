"""Accepts a submission: finds its duplicates, cuts it into chunks, and writes job and chunks in one
statement.

One statement is one transaction and one round trip. It inserts nothing unless the campaign is the
company's, and it may be sent again with the same job id after a lost connection: what is there
already is not inserted twice.
"""

from typing import Any, NamedTuple

from anyio import to_thread
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.callback_urls import check_host
from api.database import rows
from api.http.errors import Forbidden
from api.jobs.draft import JOB, draft, region_of
from api.jobs.entries import Identifiers, Texts, read_again
from api.jobs.idempotency import Accepted, Asked, in_progress, is_in_progress, replayed
from api.jobs.submission import Submission
from shared.database.arrays import smallint_array, text_array
from shared.settings import Settings
from shared.states import Outcome

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


class Cut(NamedTuple):
    """A chunk of a submission: entries from `first_index` up to, not including, `end_index`."""

    first_index: int
    end_index: int
    duplicates: int


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


def find_duplicates(external_ids: Texts, phone_numbers: Texts) -> set[int]:
    """The indexes of entries that repeat an earlier entry's external id or, having none, an earlier
    such entry's number.
    """
    lone_numbers = [
        None if external_id else number
        for external_id, number in zip(external_ids, phone_numbers, strict=True)
    ]
    return _repeated(external_ids) | _repeated(lone_numbers)


def _repeated(texts: Texts) -> set[int]:
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
    """Chunks of up to `chunk_size` entries besides duplicates, in request order; each begins with
    one that is none.
    """
    starts = (
        [index for index in range(total) if index not in duplicates][::chunk_size]
        if duplicates
        else range(0, total, chunk_size)
    )
    ends = [*starts[1:], total]
    return [
        Cut(start, end, sum(start <= index < end for index in duplicates))
        for start, end in zip(starts, ends, strict=True)
    ]
