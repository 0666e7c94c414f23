"""A whole stack under `leadsweep up` while something of it is killed several times a second,
servers included; some leads take long to delete meanwhile, some are locked, and for a while the
database is not well.
"""

import json
import random
import subprocess
import sys
import time
from contextlib import suppress

import httpx2
import psutil
import pytest
from sqlalchemy.exc import DBAPIError

from shared.credentials import Vault
from tests.faults.conftest import Ground, batches, mixed
from tests.support.counts import many, ran
from tests.support.receiver import receiving
from tests.support.stack import end, wait_for

KILLS = min(40, many("random kills"))  # of one stack
SICK = range(KILLS // 5, KILLS // 3)  # during these, no lead can be deleted
SEED = 20_261_123  # which process when; the interleaving differs from run to run all the same


@pytest.mark.proof("random kills")
@pytest.mark.parametrize("turn", range(many("random kills") // KILLS))
def test_many_kills_in_a_row_lose_and_double_nothing(tmp_path, turn):
    folder = tmp_path / "stack"
    command = [
        sys.executable,
        "-c",
        "from leadsweep.commands.main import main; main()",
        "up",
        "--port",
        "0",
        "--data-dir",
        str(folder),
    ]
    with (tmp_path / "up.log").open("wb") as log:
        up = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command], stdout=log, stderr=log, env=environment()
        )
    try:
        wait_for(lambda: b"ready: " in (tmp_path / "up.log").read_bytes(), 60)
        runtime = json.loads((folder / "runtime.json").read_text())
        ground = Ground(runtime["database_url"], runtime["broker_url"], tmp_path)
        try:
            with receiving() as receiver:
                jobs = submit_while_killing(
                    ground,
                    ground.caller_of(runtime["url"]),
                    folder,
                    f"{receiver.url}/204",
                    random.Random(SEED + turn),
                )
                each_is_told_of(ground, jobs, receiver, Vault(runtime["secrets_key"]))
        finally:
            ground.close()
    except BaseException:
        sys.stderr.write((tmp_path / "up.log").read_text())
        raise
    finally:
        end(up)


def submit_while_killing(ground, caller, folder, callback_url, dice):
    """The jobs, by id."""
    parts = batches(ground.add_leads(2000), 50)
    before = ground.leads()
    ground.execute(TROUBLE)
    ground.execute(
        "INSERT INTO trouble VALUES (false, %s)", [external_id for external_id, _ in parts[2][:5]]
    )
    holder = ground.engine.connect()
    holder.exec_driver_sql(
        "SELECT FROM leads WHERE external_id = ANY(%s) FOR KEY SHARE",
        ([e for e, _ in parts[4][:5]],),
    )
    sent = {}
    for number in range(KILLS):
        if number in {SICK.start, SICK.stop}:
            wait_for(lambda number=number: is_sick(ground, number in SICK), 30)
        entries = sent[str(number)] = mixed(parts[number])
        job_id = submit(
            caller,
            entries,
            str(number),
            mode=("delete", "archive")[number % 2],
            callbackUrl=callback_url,
        )
        steer(caller, job_id, (None, "pause", None, "cancel")[number % 4])
        ran(kill_one(dice, folder))
        wait_for(lambda: answers(caller), 30)

    with suppress(DBAPIError):  # its server may have been killed
        holder.close()

    def all_finished():
        ground.engine.dispose()
        ground.let_leases_expire()
        jobs = jobs_of(caller)
        for job in jobs:
            if job.get("status") == "paused":
                steer(caller, job["jobId"], "resume")
        return all(job["finishedAt"] for job in jobs)

    wait_for(all_finished, 60)
    submitted = {job["jobId"]: sent[job["clientReference"]] for job in jobs_of(caller)}
    assert sorted(job["clientReference"] for job in jobs_of(caller)) == sorted(sent), (
        "each is there, and once"
    )
    ground.check(caller, submitted, before)
    return submitted


TROUBLE = """
    CREATE TABLE trouble (is_sick boolean, slow text[]);
    CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT is_sick FROM trouble) THEN
            RAISE EXCEPTION 'not well' USING ERRCODE = '53100';
        ELSIF OLD.external_id = ANY ((SELECT slow FROM trouble)::text[]) THEN
            PERFORM pg_sleep(0.6);
        END IF;
        RETURN OLD;
    END $$;
    CREATE TRIGGER trouble BEFORE DELETE ON leads FOR EACH ROW EXECUTE FUNCTION trouble()
"""


def is_sick(ground, sick):
    """Makes it so; False where the server is down just now."""
    try:
        ground.execute("UPDATE trouble SET is_sick = %s", sick)
    except DBAPIError:
        ground.engine.dispose()
        return False
    return True


def each_is_told_of(ground, jobs, receiver, vault):
    """With one webhook-id and one body, however often, signed with the company's secret."""

    def all_delivered():
        with ground.engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE deliveries SET due_at = due_at - interval '1 hour', claimed_until ="
                " claimed_until - interval '1 hour'"
                " WHERE state = 'pending'"
            )
            states = connection.exec_driver_sql("SELECT state FROM deliveries").scalars().all()
        return states == ["delivered"] * len(jobs)

    wait_for(all_delivered, 60)
    with ground.engine.connect() as connection:
        secret = vault.unlock(
            connection.exec_driver_sql(
                "SELECT webhook_secret FROM companies WHERE id = 'co'"
            ).scalar_one()
        )
    told = {}
    for came in receiver.came:
        told.setdefault(came.verified(secret)["data"]["jobId"], set()).add(
            (came.headers["webhook-id"], came.body)
        )
    assert told.keys() == jobs.keys()
    assert {len(versions) for versions in told.values()} == {1}


def submit(caller, entries, reference, **options):
    """Until a 202 is seen. A cut connection may hide an accepted job: the key keeps it from being
    there twice.
    """
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            return caller.submit(
                entries, key=f"key {reference}", clientReference=reference, **options
            )
        except (httpx2.TransportError, AssertionError):
            wait_for(lambda: answers(caller), 30)
    raise AssertionError("no 202 within 30 s")


def steer(caller, job_id, action):
    """Asks once, whatever is dead just now."""
    if action:
        with suppress(httpx2.TransportError):
            assert caller.act(job_id, action).status_code in {200, 202, 409, 503}


def kill_one(dice, folder):
    """How many were killed."""
    children = json.loads((folder / "runtime.json").read_text())["children"]
    role = dice.choice(
        [
            "api",
            "worker",
            "pool process",
            "pool process",
            "deliverer",
            "ticker",
            "redis",
            "postgres",
        ]
    )
    pid = next(
        child["pid"]
        for child in children
        if child["role"] == role.replace("pool process", "worker")
    )
    try:
        victim = psutil.Process(pid)
        pool = victim.children()
        (dice.choice(pool) if role == "pool process" and pool else victim).kill()
    except psutil.NoSuchProcess:
        return 0  # it has died of the one before
    return 1


def answers(caller):
    try:
        return caller.http.get("/api/v1/jobs", params={"limit": 1}).status_code == 200
    except httpx2.TransportError:
        return False


def jobs_of(caller):
    try:
        return caller.http.get("/api/v1/jobs", params={"limit": 200}).json()["data"]["items"]
    except httpx2.TransportError:
        return [{"finishedAt": None}]


def environment():
    return {
        "LEADSWEEP_CHUNK_SIZE": "10",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LEADSWEEP_LOG_FORMAT": "text",
    }
