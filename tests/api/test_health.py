"""Health says what is up, and is quick about what is down."""

import time

from api.app import create_app
from tests.jobs import one_tick


async def test_health_names_each_part(service):
    answer = await service.http.get("/api/health")
    assert answer.status_code == 503
    assert answer.json() == {
        "success": False,
        "data": {"database": "up", "broker": "up", "worker": "down", "deliverer": "down", "ticker": "down"},
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
        connection.exec_driver_sql("UPDATE heartbeats SET beat_at = clock_timestamp() - interval '16 s' WHERE role = 'worker'")
    assert (await service.http.get("/api/health")).json()["data"]["worker"] == "down"


async def test_what_is_gone_is_down_within_seconds_and_submissions_say_so(settings, service):
    gone = settings.model_copy(
        update={"database_url": "postgresql://nobody@127.0.0.1:1/none", "broker_url": "amqp://127.0.0.1:1", "redis_url": ""}
    )
    app = create_app(gone)
    async with app.router.lifespan_context(app):
        service.http._transport.app = app
        began = time.monotonic()
        answer = await service.http.get("/api/health")
        assert (answer.status_code, answer.json()["data"]["database"], answer.json()["data"]["broker"]) == (503, "down", "down")
        refused = await service.post({"campaignId": "cmp", "leads": [{"externalId": "a"}]})
        assert (refused.status_code, refused.json()["error"]) == (503, "Service temporarily unavailable")
        assert int(refused.headers["retry-after"]) > 0
        assert time.monotonic() - began < 8
