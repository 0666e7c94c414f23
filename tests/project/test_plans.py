"""A queue that grows faster than its statistics: what each statement on the way of a job, a
delivery, a tick, a page and a result reads and locks, where tables were last analysed while they
were empty, and statements last planned while they nearly were.
"""

import importlib
import pkgutil
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import TextClause, event, text

import api
import shared
import worker
from api.files import load
from api.http import auth
from api.http.auth import Key
from api.http.request import Caller
from api.jobs import idempotency, results, status, submit, waiting
from api.jobs.actions import control, follow_up
from api.jobs.entries import Identifiers
from api.leads import create, delete, find
from api.webhooks import deliveries, endpoints
from shared.database import archive
from shared.database.arrays import smallint_array
from shared.database.engines import create_sync_engine, create_worker_engine
from shared.settings import Settings
from shared.states import Outcome
from tests.support.jobs import pages_read
from worker import (
    attempts,
    claimer,
    composer,
    finisher,
    known_leads,
    outbox,
    previewer,
    purger,
    restorer,
    scheduler,
    setbacks,
    steerer,
    taker,
    ticker,
    transaction,
    turns,
)

TABLES = ("jobs", "chunks", "deliveries", "idempotency_keys", "archived_leads", "leads", "api_keys")

OF_BEFORE = """
    INSERT INTO companies (id) SELECT 'co-' || n FROM generate_series(0, 9) AS n;
    INSERT INTO campaigns (id, company_id) SELECT 'cmp-' || n, 'co-' || n FROM generate_series(0,
        9) AS n;
    INSERT INTO webhooks (id, company_id, url, events, secret)
    SELECT lpad(n::text, 32, '0')::uuid, 'co-' || n % 10, 'https://example.com/', '{job.completed}',
        'x'
    FROM generate_series(0, 13) AS n;
"""

# Of each of ten companies: 2,000 jobs that have ended, with ten deliveries each, and 3,000 that
# have not, of which some run and some are scheduled. Four chunks a job. Each fiftieth job is an
# archive: those that have ended keep fifty copies each. The first copies are of a job that is not
# there. One webhook, the thirteenth, has few deliveries.
FILL = """
    INSERT INTO api_keys (id, company_id, scope, hash)
    SELECT lpad(n::text, 32, '0')::uuid, 'co-' || n % 10, 'write', CAST('key-' || n AS bytea)
        FROM generate_series(1, 5000) AS n
    WHERE n BETWEEN FIRST AND LAST;
    INSERT INTO jobs (id, company_id, campaign_id, client_reference, total, state, created_at,
        queued_at, run_at, started_at,
        finished_at, deleted, would_delete, restored, conflict, not_found, unprocessed, invalid,
            erased, lacks_plus,
        other_external_id, mode, wanted, max_leads_per_second, paced_at, source_job_id)
    SELECT lpad(n::text, 32, '0')::uuid, 'co-' || n % 10, 'cmp-' || n % 10, 'ref-' || n % 5000, 4,
        state, at, at,
        CASE WHEN state = 'scheduled' THEN now() + CASE
            WHEN n < 20100 THEN interval '-1 s' ELSE interval '1 day' END END,
        CASE WHEN state IN ('completed', 'running') THEN at END,
        CASE WHEN ended THEN at END, c, c, c, c, c + 4, c, c, c, c, c, CASE
            WHEN n % 50 = 0 THEN 'archive' ELSE 'delete' END,
        CASE WHEN n > 49990 THEN 'pause' END, CASE WHEN state = 'running' THEN 1 END,
        CASE WHEN state = 'running' THEN now() + interval '1 h' END,
        CASE WHEN n % 7 = 0 THEN lpad((n - 1)::text, 32, '0')::uuid END
    FROM (
        SELECT n, now() - (50001 - n) * interval '1 s' AS at, n <= 20000 AS ended, CASE
            WHEN n <= 20000 THEN 0 END AS c, CASE
            WHEN n <= 20000 THEN 'completed' WHEN n % 100 < 10 THEN 'scheduled'
                WHEN n % 100 < 20 THEN 'running' ELSE 'queued' END
            AS state
        FROM generate_series(FIRST, LAST) AS n
    ) AS numbered;
    INSERT INTO chunks (job_id, number, first_index, external_ids, phone_numbers, outcomes, state,
        not_found)
    SELECT lpad(n::text, 32, '0')::uuid, number, number, '{x}', '{NULL}',
        CASE WHEN n <= 20000 THEN '{4}' ELSE '{0}' END::smallint[],
        CASE WHEN n <= 20000 THEN 'done' ELSE 'pending' END, CASE WHEN n <= 20000 THEN 1 ELSE 0 END
    FROM generate_series(FIRST, LAST) AS n, generate_series(0, 3) AS number;
    INSERT INTO deliveries (id, company_id, job_id, webhook_id, event, state, error, due_at)
    SELECT lpad((n * 10 + place)::text, 32, '0')::uuid, 'co-' || n % 10, lpad(n::text, 32,
        '0')::uuid,
        lpad((n % 10)::text, 32, '0')::uuid, 'job.completed', state,
        CASE WHEN state = 'failed' THEN 'all attempts failed' END, now() + CASE
            WHEN n < 500 THEN -n ELSE n END * interval '1 min'
    FROM generate_series(1, 20000) AS n,
        unnest(ARRAY['pending', 'delivered', 'failed', 'pending',
            'delivered']) WITH ORDINALITY AS each (state, place)
    WHERE n BETWEEN FIRST AND LAST;
    INSERT INTO deliveries (id, company_id, job_id, webhook_id, event)
    SELECT lpad((1000000 + n)::text, 32, '0')::uuid, 'co-3', lpad(n::text, 32, '0')::uuid,
        lpad('13', 32, '0')::uuid,
        'job.completed'
    FROM generate_series(100, 104) AS n WHERE n BETWEEN FIRST AND LAST;
    INSERT INTO idempotency_keys (company_id, key, request_hash, job_id, state, wait)
    SELECT 'co-' || n % 10, 'key-' || n, 'x', lpad(n::text, 32, '0')::uuid, 'queued', 0
        FROM generate_series(FIRST, LAST) AS n;
    INSERT INTO leads (id, campaign_id, external_id, phone_number)
    SELECT n, 'cmp-' || n % 10, CASE WHEN n % 3 > 0 THEN 'x' || n END, '+4930' || 1000000 + n
    FROM generate_series(FIRST, LAST) AS n;
    INSERT INTO archived_leads (job_id, lead_id, lead)
    SELECT lpad((n - n % 50)::text, 32, '0')::uuid, 1000000 + n, json_build_object(
        'id', 1000000 + n, 'campaign_id', 'cmp-' || n % 10, 'external_id', CASE
            WHEN n % 3 > 0 THEN 'y' || n END,
        'phone_number', '+4940' || 1000000 + n, 'metadata', '{}'::json, 'created_at', now())
    FROM generate_series(1, 20000) AS n WHERE n BETWEEN FIRST AND LAST;
"""

LONG_AGO, KEPT = timedelta(0), timedelta(days=30)
ENDED, QUEUED = (UUID(f"{number:032d}") for number in (15003, 49970))  # of co-3 and co-0
WEBHOOK, QUIET_WEBHOOK, DELIVERY = (UUID(f"{number:032d}") for number in (3, 13, 15003 * 10 + 1))
ARCHIVE = UUID(f"{15000:032d}")  # of co-0
KEY = Key(UUID(f"{3:032d}"), "co-3", None, "write", "", None, None)
LIMITED = KEY._replace(campaign_id="cmp-3")
SEEN_BY = {"company_id": "co-3", "campaign_id": None}
RESULTS = {"outcomes": smallint_array(Outcome), "first": 2, "rows": 11}
ASKED = Caller(KEY, None, 0, uuid4())
ANYTIME = status.Filters()


def claimed(job_id, number=0):
    """A claim as if it were of this chunk."""
    now = datetime.now(UTC)
    return claimer.Claim(
        job_id,
        number,
        1,
        now,
        "cmp-0",
        "always",
        None,
        2,
        "delete",
        False,
        None,
        None,
        False,
        False,
        "co-0",
    )


def says(statement, **values):
    """Executes it."""
    return lambda connection: connection.execute(statement, values)


def listed(key=KEY, created=ANYTIME, cursor=None, **filters):
    """A page of jobs."""

    def run(connection):
        which = status.Filters(filters, created.since, created.before)
        return connection.execute(*status._page(key, which, cursor, 50)).all()

    return run


def listed_deliveries(key=KEY, cursor=None, **filters):
    def run(connection):
        statement = deliveries.newest_first(
            deliveries._select.where(*deliveries._visible(key)), deliveries.deliveries, cursor
        )
        for name, value in filters.items():
            statement = statement.where(deliveries.deliveries.c[name] == value)
        return connection.execute(statement.limit(51)).all()

    return run


def passed_over(connection):
    """Somebody holds the row of the job whose turn it is."""
    turns.turns_of(connection, "jobs").list(connection)
    claimer.pass_over(connection, "jobs")


def sent(connection):
    """A delivery is claimed, composed and recorded."""
    if taken := outbox.claim(connection):
        composer.compose(connection, taken)
        attempts.record(connection, taken, attempts.Reply(error="no answer"), 0.1)


LONG_AGO_CURSOR = (
    "MjAwMC0wMS0wMVQwMDowMDowMCswMDowMCAwMDAwMDAwMC0wMDAwLTAwMDAtMDAwMC0wMDAwMDAwMDAwMDA="
)
LOCKED = {
    "job_id": QUEUED,
    "number": 0,
    "lease_end": datetime(1, 1, 2, tzinfo=UTC),
    "campaign_id": "cmp-0",
    "erases": True,
}

# What it does, the pages that it may read, and the rows that it may lock or write, by table.
OF_WORKERS = {
    "claim": (lambda connection: claimer.claim(connection, "jobs"), 250, {"chunks": 1, "jobs": 1}),
    "claim off-peak": (lambda connection: claimer.claim(connection, "off-peak"), 50, {}),
    "pass a job over": (passed_over, 250, {"jobs": 0, "chunks": 0}),
    "first pending": (
        says(turns._FIRST_PENDING, job_id=QUEUED, first=0, write_every=0),
        60,
        {"jobs": 1, "chunks": 0},
    ),
    "put off": (
        lambda connection: setbacks.put_off(connection, claimed(QUEUED), 1),
        30,
        {"chunks": 1, "jobs": 0},
    ),
    "cut": (
        lambda connection: setbacks.cut(connection, claimed(QUEUED), 1, of_job=True),
        60,
        {"chunks": 1, "jobs": 1},
    ),
    "hold": (
        lambda connection: setbacks.hold(connection, claimed(QUEUED), "database", "x"),
        80,
        {"chunks": 1, "jobs": 1},
    ),
    "recover": (lambda connection: setbacks.recover(connection, QUEUED), 30, {"jobs": 0}),
    "go on": (
        lambda connection: setbacks.go_on(connection, claimed(QUEUED), quick=True, went=True),
        30,
        {"jobs": 0},
    ),
    "finish a chunk": (
        lambda connection: finisher.finish(
            connection, QUEUED, finisher.DecidedChunk(0, bytes([Outcome.NO_SUCH_LEAD]))
        ),
        60,
        {"chunks": 1, "jobs": 0},
    ),
    "finish a chunk beside no archive": (
        lambda connection: finisher.finish(
            connection, QUEUED, finisher.DecidedChunk(0, bytes([3]), archiveless="cmp-none")
        ),
        60,
        {"chunks": 1, "jobs": 0},
    ),
    "conclude": (
        lambda connection: previewer.conclude(connection, QUEUED),
        60,
        {"chunks": 0, "jobs": 0},
    ),
    "unfinished": (finisher.unfinished, 5000, {}),  # looks at 1000 jobs and a chunk of each
    "unfinished of ten": (says(finisher._UNFINISHED, limit=10), 80, {}),
    "explain": (says(finisher._EXPLAIN, job_id=ENDED, reason="x"), 60, {"jobs": 1}),
    "write deliveries": (
        says(finisher._WRITE_DELIVERIES, job_id=ENDED, event="job.completed"),
        100,
        {},
    ),
    "reasons": (says(finisher._REASONS, job_id=ENDED), 30, {}),
    "requests": (says(steerer._REQUESTS, limit=10), 60, {}),
    "wait for chunks in hand": (
        says(steerer._WAIT_FOR_CHUNKS_IN_HAND, job_id=QUEUED),
        30,
        {"chunks": 0},
    ),
    "take back claims": (says(steerer._TAKE_BACK_CLAIMS, job_id=QUEUED), 30, {"chunks": 0}),
    "pause": (says(steerer._PAUSE, job_id=QUEUED), 30, {"jobs": 0}),
    "forget locks": (says(steerer._FORGET_SETBACKS, job_id=QUEUED), 30, {"chunks": 0}),
    "stop the clock of locks": (
        says(steerer._STOP_THE_CLOCKS, job_id=QUEUED, opens=datetime.now(UTC)),
        30,
        {"chunks": 0},
    ),
    "still fails": (says(steerer._STILL_FAILS, job_id=QUEUED), 30, {"jobs": 0}),
    "window": (says(steerer._WINDOW, job_id=QUEUED), 30, {}),
    "close": (
        says(steerer._CLOSE, job_id=QUEUED, opens=datetime.now(UTC), closes=datetime.now(UTC)),
        30,
        {"jobs": 0},
    ),
    "wait for all chunks": (says(steerer._WAIT_FOR_ALL_CHUNKS, job_id=QUEUED), 30, {"chunks": 4}),
    "end the rest": (says(steerer._END_THE_REST, job_id=QUEUED, outcome=5), 100, {"chunks": 4}),
    "queue due": (scheduler.queue_due, 500, {"jobs": 9}),
    "close windows": (scheduler.close_windows, 30, {"jobs": 0}),
    "queues with work": (ticker.queues_with_work, 400, {"jobs": 0, "chunks": 0}),
    "next paced": (says(ticker._NEXT_PACED, period=timedelta(seconds=1)), 30, {}),
    "work lies idle": (lambda connection: claimer.lies_idle(connection, 15), 60, {}),
    "no deliveries lie idle": (lambda connection: outbox.lies_idle(connection, 1e6), 30, {}),
    "send a delivery": (sent, 800, {"deliveries": 1}),
    "give a delivery up": (says(outbox._GIVE_UP, id=DELIVERY), 60, {"deliveries": 1}),
    "give up the rest": (
        says(attempts._GIVE_UP_THE_REST, company_id="co-3", webhook_id=QUIET_WEBHOOK),
        200,
        {"deliveries": 5},
    ),
    "write a preview down": (
        says(
            previewer._WRITE_DOWN,
            job_id=QUEUED,
            number=0,
            ids="{1}",
            external_ids="{x}",
            phone_numbers="{NULL}",
        ),
        30,
        {"chunks": 1},
    ),
    "settle a preview": (
        says(previewer._SETTLE, job_id=ENDED, duplicate=3, would_delete_other=3),
        60,
        {"chunks": 0},
    ),
    "follow to the archive": (says(restorer._ARCHIVE, job_id=ENDED), 60, {}),
    "purge no identifiers": (
        lambda connection: purger.purge_identifiers(connection, KEPT),
        30,
        {"jobs": 0, "chunks": 0},
    ),
    "purge identifiers": (
        lambda connection: purger.purge_identifiers(connection, LONG_AGO),
        5000,
        {"jobs": 50, "chunks": 200},
    ),
    "purge no archive": (
        lambda connection: purger.purge_archive(connection, KEPT),
        30,
        {"archived_leads": 0},
    ),
    "purge some of the archive": (
        says(purger._PURGE_ARCHIVE, kept=LONG_AGO, jobs=2, leads=200),
        1000,
        {"jobs": 2, "archived_leads": 100},
    ),
    "purge forsaken copies": (
        says(purger._PURGE_FORSAKEN, kept=LONG_AGO, leads=10),
        100,
        {"archived_leads": 10},
    ),
    "purge no keys": (purger.purge_keys, 30, {"idempotency_keys": 0}),
}

# Two by external id, two that have none by number.
LEADS = {
    "external_id": {"identifiers": "{x13,x23}"},
    "phone_number": {"identifiers": "{+49301000003,+49301000033}"},
    "lone_number": {"identifiers": "{+49301000003,+49301000033}"},
}
OF_CAMPAIGN = {"campaign_id": "cmp-3", "job_id": QUEUED}
KNOWN = {
    "ids": "{13,33}",
    "external_ids": "{x13,NULL}",
    "phone_numbers": "{+49301000013,+49301000033}",
}
COPIES = archive.named("cmp-3", ["y13", "y23"], ["+49401000003", "+49401000033"])


def of_leads(name, statements, locks):
    """A case for each way to name them."""
    return {
        f"{name} by {way}": (says(statements[way], **OF_CAMPAIGN, **LEADS[way]), 100, locks)
        for way in LEADS
    }


for mode in ("delete", "archive"):
    OF_WORKERS |= of_leads(f"{mode} leads", taker._TAKE[mode], {"leads": 2})
    OF_WORKERS |= of_leads(f"{mode} leads that are free", taker._TAKE_FREE[mode], {"leads": 2})
    OF_WORKERS[f"{mode} known leads"] = (
        says(known_leads._TAKE[mode], **OF_CAMPAIGN, **KNOWN),
        100,
        {"leads": 2},
    )
    OF_WORKERS[f"{mode} known leads that are free"] = (
        says(known_leads._TAKE_FREE[mode], **OF_CAMPAIGN, **KNOWN),
        60,
        {"leads": 2},
    )
OF_WORKERS |= of_leads("find leads", previewer._FIND, {"leads": 0}) | of_leads(
    "leads left", taker._LEFT, {"leads": 0}
)
RESTORED = {
    "archive_id": ARCHIVE,
    "ids": "{1015001,1015002}",
    "erased": 1,
    "conflict": 2,
    "restored": 3,
    "waits": 4,
}
OF_WORKERS |= {
    "known leads left": (says(known_leads._LEFT, **OF_CAMPAIGN, **KNOWN), 30, {"leads": 0}),
    "numbers of leads": (
        says(taker._NUMBERS, campaign_id="cmp-3", phone_numbers="{+49301000003}", identified=False),
        30,
        {"leads": 0},
    ),
    "find copies": (says(archive.FIND, **COPIES), 60, {"archived_leads": 0}),
    "hold copies": (says(archive.HOLD, **COPIES), 60, {"archived_leads": 4}),
    "erase copies": (says(archive.ERASE, **COPIES), 200, {"archived_leads": 4}),
    "numbers of copies": (
        says(
            archive.NUMBERS, campaign_id="cmp-3", phone_numbers="{+49401000003}", identified=False
        ),
        30,
        {},
    ),
    "restore": (says(restorer._RESTORE, **RESTORED), 150, {"archived_leads": 2}),
    "restore what is free": (
        says(restorer._RESTORE_FREE, **RESTORED),
        150,
        {"archived_leads": 2},
    ),
}

LOCK_CHUNK = {
    "is_old": False,
    "milliseconds": "2000",
    "lock_wait": timedelta(0),
    "is_long": False,
    "looks": True,
}
OF_WORKERS["lock a chunk"] = (
    says(transaction._LOCK_CHUNK, **LOCKED, **LOCK_CHUNK),
    60,
    {"chunks": 0},
)

STEERED = ASKED.values() | {
    "subject_id": QUEUED,
    "action": "pause",
    "already": "paused",
    "possible": "{queued,running}",
}
SUBMITTED = ASKED.values() | {
    "campaign_id": "cmp-3",
    "region_named": False,
    "form": 2,
    "mode": "delete",
    "dry_run": False,
    "total": 2,
    "queue": "jobs",
    **dict.fromkeys(
        (
            "client_reference",
            "phone_region",
            "callback_url",
            "max_leads_per_second",
            "run_window",
            "run_at",
        )
    ),
    "phone_fallback_rule": "always",
    "schedule": None,
    "closes_at": None,
    "idempotency_key": "new",
    "request_hash": b"x",
    "media_type": "application/json",
    "external_ids": "{a,b}",
    "phone_numbers": "{NULL,NULL}",
    "written_external_ids": None,
    "written_phone_numbers": None,
    "outcomes": "{0,0}",
    "first_indexes": [0, 1],
    "end_indexes": [1, 2],
    "duplicates": [0, 0],
}


def loaded(connection):
    """A file of a hundred chunks, in each of which one entry repeats the first of all."""
    connection.execute(load._BEGIN, SUBMITTED)
    chunks = (["a", f"b{n}"] for n in range(100))
    entries = (Identifiers(ids, [None, None], ids, [None, None]) for ids in chunks)
    file = (load._Chunk(2 * n, identifiers, [0, 0]) for n, identifiers in enumerate(entries))
    load._copy(connection, ASKED.job_id, file, load._Hashes())
    connection.execute(
        load._FIND_DUPLICATES, {"job_id": ASKED.job_id, "duplicate": Outcome.DUPLICATE}
    )
    assert connection.execute(load._ADMIT_AGAIN, SUBMITTED).one().may_submit
    connection.execute(load._END, SUBMITTED)


def followed(statement, source_id, mode):
    """The job that follows another."""
    values = ASKED.values() | dict.fromkeys(("run_at", "schedule", "run_window", "closes_at"))
    values |= {
        "source_id": source_id,
        "mode": mode,
        "dry_run": False,
        "queue": "jobs",
        "outcomes": "{4}",
        "chunk_size": 10,
    }
    return says(statement, **values)


NUMBERED = {"campaign_id": "cmp-3", "phone_numbers": "{+49301000003}"}
LISTED = {"company_id": "co-3", "campaign_id": "cmp-3", "max_leads": 51}
CREATED = {
    "company_id": "co-3",
    "campaign_id": "cmp-3",
    "ids": "{2000001,2000002}",
    "external_ids": "{x13,new}",
    "phone_numbers": "{NULL,NULL}",
    "metadata": '{"{}","{}"}',
}
CHANGED = {
    "url": None,
    "events": None,
    "description": None,
    "enabled": False,
    "id": QUIET_WEBHOOK,
    "company_id": "co-3",
}

OF_THE_API = {
    "accept": (says(submit._SUBMIT, **SUBMITTED), 150, {"jobs": 0}),
    "load a file": (loaded, 5000, {"jobs": 0}),
    "find a key": (says(auth._FIND_KEY, hash=b"key-3"), 30, {}),
    "note use": (says(auth._NOTE_USE, ids=f"{{{UUID(int=3)}}}"), 30, {"api_keys": 1}),
    "job": (says(status._JOB_WITH_CHUNKS, job_id=ENDED, **SEEN_BY), 60, {}),
    "job, by a key of a campaign": (
        says(status._JOB_WITH_CHUNKS, job_id=ENDED, **SEEN_BY | {"campaign_id": "cmp-3"}),
        60,
        {},
    ),
    "job of others": (
        says(status._JOB_WITH_CHUNKS, job_id=ENDED, company_id="co-4", campaign_id=None),
        30,
        {},
    ),
    "unfinished job": (
        says(status._JOB_WITH_CHUNKS, job_id=QUEUED, **SEEN_BY | {"company_id": "co-0"}),
        60,
        {},
    ),
    "total of a job": (says(status._TOTAL, job_id=ENDED, **SEEN_BY), 30, {}),
    "mark awaited": (says(waiting._MARK_AWAITED, job_id=QUEUED), 60, {"jobs": 1}),
    "jobs": (listed(), 600, {}),  # of each unfinished one its chunks
    "jobs of a campaign": (listed(LIMITED), 600, {}),
    "completed jobs": (listed(state="completed"), 600, {}),
    "failed jobs": (listed(state="failed"), 30, {}),
    "jobs of a campaign by filter": (listed(campaign_id="cmp-4"), 30, {}),
    "jobs by reference": (listed(client_reference="ref-3"), 200, {}),
    "jobs of a time": (
        listed(
            created=status.Filters(
                {}, datetime(2000, 1, 1, tzinfo=UTC), datetime(2000, 1, 2, tzinfo=UTC)
            )
        ),
        30,
        {},
    ),
    "jobs after the last": (listed(cursor=LONG_AGO_CURSOR), 30, {}),
    "results": (says(results._RESULTS, job_id=ENDED, **SEEN_BY, **RESULTS), 60, {}),
    "results of others' job": (
        says(results._RESULTS, job_id=ENDED, **SEEN_BY | {"company_id": "co-4"}, **RESULTS),
        30,
        {},
    ),
    "exported chunk": (says(results._NEXT_CHUNK, job_id=ENDED, after=1), 30, {}),
    "source": (says(follow_up._SOURCE, job_id=ENDED, **SEEN_BY, archive_days=30), 30, {}),
    "following": (says(follow_up._FOLLOWING, source_id=ENDED, mode="delete"), 30, {}),
    "follow": (followed(follow_up._FOLLOW_CHUNKS, ENDED, "delete"), 200, {}),
    "restore": (followed(follow_up._FOLLOW_ARCHIVE, ARCHIVE, "restore"), 300, {}),
    "key of a job that follows": (
        says(
            follow_up._KEY_OF_EXISTING,
            **ASKED.values() | {"job_id": ENDED, "idempotency_key": "new", "request_hash": b"x"},
        ),
        60,
        {},
    ),
    "a file after all": (says(load._LOADED, job_id=ENDED), 30, {}),
    "draw ids": (says(create._DRAW, ids=10), 60, {}),
    "create leads": (says(create._CREATE, **CREATED), 100, {}),
    "leads": (says(find._BY_EXTERNAL_ID, after="", **LISTED), 200, {}),
    "leads without external id": (says(find._BY_PHONE_NUMBER, after="", **LISTED), 200, {}),
    "lead by external id": (
        says(find._FIND_BY_EXTERNAL_ID, external_ids="{x13}", phone_numbers=None, **LISTED),
        30,
        {},
    ),
    "lead by number": (
        says(find._FIND_BY_PHONE_NUMBER, phone_numbers="{+49301000003}", **LISTED),
        30,
        {},
    ),
    "lead by both": (
        says(
            find._FIND_BY_EXTERNAL_ID,
            external_ids="{x13}",
            phone_numbers="{+49301000013}",
            **LISTED,
        ),
        30,
        {},
    ),
    "has a number": (says(delete._HAS_NUMBER, **NUMBERED), 30, {}),
    "copies have a number": (says(archive.NUMBERS, **NUMBERED, identified=False), 30, {}),
    "hold copies": (says(archive.HOLD, **COPIES), 60, {"archived_leads": 4}),
    "delete a lead": (
        says(
            delete._DELETE_BY_EXTERNAL_ID,
            campaign_id="cmp-3",
            spellings="{x13,X13}",
            canonical="x13",
        ),
        30,
        {"leads": 1},
    ),
    "delete a lead by number": (
        says(
            delete._DELETE_BY_PHONE_NUMBER,
            campaign_id="cmp-3",
            spellings="{+49301000003}",
            canonical="+49301000003",
        ),
        30,
        {"leads": 1},
    ),
    "erase copies": (says(archive.ERASE, **COPIES), 200, {"archived_leads": 4}),
    "idempotency key": (says(idempotency._FIND, company_id="co-3", key="key-15003"), 30, {}),
    "note an answer": (
        says(
            idempotency._ANSWERED,
            company_id="co-3",
            key="key-15003",
            job_id=ENDED,
            state="completed",
        ),
        30,
        {"idempotency_keys": 1},
    ),
    "ask for a pause": (
        says(control._REQUEST, **STEERED, unless_wanted="cancel"),
        100,
        {"jobs": 1},
    ),
    "resume": (says(control._RESUME, **STEERED, unless_wanted="cancel"), 100, {"jobs": 1}),
    "change the pace": (says(control._CHANGE, job_id=QUEUED, rate=5), 100, {"jobs": 1}),
    "state": (says(control._STATE, job_id=QUEUED), 30, {}),
    "who has ended": (says(waiting._ENDED, ids=f"{{{QUEUED},{ENDED}}}"), 30, {}),
    "deliveries of a job": (listed_deliveries(job_id=ENDED), 60, {}),
    "deliveries of a webhook": (listed_deliveries(webhook_id=WEBHOOK), 1000, {}),
    "deliver again": (says(deliveries._RESTART, id=DELIVERY), 100, {"deliveries": 1}),
    "a delivery": (listed_deliveries(id=DELIVERY), 60, {}),
    "a delivery of a campaign": (listed_deliveries(LIMITED, id=DELIVERY), 60, {}),
    "deliveries of a campaign's job": (listed_deliveries(LIMITED, job_id=ENDED), 60, {}),
    "test a webhook": (
        says(
            deliveries._TEST,
            id=uuid4(),
            company_id="co-3",
            webhook_id=WEBHOOK,
            event="webhook.test",
        ),
        30,
        {"deliveries": 0},
    ),
    "disable a webhook": (says(endpoints._CHANGE, **CHANGED), 200, {"deliveries": 5}),
    "remove a webhook": (
        says(endpoints._REMOVE, id=QUIET_WEBHOOK, company_id="co-3"),
        100,
        {"deliveries": 5},
    ),
    "webhooks": (
        lambda connection: connection.execute(endpoints._select(KEY).limit(51)).all(),
        30,
        {},
    ),
}


def rows_locked(connection, other, table):
    """How many rows of the table the transaction has locked or written."""
    xid = connection.execute(
        text("SELECT CAST(pg_current_xact_id_if_assigned() AS text)")
    ).scalar_one()
    count = (
        other.execute(
            f"SELECT count(*) FROM {table} WHERE xmax = %s::text::xid", (xid,)
        ).fetchone()[0]
        if xid
        else 0
    )
    other.execute("SELECT pg_stat_force_next_flush()")
    return count


def fill(database_url, first, last):
    """By a session of its own: one that had looked up foreign keys while there was nothing would
    scan for each row, too.
    """
    with psycopg.connect(database_url) as connection:
        connection.execute("SET enable_seqscan = off")
        connection.execute(FILL.replace("FIRST", str(first)).replace("LAST", str(last)))


@pytest.fixture
def sessions(database_url):
    """Of workers and the API, each with plans for any values, and with plans for those at hand."""
    settings = Settings(database_url=database_url)
    engines = {
        "worker": create_worker_engine(settings, "tests"),
        "api": create_sync_engine(settings, "tests"),
    }
    opened = {}
    for role, engine in engines.items():
        for mode in ("force_generic_plan", "force_custom_plan"):
            connection = opened[role, mode] = engine.connect()
            connection.connection.dbapi_connection.prepare_threshold = 0
            with connection.begin():
                connection.execute(text(f"SET plan_cache_mode = {mode}"))
    yield opened
    for connection in opened.values():
        connection.close()
    for engine in engines.values():
        engine.dispose()


def test_no_statement_reads_or_locks_more_than_it_must_in_a_queue_that_has_grown_since_planning(
    sessions, database_url
):
    cases = {"worker": OF_WORKERS, "api": OF_THE_API}
    too_much = []
    with psycopg.connect(database_url, autocommit=True) as other:
        for table in TABLES:
            other.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        other.execute(OF_BEFORE)
        other.execute("ANALYZE")
        fill(database_url, 1, 20)
        fill(database_url, 49_961, 50_000)
        for (role, _), connection in sessions.items():
            for run, *_ in cases[role].values():
                with connection.begin() as transaction:
                    run(connection)
                    transaction.rollback()
        fill(database_url, 21, 49_960)
        for (role, mode), connection in sessions.items():
            for name, (run, pages, locks) in cases[role].items():
                before = pages_read(connection)
                with connection.begin() as transaction:
                    run(connection)
                    transaction.rollback()
                read = pages_read(connection) - before
                with connection.begin() as transaction:
                    run(connection)
                    locked = {table: rows_locked(connection, other, table) for table in locks}
                    transaction.rollback()
                if read > pages or any(locked[table] > most for table, most in locks.items()):
                    too_much.append((mode, name, read, locked))
    assert not too_much, "\n".join(map(str, too_much))


READS = re.compile(
    r"\b(?:FROM|JOIN|UPDATE|INTO|USING)\s+(?:jobs|chunks|deliveries|archived_leads|leads)\b"
)
PROCESSES = (
    ".__main__",
    ".app",
    ".tasks",
)  # modules that want an environment when they are imported, and have no statement


def statements_in(value):
    """Those that a module's name stands for."""
    if isinstance(value, TextClause):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from statements_in(item)


def statements_of_modules():
    """Each that stands in a module, by the first name that it was found under. What a function puts
    together is not seen here.
    """
    found = {}
    for package in (shared, worker, api):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".migrations" in module.name or module.name.endswith(PROCESSES):
                continue
            for name, value in vars(importlib.import_module(module.name)).items():
                for statement in statements_in(value):
                    found.setdefault(statement, f"{module.name}.{name}")
    return found


def test_each_statement_that_reads_what_may_grow_has_a_case(sessions, database_url):
    executed = set()
    with psycopg.connect(database_url) as other:
        other.execute(OF_BEFORE)
    fill(database_url, 1, 20)
    fill(database_url, 49_961, 50_000)
    for role, cases in (("worker", OF_WORKERS), ("api", OF_THE_API)):
        connection = sessions[role, "force_generic_plan"]
        event.listen(
            connection,
            "before_execute",
            lambda _connection, statement, *_rest: executed.add(statement),
        )
        for run, *_ in cases.values():
            with connection.begin() as transaction:
                run(connection)
                transaction.rollback()
    reading = {
        statement: name
        for statement, name in statements_of_modules().items()
        if READS.search(statement.text)
    }
    assert {archive.FIND, claimer._CLAIM, status._TOTAL} <= reading.keys()
    without_case = [name for statement, name in reading.items() if statement not in executed]
    assert not without_case, without_case
