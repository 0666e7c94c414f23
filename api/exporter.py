"""Streams all results of a job as CSV or NDJSON, chunk by chunk: memory stays the same however many there are, and no database
connection is held while a slow reader reads.
"""

import csv
import io
import re
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import rows
from api.results import CELLS_OF, described
from shared.plans import BY_INDEX
from shared.spreadsheets import guarded, raw_safe
from shared.states import Outcome

CSV, NDJSON = "text/csv", "application/x-ndjson"

COLUMNS = ("index", "externalId", "phoneNumber", "identifier", "outcome", "matchedBy", "reason", "erasedFromArchive", "detail")

_CHUNKS_AT_ONCE = 4
_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")

_NEXT_CHUNKS = text(f"""
    SELECT number, first_index, coalesce(written_external_ids, external_ids), coalesce(written_phone_numbers, phone_numbers),
        outcomes, details
    FROM chunks WHERE job_id = :job_id AND number > :after AND {BY_INDEX} ORDER BY number LIMIT :chunks
""")

_encode_lines = msgspec.json.Encoder().encode_lines


class Purged(Exception):
    """The identifiers were purged while they were being streamed. Ends the connection: what was sent must not look whole."""


class Revoked(Exception):
    """The key may not read them any more. Ends the connection, too."""


def wanted_format(accept: str) -> str | None:
    """CSV or NDJSON, if the caller's `Accept` prefers one of them to JSON; else None. The nearest range counts (RFC 9110)."""
    qualities = {
        kind.strip(): _quality(parameters) for kind, *parameters in (part.split(";") for part in accept.lower().split(","))
    }

    def rank(kind: str) -> tuple[float, int]:
        ranges = ("*/*", f"{kind.partition('/')[0]}/*", kind)
        nearest = max((near for near, known in enumerate(ranges) if known in qualities), default=None)
        return (0.0, 0) if nearest is None else (qualities[ranges[nearest]], nearest)

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
    engine: AsyncEngine, job_id: UUID, total: int, outcomes: list[Outcome], write: Callable[[list[Any]], bytes]
) -> AsyncIterator[bytes]:
    """The results that are one of `outcomes`, in request order, as `write` writes them. Raises Purged if some are not there."""
    wanted = frozenset(map(int, outcomes))
    after, expected = -1, 0
    while expected < total:
        found = await rows(engine, _NEXT_CHUNKS, {"job_id": job_id, "after": after, "chunks": _CHUNKS_AT_ONCE})
        if not found:
            raise Purged
        for number, first_index, external_ids, phone_numbers, numbers, details in found:
            if first_index != expected:
                raise Purged
            in_order = [details.get(str(position)) for position in range(len(numbers))] if details else [None] * len(numbers)
            entries = enumerate(zip(external_ids, phone_numbers, numbers, in_order, strict=True), start=first_index)
            if picked := [(index, *entry) for index, entry in entries if entry[2] in wanted]:
                yield write(picked)
            after, expected = number, first_index + len(numbers)


def as_ndjson(results: list[Any]) -> bytes:
    """One JSON object a line."""
    return _encode_lines([described(*result) for result in results])


def as_csv(results: list[Any], *, raw: bool) -> bytes:
    """Rows of COLUMNS. Unless `raw`, what a spreadsheet would take for a formula, phone numbers too, begins with a quote.

    Either can be sent back and means the same.
    """
    guard = raw_safe if raw else guarded
    lines = io.StringIO()
    csv.writer(lines).writerows(
        (index, guard(external_id), guard(phone_number), guard(external_id or phone_number), *CELLS_OF[outcome], guard(detail))
        for index, external_id, phone_number, outcome, detail in results
    )
    return lines.getvalue().encode()


CSV_HEAD = (",".join(COLUMNS) + "\r\n").encode()
