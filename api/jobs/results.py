"""The outcome of each entry, in request order: a page at a time, or all of them as CSV or NDJSON.

All are streamed chunk by chunk: memory stays the same however many there are, and no database
connection is held while a slow reader reads.
"""

import csv
import io
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.database import rows
from api.http.answers import BrokenOff
from api.http.auth import Key
from api.jobs.status import SEEN, check_kept, seen
from shared.database.arrays import smallint_array
from shared.database.plans import BY_INDEX
from shared.files.spreadsheets import guarded, raw_safe
from shared.states import Outcome

# For a job that the key sees it has one row at least. It is one snapshot: results that are purged
# meanwhile cannot look like a job that has none.
_RESULTS = text(f"""
    SELECT entry_index, external_id, phone_number, outcome, detail, identifiers_purged_at
    FROM jobs LEFT JOIN LATERAL (
        SELECT first_index + position - 1 AS entry_index, external_id, phone_number, outcome,
            details ->> CAST(position - 1 AS text) AS detail
        FROM chunks CROSS JOIN unnest(
            coalesce(written_external_ids, external_ids),
            coalesce(written_phone_numbers, phone_numbers), outcomes
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
    entries = await seen(engine, key, job_id, _RESULTS, **values)
    check_kept(entries[0])
    results = [
        described(row.entry_index, row.external_id, row.phone_number, row.outcome, row.detail)
        for row in entries[:limit]
        if row.entry_index is not None
    ]
    return results, entries[limit].entry_index if len(entries) > limit else None


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


CSV, NDJSON = "text/csv", "application/x-ndjson"

COLUMNS = (
    "index",
    "externalId",
    "phoneNumber",
    "identifier",
    "outcome",
    "matchedBy",
    "reason",
    "erasedFromArchive",
    "detail",
)
CSV_HEAD = (",".join(COLUMNS) + "\r\n").encode()

# Streams of one process, and of one company. Each holds the bytes of two chunks, of 3 MB each at
# most, while its reader is slow.
EXPORTS_AT_ONCE = 8
EXPORTS_OF_ONE_COMPANY = 3
_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")

_NEXT_CHUNK = text(f"""
    SELECT number, first_index, coalesce(written_external_ids, external_ids) AS external_ids,
        coalesce(written_phone_numbers, phone_numbers) AS phone_numbers, outcomes, details
    FROM chunks WHERE job_id = :job_id AND number > :after AND {BY_INDEX} ORDER BY number LIMIT 1
""")

_encode_lines = msgspec.json.Encoder().encode_lines


def preferred_format(accept: str) -> str | None:
    """CSV or NDJSON, if the caller's `Accept` prefers one of them to JSON; else None. The nearest
    range counts (RFC 9110).
    """
    qualities = {}
    for part in accept.lower().split(","):
        kind, *parameters = part.split(";")
        qualities[kind.strip()] = _quality(parameters)

    def rank(kind: str) -> tuple[float, int]:
        ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        for distance, known in enumerate(ranges):
            if known in qualities:
                return qualities[known], -distance
        return 0.0, -len(ranges)

    best = max(("application/json", CSV, NDJSON), key=rank)  # of equals the first
    return best if best in {CSV, NDJSON} and rank(best)[0] > 0 else None


def _quality(parameters: list[str]) -> float:
    """What `q` says; 0 where it makes no sense."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if _QUALITY.fullmatch(value.strip()) else 0.0
    return 1.0


async def stream(
    engine: AsyncEngine,
    job_id: UUID,
    total: int,
    outcomes: list[Outcome],
    write: Callable[[list[Any]], bytes],
) -> AsyncIterator[bytes]:
    """The results that are one of `outcomes`, in request order, as `write` writes them. Raises
    BrokenOff where some are gone.
    """
    numbers = frozenset(map(int, outcomes))
    after, first_index = -1, 0
    while first_index < total:
        part, after, first_index = await _next_part(
            engine, job_id, after, first_index, numbers, write
        )
        if part:
            yield part


async def _next_part(
    engine: AsyncEngine,
    job_id: UUID,
    after: int,
    first_index: int,
    numbers: frozenset[int],
    write: Callable[[list[Any]], bytes],
) -> tuple[bytes, int, int]:
    """The results that are one of `numbers` in the chunk after `after`, which begins at
    `first_index`; its number, and where the next one begins.

    It keeps no rows: while a slow reader reads, only the bytes are in memory.
    """
    try:
        chunks = await rows(engine, _NEXT_CHUNK, {"job_id": job_id, "after": after})
    except (DBAPIError, PoolTimeoutError, TimeoutError) as error:
        raise BrokenOff("database not usable") from error
    if not chunks or chunks[0].first_index != first_index:
        raise BrokenOff("identifiers purged")
    chunk = chunks[0]
    results = [
        (index, external_id, phone_number, outcome, detail)
        for index, (external_id, phone_number, outcome, detail) in enumerate(
            zip(
                chunk.external_ids,
                chunk.phone_numbers,
                chunk.outcomes,
                _details(chunk.details, len(chunk.outcomes)),
                strict=True,
            ),
            first_index,
        )
        if outcome in numbers
    ]
    part = write(results) if results else b""
    return part, chunk.number, first_index + len(chunk.outcomes)


def _details(details: dict[str, str] | None, entries: int) -> list[str | None]:
    """The detail of each entry of a chunk, which has few."""
    if not details:
        return [None] * entries
    return [details.get(str(position)) for position in range(entries)]


def as_ndjson(results: list[Any]) -> bytes:
    """One JSON object a line."""
    return _encode_lines([described(*result) for result in results])


def as_csv(results: list[Any], *, raw: bool) -> bytes:
    """Rows of COLUMNS. Unless `raw`, a cell that a spreadsheet would take for a formula begins with
    a quote, which includes phone numbers.

    Either form can be sent back as a file, and means the same.
    """
    guard = raw_safe if raw else guarded
    lines = io.StringIO()
    csv.writer(lines).writerows(
        (
            index,
            guard(external_id),
            guard(phone_number),
            guard(external_id or phone_number),
            *CELLS_OF[outcome],
            guard(detail),
        )
        for index, external_id, phone_number, outcome, detail in results
    )
    return lines.getvalue().encode()


class Export(StreamingResponse):
    """A file of results. It keeps its place for as long as it is sent; HEAD reads nothing."""

    def __init__(
        self,
        media_type: str,
        job_id: UUID,
        parts: AsyncIterator[bytes],
        place: AbstractAsyncContextManager[None],
    ) -> None:
        """`parts` are of `media_type`, CSV without its head."""
        content_type, suffix = media_type, "ndjson"
        if media_type == CSV:
            content_type, suffix = f"{CSV}; charset=utf-8; header=present", "csv"
            parts = _with_head(parts)
        disposition = f'attachment; filename="results-{job_id}.{suffix}"'
        headers = {"Content-Type": content_type, "Content-Disposition": disposition}
        super().__init__(parts, headers=headers)
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it. Raises Unavailable, BrokenOff."""
        if "is_head" in scope:
            head = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start"} | head)
            await send({"type": "http.response.body"})
            return
        async with self._place:
            await super().__call__(scope, receive, send)


async def _with_head(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield CSV_HEAD
    async for part in parts:
        yield part
