"""Factories and readers for jobs that stand in the database already, for tests below the API."""

from uuid import uuid4

from sqlalchemy import insert, select, text

from shared.broker.sender import JOB_QUEUES
from shared.broker.wakeups import Wake
from shared.database.models import campaigns, chunks, jobs, leads
from shared.identifiers.canonical import FORM
from shared.settings import Settings
from worker.runner import run_next
from worker.ticker import tick


def add_campaign(connection, campaign="cmp", company="co"):
    """A campaign, with its company where that is new."""
    connection.execute(
        text("INSERT INTO companies (id) VALUES (:id) ON CONFLICT DO NOTHING"), {"id": company}
    )
    connection.execute(insert(campaigns), {"id": campaign, "company_id": company})


def add_leads(connection, identifiers, campaign="cmp"):
    """Leads from pairs of (externalId, phoneNumber)."""
    connection.execute(
        insert(leads),
        [{"campaign_id": campaign, "external_id": e, "phone_number": p} for e, p in identifiers],
    )


def add_former_leads(connection, identifiers, campaign="cmp"):
    """Leads as an older form stored them, which are still to be brought into today's."""
    connection.execute(text("ALTER TABLE leads DISABLE TRIGGER USER"))
    add_leads(connection, identifiers, campaign)
    connection.execute(text("ALTER TABLE leads ENABLE TRIGGER USER"))
    connection.execute(text("UPDATE canonical_forms SET form = 1"))


def queue_job(connection, entries, *, company="co", campaign="cmp", chunk_size=1000, **columns):
    """A queued job of `entries`, pairs of canonical identifiers without duplicates; returns its
    id.
    """
    job_id = uuid4()
    connection.execute(
        insert(jobs),
        {
            "id": job_id,
            "company_id": company,
            "campaign_id": campaign,
            "total": len(entries),
            "form": FORM,
        }
        | columns,
    )
    for number, start in enumerate(range(0, len(entries), chunk_size)):
        part = entries[start : start + chunk_size]
        values = {
            "external_ids": [e for e, _ in part],
            "phone_numbers": [p for _, p in part],
            "outcomes": [0] * len(part),
        }
        connection.execute(
            insert(chunks), {"job_id": job_id, "number": number, "first_index": start} | values
        )
    return job_id


def queue_big_job(connection, chunk_count, *, company="co", campaign="cmp"):
    """A queued job of so many chunks of the same thousand entries; returns its id."""
    entries = [(f"crm-{number:06}", f"+1{number:010}") for number in range(1000)]
    job_id = queue_job(connection, entries, company=company, campaign=campaign)
    connection.execute(
        text("UPDATE jobs SET total = :total WHERE id = :id"),
        {"total": chunk_count * 1000, "id": job_id},
    )
    connection.execute(
        text("""
            INSERT INTO chunks (job_id, number, first_index, external_ids, phone_numbers, outcomes)
            SELECT job_id, n, n * 1000, external_ids, phone_numbers, outcomes
            FROM chunks, generate_series(1, :last) AS n WHERE job_id = :id
        """),
        {"last": chunk_count - 1, "id": job_id},
    )
    return job_id


def job_row(connection, job_id):
    """The job's row."""
    return connection.execute(select(jobs).where(jobs.c.id == job_id)).one()


def outcomes_of_job(connection, job_id):
    """The outcome of each entry, in request order."""
    rows = connection.execute(
        select(chunks.c.outcomes).where(chunks.c.job_id == job_id).order_by(chunks.c.number)
    )
    return [outcome for (part,) in rows for outcome in part]


def remaining_leads(connection, campaign="cmp"):
    """The set of (externalId, phoneNumber) that the campaign still has."""
    rows = connection.execute(
        select(leads.c.external_id, leads.c.phone_number).where(leads.c.campaign_id == campaign)
    )
    return {tuple(row) for row in rows}


def execute(engine, statement, **values):
    """Its rows, or None where it has none; committed."""
    with engine.begin() as connection:
        result = connection.execute(text(statement), values)
        return result.all() if result.returns_rows else None


def job_now(engine, job_id):
    """The job's row, as it is committed."""
    with engine.begin() as connection:
        return job_row(connection, job_id)


def outcomes_now(engine, job_id):
    """As outcomes_of_job, as they are committed."""
    with engine.begin() as connection:
        return outcomes_of_job(connection, job_id)


def queue_ids(engine, ids, **options):
    """A queued job of external ids, or of pairs where an entry is one; its id."""
    with engine.begin() as connection:
        return queue_job(
            connection, [(i if isinstance(i, tuple) else (i, None)) for i in ids], **options
        )


# Each deletion of a lead waits while another session has this lock. It asks again and again, so
# that no time-out of locks ends the wait.
GATE = 12
HOLD_UP = f"""
    CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        WHILE NOT pg_try_advisory_xact_lock_shared({GATE}) LOOP PERFORM pg_sleep(0.01); END LOOP;
        RETURN OLD;
    END $$;
    CREATE TRIGGER hold_up BEFORE DELETE ON leads FOR EACH ROW EXECUTE FUNCTION hold_up()
"""
HOLDS_CAMPAIGN = (
    "SELECT FROM pg_locks WHERE relation = 'campaigns'::regclass AND mode = 'RowShareLock'"
)


def one_tick(engine, settings=None):
    """One round of the ticker; the queues that it sends for, sorted."""
    sent = []
    tick(engine, settings or Settings(), Wake(lambda _: None, sent.append))
    return sorted(sent)


def work_off(engine):
    """Runs everything that can run now, as a worker would on its messages."""
    messages = list(JOB_QUEUES)
    wake = Wake(
        lambda _: None, lambda queue: messages.append(queue) if queue in JOB_QUEUES else None
    )
    while messages:
        run_next(engine, messages.pop(0), wake)


def let_leases_expire(connection):
    """As if their time had passed."""
    connection.execute(text("UPDATE chunks SET retry_at = '-infinity' WHERE state = 'pending'"))


def pages_read(connection):
    """8 KiB pages of tables and their indexes that sessions have touched and told of. This one has
    told of all: a session does so after a transaction that asked for it.
    """
    with connection.begin():
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    with connection.begin():
        return connection.execute(
            text("""
                SELECT sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read
                    + coalesce(toast_blks_hit + toast_blks_read, 0))::int
                FROM pg_statio_user_tables
            """)
        ).scalar_one()
