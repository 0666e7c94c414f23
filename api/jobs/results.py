"""The outcome of each entry, in request order, a page at a time."""

from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.http.auth import Key
from api.jobs.status import SEEN, check_kept, seen
from shared.database.arrays import smallint_array
from shared.states import Outcome

# One row at least of a job that the key sees. What is purged meanwhile does not look like nothing:
# it is one snapshot.
_RESULTS = text(f"""
    SELECT entry_index, external_id, phone_number, outcome, detail, identifiers_purged_at
    FROM jobs LEFT JOIN LATERAL (
        SELECT first_index + position - 1 AS entry_index, external_id, phone_number, outcome,
            details ->> CAST(position - 1 AS text) AS detail
        FROM chunks CROSS JOIN unnest(
            coalesce(written_external_ids, external_ids), coalesce(written_phone_numbers, phone_numbers), outcomes
        ) WITH ORDINALITY AS entry (external_id, phone_number, outcome, position)
        WHERE job_id = jobs.id AND jobs.identifiers_purged_at IS NULL
            AND first_index + cardinality(outcomes) > :first AND first_index + position > :first
            AND outcome = ANY(CAST(:outcomes AS smallint[]))
        ORDER BY number, position LIMIT :rows
    ) AS result ON true
    WHERE {SEEN}
    ORDER BY entry_index
""")


async def read_results(
    engine: AsyncEngine, key: Key, job_id: UUID, outcomes: list[Outcome], first: int, limit: int
) -> tuple[list[dict[str, Any]], int | None]:
    """Up to `limit` results from index `first` on that are one of `outcomes`, and the index to go
    on from, if any.

    Raises ApiError 404, 410.
    """
    values = {"outcomes": smallint_array(outcomes), "first": first, "rows": limit + 1}
    found = await seen(engine, key, job_id, _RESULTS, **values)
    check_kept(found[0])
    results = [described(*row[:5]) for row in found[:limit] if row.entry_index is not None]
    return results, found[limit].entry_index if len(found) > limit else None


WORDS_OF = {
    int(outcome): (outcome.word, outcome.matched_by, outcome.reason, outcome.erased)
    for outcome in Outcome
}

CELLS_OF = {
    number: (*words, "true" if erased else "false") for number, (*words, erased) in WORDS_OF.items()
}
"""The same as cells of CSV."""


def described(
    index: int,
    external_id: str | None,
    phone_number: str | None,
    outcome: int,
    detail: str | None = None,
) -> dict[str, Any]:
    """One result, as callers see it; `detail` is what refused it, by name."""
    word, matched_by, reason, erased = WORDS_OF[outcome]
    return {
        "index": index,
        "externalId": external_id,
        "phoneNumber": phone_number,
        "identifier": external_id or phone_number,
        "outcome": word,
        "matchedBy": matched_by,
        "reason": reason,
        "detail": detail,
        "erasedFromArchive": erased,
    }
