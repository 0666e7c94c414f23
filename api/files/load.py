"""Loads the entries of a file as a job, in one transaction: chunks are copied into the database
while the file arrives.

So a file that breaks off, or is refused at its last line, leaves nothing behind. Entries that
repeat an earlier one are looked for at the end, over the whole file, and only where hashes of the
identifiers say that there may be any: most files have none.
"""

from array import array
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from api.files.body import Upload
from api.files.rows import Batch, Manner
from api.http.answers import Forbidden
from api.http.auth import ACTIVE, inactive_key
from api.jobs.entries import Identifiers
from api.jobs.submit import JOB, written_if_other
from shared.database.arrays import smallint_array, text_array
from shared.database.plans import BY_INDEX
from shared.states import ChunkState, Outcome

HASHES_AT_ONCE = 300_000  # compared in one go: as a set they take 20 MB

_BEGIN = text(f"WITH {JOB} SELECT (SELECT id FROM job) AS id FROM subject")

_COPY = """
    COPY chunks (job_id, number, first_index, external_ids, phone_numbers, written_external_ids,
        written_phone_numbers, outcomes, state, invalid) FROM STDIN
"""

# Settles duplicates as api.jobs.entries does for a request: an entry that repeats the external id
# of an earlier one or, having none, the number of an earlier one that had none either.
_FIND_DUPLICATES = text(f"""
    WITH entry AS (
        SELECT number, position, external_id IS NULL AS is_number,
            coalesce(external_id, phone_number) AS identifier
        FROM chunks CROSS JOIN unnest(external_ids, phone_numbers, outcomes)
            WITH ORDINALITY AS entry (external_id, phone_number, outcome, position)
        WHERE job_id = :job_id AND outcome = 0 AND {BY_INDEX}
    ),
    turn AS (
        SELECT number, position,
            row_number() OVER (PARTITION BY identifier, is_number ORDER BY number, position) AS turn
        FROM entry
    ),
    repeated AS (
        SELECT number, array_agg(position) AS positions FROM turn WHERE turn > 1 GROUP BY number
    ),
    settled AS (
        SELECT repeated.number, cardinality(positions) AS duplicates, (
            SELECT array_agg(
                CASE WHEN position = ANY(positions) THEN :duplicate ELSE outcome END
                ORDER BY position
            )
            FROM unnest(outcomes) WITH ORDINALITY AS entry (outcome, position)
        ) AS outcomes
        FROM repeated JOIN chunks ON job_id = :job_id AND chunks.number = repeated.number
    )
    UPDATE chunks SET outcomes = settled.outcomes, not_found = duplicates,
        state = CASE WHEN array_position(settled.outcomes, 0::smallint) IS NULL
            THEN 'done' ELSE 'pending' END
    FROM settled WHERE job_id = :job_id AND chunks.number = settled.number
""")

# The key may have been revoked, or limited, while the file arrived, and the campaign may have
# moved.
_ADMIT_AGAIN = text(f"""
    SELECT scope = 'write' AND company_id = :company_id
        AND coalesce(campaign_id, :campaign_id) = :campaign_id
        AND EXISTS (
            SELECT FROM campaigns WHERE id = :campaign_id AND company_id || '' = :company_id
        ) AS may_submit
    FROM api_keys WHERE id = :key_id AND {ACTIVE} AND {BY_INDEX}
""")

_END = text(f"""
    WITH accepted AS (
        SELECT clock_timestamp() AS now,
            CASE WHEN run_at > clock_timestamp() THEN 'scheduled' ELSE 'queued' END AS state,
            -- A job of which nothing is left to be done is answered like any other, but runs
            -- already: the ticker has yet to write down its end.
            NOT EXISTS (
                SELECT FROM chunks WHERE job_id = :job_id AND state = 'pending'
            ) AS begun
        FROM jobs WHERE id = :job_id AND {BY_INDEX}
    ),
    answered AS (
        UPDATE idempotency_keys
        SET request_hash = :request_hash, state = accepted.state, created_at = now
        FROM accepted WHERE company_id = :company_id AND key = :idempotency_key
    )
    UPDATE jobs SET total = :total, created_at = now, queued_at = now,
        state = CASE WHEN begun THEN 'running' ELSE accepted.state END,
        started_at = CASE WHEN begun THEN now END,
        history = jsonb_build_array(jsonb_build_object(
                'status', accepted.state, 'at', now, 'by', CAST(:key_name AS text)
            ))
            || CASE WHEN begun
                THEN jsonb_build_object('status', 'running', 'at', now, 'by', NULL)
                ELSE '[]' END
    FROM accepted WHERE id = :job_id
    RETURNING accepted.state, total, jobs.created_at, run_at
""")

_LOADED = text(f"""
    SELECT history->0->>'status' AS state, total, created_at, run_at FROM jobs
    WHERE id = :job_id AND {BY_INDEX}
""")


class Loaded(NamedTuple):
    """A job that was made of a file, as it was accepted."""

    state: str
    total: int
    created_at: datetime
    run_at: datetime | None


class _Chunk(NamedTuple):
    """Entries that are decided in one transaction, and their outcomes: 0 where it is not settled
    yet.
    """

    first_index: int
    identifiers: Identifiers
    outcomes: list[int]


def load(
    engine: Engine,
    values: dict[str, Any],
    upload: Upload,
    manner: Manner,
    *,
    chunk_size: int,
    max_entries: int,
) -> Loaded | None:
    """Makes a job of the file's entries, with the `values` that api.jobs.submit.draft made. Returns
    None where the Idempotency-Key is taken.

    Raises ApiError 401, Forbidden, DBAPIError, and what Upload.batches raises.
    """
    batches = upload.batches(max_entries, manner)
    job_id = values["job_id"]
    try:
        with engine.begin() as connection:
            begun = connection.execute(_BEGIN, values | {"total": 1}).one_or_none()
            if begun is None:
                raise Forbidden
            if begun.id is None:
                return None
            hashes = _Hashes()
            total = _copy(connection, job_id, _chunks(batches, chunk_size), hashes)
            if hashes.may_repeat():
                settled = {"job_id": job_id, "duplicate": Outcome.DUPLICATE}
                connection.execute(text("SET LOCAL work_mem = '64MB'"))
                connection.execute(_FIND_DUPLICATES, settled)
            key = connection.execute(_ADMIT_AGAIN, values).one_or_none()
            if key is None:
                raise inactive_key()
            if not key.may_submit:
                raise Forbidden
            request_hash = upload.idempotency and upload.idempotency.request_hash
            whole = values | {"total": total, "request_hash": request_hash}
            job = connection.execute(_END, whole).one()
        return Loaded(**job._asdict())
    except DBAPIError as error:
        if error.connection_invalidated and (loaded := _loaded_after_all(engine, job_id)):
            return loaded
        raise


def _loaded_after_all(engine: Engine, job_id: UUID) -> Loaded | None:
    """The job, where the connection broke after its transaction was committed."""
    with engine.begin() as connection:
        job = connection.execute(_LOADED, {"job_id": job_id}).one_or_none()
    return Loaded(**job._asdict()) if job else None


def _chunks(batches: Iterable[Batch], size: int) -> Iterator[_Chunk]:
    """The entries of `batches`, `size` at a time."""
    columns: list[list[Any]] = [[], [], [], []]
    outcomes: list[int] = []
    first_index = 0
    for batch in batches:
        for column, texts in zip(columns, batch.identifiers, strict=True):
            column.extend(texts)
        # Each byte of `bytes(n)` is a 0: nothing is settled yet.
        outcomes.extend(batch.outcomes or bytes(len(batch.identifiers.external_ids)))
        in_whole_chunks = len(outcomes) - len(outcomes) % size
        for start in range(0, in_whole_chunks, size):
            yield _Chunk(
                first_index + start,
                Identifiers(*(column[start : start + size] for column in columns)),
                outcomes[start : start + size],
            )
        for column in (*columns, outcomes):
            del column[:in_whole_chunks]
        first_index += in_whole_chunks
    if outcomes:
        yield _Chunk(first_index, Identifiers(*columns), outcomes)


class _Hashes:
    """Hashes of all identifiers by which entries may repeat one another: external ids, and the
    numbers of the entries that have none. A file of millions does not fit into memory otherwise.
    """

    def __init__(self) -> None:
        self._external_ids = array("q")
        self._numbers = array("q")

    def add(self, identifiers: Identifiers) -> None:
        """Adds the entries of a chunk. One that is invalid has no canonical identifier."""
        external_ids = identifiers.canonical_external_ids
        numbers = identifiers.canonical_phone_numbers
        self._external_ids.extend(
            [hash(external_id) for external_id in external_ids if external_id is not None]
        )
        lone = [
            hash(number)
            for external_id, number in zip(external_ids, numbers, strict=True)
            if external_id is None and number is not None
        ]
        self._numbers.extend(lone)

    def may_repeat(self) -> bool:
        """Whether two hashes are equal. Two different identifiers have the same one in one of 10^12
        files.
        """
        return _repeats(self._external_ids) or _repeats(self._numbers)


def _repeats(hashes: "array[int]") -> bool:
    """Whether two are equal. They are compared in parts, so that no set is large: equal hashes have
    the same remainder.
    """
    parts = len(hashes) // HASHES_AT_ONCE + 1
    distinct = 0
    for part in range(parts):
        distinct += len({number for number in hashes if number % parts == part})
    return distinct < len(hashes)


def _copy(connection: Connection, job_id: UUID, chunks: Iterator[_Chunk], hashes: _Hashes) -> int:
    """Writes the chunks. Returns how many entries they have."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("COPY needs psycopg")
    total = 0
    try:
        with driver.cursor().copy(_COPY) as copy:
            for number, chunk in enumerate(chunks):
                hashes.add(chunk.identifiers)
                copy.write_row((str(job_id), number, *_row(chunk)))
                total += len(chunk.outcomes)
    except psycopg.Error as error:
        # The driver was used directly, so SQLAlchemy has not seen its error.
        raise OperationalError("COPY", None, error, connection_invalidated=driver.closed) from error
    return total


def _row(chunk: _Chunk) -> tuple[Any, ...]:
    """The columns of _COPY, in its order, from `first_index` on."""
    entries, outcomes = chunk.identifiers, chunk.outcomes
    invalid = len(outcomes) - outcomes.count(Outcome.PENDING)
    state = ChunkState.DONE if invalid == len(outcomes) else ChunkState.PENDING
    return (
        chunk.first_index,
        text_array(entries.canonical_external_ids),
        text_array(entries.canonical_phone_numbers),
        written_if_other(entries.external_ids, entries.canonical_external_ids),
        written_if_other(entries.phone_numbers, entries.canonical_phone_numbers),
        smallint_array(outcomes),
        state.value,
        invalid,
    )
