"""A database that hangs up, hangs, or comes back: callers get an answer soon, and a 503 only while
there is need for it.
"""

import asyncio
import os
import signal
import time
from contextlib import contextmanager

from sqlalchemy import text

from shared.process.heartbeats import beat

ENTRY = {"campaignId": "cmp", "leads": [{"externalId": "a"}]}
_BACKENDS = text(
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'leadsweep-api'"
)


def backends(service):
    """The server's processes behind the API's connections."""
    with service.engine.connect() as connection:
        return list(connection.execute(_BACKENDS).scalars())


async def open_several_connections(service):
    answers = await asyncio.gather(*(service.get("/api/v1/jobs") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(backends(service)) > 1


async def test_connections_that_the_server_has_closed_cost_no_call_its_answer(service):
    job_id = await service.submit({"externalId": "x"})
    with service.engine.begin() as connection:
        beat(connection, "worker")
        beat(connection, "deliverer")
        beat(connection, "ticker")
    for call in (
        lambda: service.post(ENTRY),
        lambda: service.get(f"/api/v1/jobs/{job_id}"),
        lambda: service.get(f"/api/v1/jobs/{job_id}/results"),
        lambda: service.get("/api/v1/jobs"),
        lambda: service.get("/api/v1/jobs", service.read),  # looked up for the first time
        lambda: service.http.get("/api/health"),
    ):
        await open_several_connections(service)
        with service.engine.begin() as connection:
            for pid in backends(service):
                assert connection.execute(
                    text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}
                ).scalar_one()
        answer = await call()
        assert answer.is_success, answer.text


@contextmanager
def frozen(pids):
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_a_server_that_hangs_is_given_up_within_seconds(service):
    await open_several_connections(service)
    with frozen(backends(service)):
        began = time.monotonic()
        answers = await asyncio.gather(*calls(service))
        assert time.monotonic() - began < 8
        assert {(answer.status_code, answer.json()["error"]) for answer in answers} == {
            (503, "Service temporarily unavailable")
        }
        began = time.monotonic()
        health = await service.http.get("/api/health")
        assert time.monotonic() - began < 2
        assert health.json()["data"]["database"] == "down"
    deadline = time.monotonic() + 15
    while {answer.status_code for answer in await asyncio.gather(*calls(service))} != {200, 202}:
        assert time.monotonic() < deadline, "it is used again once it is back"


def calls(service):
    return (
        service.post(ENTRY),
        service.get("/api/v1/jobs"),
        service.get("/api/v1/jobs", service.read),
    )


async def test_a_primary_that_has_become_a_standby_is_a_503(service):
    """As after a failover: the connections are still there, but nothing can be written."""
    await open_several_connections(service)
    with service.engine.connect() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
        connection.commit()
    await service.app.state.services.engine.dispose()
    answer = await service.post(ENTRY)
    assert (answer.status_code, answer.json()["error"]) == (503, "Service temporarily unavailable")
    assert (await service.get("/api/v1/jobs")).status_code == 200, "what only reads goes on"


async def test_a_database_that_was_not_migrated_is_a_503_that_says_so_in_the_log(service, capsys):
    with service.engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs RENAME TO jobs_of_another_version"))
    answer = await service.get("/api/v1/jobs")
    assert (answer.status_code, answer.json()["error"]) == (503, "Service temporarily unavailable")
    assert "leadsweep migrate" in "".join(capsys.readouterr())
