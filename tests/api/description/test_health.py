"""Health says what is up, and is quick about what is down."""

import socket
import time

import pytest
import redis

from api.app import create_app
from tests.support.brokers import rabbitmq
from tests.support.jobs import one_tick


async def test_health_names_each_part(service):
    answer = await service.http.get("/api/health")
    assert answer.status_code == 503
    assert answer.json() == {
        "success": False,
        "data": {
            "database": "up",
            "broker": "up",
            "worker": "down",
            "deliverer": "down",
            "ticker": "down",
        },
        "error": "Service temporarily unavailable",
    }
    one_tick(service.engine)
    with service.engine.begin() as connection:
        for role in ("worker", "deliverer"):
            beat = "INSERT INTO heartbeats VALUES (%s, 'x:1', clock_timestamp() - interval '14 s')"
            connection.exec_driver_sql(beat, (role,))
    answer = await service.http.get("/api/health")
    assert answer.status_code == 200
    assert set(answer.json()["data"].values()) == {"up"}
    with service.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE heartbeats SET beat_at = clock_timestamp() - interval '16 s'"
            " WHERE role = 'worker'"
        )
    assert (await service.http.get("/api/health")).json()["data"]["worker"] == "down"


async def test_what_is_gone_is_down_within_seconds_and_submissions_say_so(settings, service):
    gone = settings.model_copy(
        update={
            "database_url": "postgresql://nobody@127.0.0.1:1/none",
            "broker_url": "amqp://127.0.0.1:1",
            "redis_url": "",
        }
    )
    app = create_app(gone)
    async with app.router.lifespan_context(app):
        service.http._transport.app = app
        began = time.monotonic()
        answer = await service.http.get("/api/health")
        assert (
            answer.status_code,
            answer.json()["data"]["database"],
            answer.json()["data"]["broker"],
        ) == (503, "down", "down")
        refused = await service.post({"campaignId": "cmp", "leads": [{"externalId": "a"}]})
        assert (refused.status_code, refused.json()["error"]) == (
            503,
            "Service temporarily unavailable",
        )
        assert int(refused.headers["retry-after"]) > 0
        assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    ("sick", "well", "finding"),
    [
        (
            lambda r: r.config_set("maxmemory", "1"),
            lambda r: r.config_set("maxmemory", "0"),
            "its memory is full (maxmemory)",
        ),
        (
            lambda r: r.replicaof("127.0.0.1", "1"),
            lambda r: r.replicaof("NO", "ONE"),
            "it is a replica",
        ),
    ],
)
async def test_a_broker_that_answers_and_refuses_writes_is_down_and_the_log_says_why(
    service, redis_url, capsys, sick, well, finding
):
    with redis.Redis.from_url(redis_url) as client:
        sick(client)
        try:
            answer = await service.http.get("/api/health")
        finally:
            well(client)
        assert answer.json()["data"]["broker"] == "down"
        assert answer.json()["data"]["database"] == "up"
        said = "".join(capsys.readouterr())
        assert "broker not usable" in said
        assert f"refuses writes: {finding}" in said
        assert (await service.http.get("/api/health")).json()["data"]["broker"] == "up"


async def test_a_rabbitmq_that_blocks_publishers_is_down(settings, service, capsys):
    for blocks, word in ((True, "down"), (False, "up")):
        with rabbitmq(blocks=blocks) as url:
            app = create_app(
                settings.model_copy(update={"broker_url": url, "redis_url": settings.broker_url})
            )
            async with app.router.lifespan_context(app):
                service.http._transport.app = app
                assert (await service.http.get("/api/health")).json()["data"]["broker"] == word
        assert ("blocks publishers" in "".join(capsys.readouterr())) is blocks


async def test_a_rabbitmq_whose_first_nodes_are_frozen_is_up(settings, service):
    with socket.create_server(("127.0.0.1", 0)) as frozen, rabbitmq() as url:
        silent = f"amqp://127.0.0.1:{frozen.getsockname()[1]}"
        app = create_app(
            settings.model_copy(
                update={"broker_url": f"{silent};{silent};{url}", "redis_url": settings.broker_url}
            )
        )
        async with app.router.lifespan_context(app):
            service.http._transport.app = app
            assert (await service.http.get("/api/health")).json()["data"]["broker"] == "up"


async def test_a_broker_that_is_frozen_is_down_within_seconds_and_the_log_says_so(
    settings, service, capsys
):
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        where = f"127.0.0.1:{frozen.getsockname()[1]}"
        for url in (f"redis://{where}/0", f"amqp://{where}"):
            app = create_app(
                settings.model_copy(update={"broker_url": url, "redis_url": settings.broker_url})
            )
            async with app.router.lifespan_context(app):
                service.http._transport.app = app
                began = time.monotonic()
                assert (await service.http.get("/api/health")).json()["data"]["broker"] == "down"
                assert time.monotonic() - began < 5
            assert "does not answer" in "".join(capsys.readouterr())
