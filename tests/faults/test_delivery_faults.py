"""Deliverers that die, at a statement or at any time, and receivers that hang: nothing that ended
goes untold.
"""

import random
import time

import pytest
from sqlalchemy import text

from shared.credentials import Vault, new_secret
from tests.support.caller import Caller
from tests.support.counts import many, ran, rounds
from tests.support.jobs import add_campaign
from tests.support.receiver import receiving
from tests.support.stack import (
    SECRETS_KEY,
    make_key,
    running,
    running_deliverer,
    running_stack,
    wait_for,
)

RECORD = "UPDATE deliveries SET claimed_until = NULL"
CLAIM = "UPDATE deliveries SET claimed_until = now_and"
# Whatever has been tried counts as one attempt: the last of ten is not repeated.
LONG_AGO = """
    UPDATE deliveries SET due_at = due_at - interval '1 hour',
        claimed_until = claimed_until - interval '1 hour', attempts = least(attempts, 1)
    WHERE state = 'pending'
"""


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


def secret_of(ground):
    """The company's secret, which it gets here."""
    secret = new_secret()
    with ground.engine.begin() as connection:
        connection.execute(
            text("UPDATE companies SET webhook_secret = :locked"),
            {"locked": Vault(SECRETS_KEY).lock(secret)},
        )
    return secret


def let_leases_expire(ground):
    with ground.engine.begin() as connection:
        connection.execute(text(LONG_AGO))


@pytest.mark.proof("deliverer")
@pytest.mark.parametrize("turn", rounds("deliverer"))
@pytest.mark.parametrize(
    ("point", "times"),
    [
        (f"before {CLAIM}", 1),
        (f"after {CLAIM}", 1),
        (f"before {RECORD}", 2),
        (f"after {RECORD}", 2),
    ],
)
def test_a_deliverer_that_is_killed_sends_the_same_again(ground, receiver, point, times, turn):
    """Between sending and recording it has been sent already: it is repeated, with the same id, and
    never lost.
    """
    secret = secret_of(ground)
    with running_stack(ground.env(), deliverer=False) as url:
        caller = ground.caller_of(url)
        ground.arm(point)
        with running(
            "tests.faults.processes.dying",
            ground.points,
            "worker",
            "--webhooks",
            "--threads",
            4,
            env=ground.env(),
        ) as doomed:
            job_id = caller.submit([("nobody", None)], callbackUrl=f"{receiver.url}/200")
            wait_for(lambda: doomed.poll() is not None)
        sent_before_it_died = len(receiver.came)
        let_leases_expire(ground)
        with running_deliverer(ground.env()):
            wait_for(
                lambda: [item["status"] for item in deliveries_of(caller, job_id)] == ["delivered"]
            )
        assert (sent_before_it_died, len(receiver.came)) == (times - 1, times)
        assert len({(came.headers["webhook-id"], came.body) for came in receiver.came}) == 1
        assert all(came.verified(secret)["data"]["jobId"] == job_id for came in receiver.came)


def deliveries_of(caller, job_id):
    return caller.http.get(f"/api/v1/jobs/{job_id}/deliveries").json()["data"]["items"]


JOBS = min(1000, many("told"))  # over one database
BATCH = min(100, JOBS // 10)


@pytest.mark.proof("told")
@pytest.mark.parametrize("turn", range(many("told") // JOBS))
def test_of_many_jobs_each_is_told_of_though_everything_dies_meanwhile(ground, receiver, turn):
    """Ten deliverers and more are killed in the middle; some answers are 500. Leases are let expire
    rather than waited for.
    """
    secret, dice = secret_of(ground), random.Random(4 + turn)
    failures = iter(range(50))

    def sometimes_fails(_receiver, connection):
        status = "500" if dice.random() < 0.1 and next(failures, None) is not None else "204"
        connection.sendall(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n".encode())

    receiver.script = {f"/{n}": sometimes_fails for n in range(8)}
    env = ground.env(LEADSWEEP_RATE_LIMIT_SUBMIT="1000000/hour")
    with running_stack(env, deliverer=False) as url:
        caller = ground.caller_of(url)
        expected, kills = {}, 0
        while len(expected) < JOBS or len(untold(ground)):
            with running_deliverer(env) as deliverer:
                for _ in range(min(BATCH, JOBS - len(expected))):
                    number = len(expected)
                    job_id = caller.submit(
                        [(f"nobody-{number}", None)], callbackUrl=f"{receiver.url}/{number % 8}"
                    )
                    expected[job_id] = f"nobody-{number}"
                if len(expected) < JOBS or dice.random() < 0.5:
                    deliverer.kill()
                    kills += 1
                else:
                    wait_for(lambda: (let_leases_expire(ground), not untold(ground))[1], 60)
                let_leases_expire(ground)
    verified = {}
    for came in receiver.came:
        event = came.verified(secret)
        assert verified.setdefault(
            event["data"]["jobId"], (came.headers["webhook-id"], came.body)
        ) == (
            came.headers["webhook-id"],
            came.body,
        )
        assert event["data"]["notFoundIdentifiers"] == [expected[event["data"]["jobId"]]]
    assert verified.keys() == expected.keys()
    assert kills >= 9
    ran(len(expected))


def untold(ground):
    """The jobs whose end has not been delivered yet."""
    with ground.engine.connect() as connection:
        return connection.execute(
            text(
                "SELECT id FROM jobs WHERE NOT EXISTS (SELECT FROM deliveries"
                " WHERE job_id = jobs.id AND state = 'delivered')"
            )
        ).all()


HANGING = 50


@pytest.mark.proof("hanging receivers")
def test_fifty_receivers_that_hang_leave_other_companies_deliveries_prompt(ground, receiver):
    """Of 50 companies, each with a backlog. From the end of a job of another company to its
    receiver: p95 of 5 s at most.
    """
    keys = []
    with ground.engine.begin() as connection:
        for number in range(HANGING):
            add_campaign(connection, f"hangs-{number}", company=f"hangs-{number}")
            keys.append(make_key(connection, f"hangs-{number}"))
    env = ground.env()
    with running_stack(env, deliverer=False) as url, running_deliverer(env, threads=128):
        for number, key in enumerate(keys):
            slow = Caller(url, key)
            for _ in range(4):
                slow.submit(
                    [("x", None)], f"hangs-{number}", callbackUrl=f"{receiver.url}/hang?{number}"
                )
            slow.http.close()
        wait_for(lambda: sum(map(len, receiver.in_hand.values())) == 2 * HANGING)
        caller, took = ground.caller_of(url), []
        for number in range(40):
            job_id = caller.submit(
                [(f"nobody-{number}", None)], callbackUrl=f"{receiver.url}/200?{number}"
            )
            ended = caller.finished(job_id)
            began = time.monotonic()
            wait_for(
                lambda job_id=job_id: any(
                    job_id.encode() in came.body for came in list(receiver.came)
                )
            )
            took.append(time.monotonic() - began)
            assert ended["status"] == "completed"
        took.sort()
        assert took[int(len(took) * 0.95) - 1] <= 5.0
        assert set(receiver.most_at_once.values()) == {1, 2}, "never more at once to one receiver"
        receiver.goes_on.set()
    ran(HANGING)
