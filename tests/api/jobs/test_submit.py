"""Which entries are duplicates, where a request is cut, and what is written when it is sent
again.
"""

import asyncio
import time
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, text

from api.http.auth import Key
from api.http.request import Caller
from api.jobs.entries import cut, find_duplicates
from api.jobs.submission import parse
from api.jobs.submit import submit
from shared.database.models import jobs

IDENTIFIER = st.sampled_from(["a", "b", "+101", None])
ENTRIES = st.lists(st.tuples(IDENTIFIER, IDENTIFIER).filter(any), min_size=1, max_size=12)


def repeats(entries, index):
    """Contract, section 4: whether the entry repeats the external id of an earlier one or, having
    none, the number of one that had none either.
    """
    external_id, number = entries[index]
    return any(
        external_id == e if external_id else e is None and number == n for e, n in entries[:index]
    )


@given(ENTRIES)
def test_duplicates_are_those_of_the_contract(entries):
    external_ids, numbers = zip(*entries, strict=True)
    assert find_duplicates(external_ids, numbers) == {
        i for i in range(len(entries)) if repeats(entries, i)
    }


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 8))
def test_chunks_follow_one_another_and_none_is_too_big_or_of_duplicates_alone(repeated, size):
    repeated = [False, *repeated]  # the first entry cannot be a duplicate
    duplicates = {index for index, is_duplicate in enumerate(repeated) if is_duplicate}
    chunks = cut(len(repeated), duplicates, size)
    assert [chunk.first_index for chunk in chunks] == [
        0,
        *(chunk.end_index for chunk in chunks[:-1]),
    ]
    assert chunks[-1].end_index == len(repeated)
    others = [
        sum(not repeated[i] for i in range(chunk.first_index, chunk.end_index)) for chunk in chunks
    ]
    assert all(count == size for count in others[:-1])
    assert 1 <= others[-1] <= size
    assert [c.duplicates for c in chunks] == [
        c.end_index - c.first_index - n for c, n in zip(chunks, others, strict=True)
    ]


async def test_a_statement_that_was_committed_though_its_connection_broke_is_not_refused(service):
    """The first try has written its job's row, and is committed while the second waits for that."""
    job_id, submission = uuid4(), parse(b'{"campaignId": "cmp", "leads": [{"externalId": "a"}]}')
    caller = Caller(Key(uuid4(), "co", None, "write", "tests", None, None), None, 0, job_id)
    engine, settings = service.app.state.services.engine, service.app.state.services.settings
    with service.engine.connect() as connection:
        connection.execute(
            insert(jobs), {"id": job_id, "company_id": "co", "campaign_id": "cmp", "total": 1}
        )
        again = asyncio.create_task(submit(engine, settings, caller, submission))
        await waits_for_a_lock(service.engine)
        connection.commit()
    assert (await again).created_at.tzinfo
    assert (await submit(engine, settings, caller, submission)).created_at < (
        await again
    ).created_at
    with service.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM chunks")).scalar_one() == 0, (
            "what is there is not written again"
        )


async def waits_for_a_lock(engine):
    deadline = time.monotonic() + 10
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock'"
    )
    with engine.connect() as connection:
        while not connection.execute(waiting).scalar_one():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
            connection.rollback()
