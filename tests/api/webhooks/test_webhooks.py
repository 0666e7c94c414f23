"""Webhooks and deliveries over HTTP: who may do what, which errors there are, and that a secret is
shown once.
"""

import asyncio
import socket
from uuid import uuid4

import pytest
from sqlalchemy import text

from api.app import create_app
from api.database import rows
from shared.broker.sender import WEBHOOKS_QUEUE
from shared.broker.wakeups import NOBODY, Wake
from shared.credentials import Vault
from shared.destinations import LOOPBACK, parse_networks
from tests.support.counts import ran
from tests.support.hosts import SPELLINGS, TRICKS, shut_network
from tests.support.jobs import work_off
from tests.support.receiver import receiving
from tests.support.stack import lock_waits, make_key, until, wait_for
from worker.attempts import record
from worker.deliverer import Terms, deliver_next
from worker.outbox import claim
from worker.poster import Reply
from worker.runner import run_next

WEBHOOKS = "/api/v1/webhooks"


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def call(service):
    """`call(method, path, body=None, key=None)`: (status, data, error)."""

    async def call(method, path, body=None, key=None):
        headers = {"x-api-key": key or service.write}
        content = (
            {} if body is None else {"content": body} if isinstance(body, bytes) else {"json": body}
        )
        if content:
            headers["content-type"] = "application/json"
        answer = await service.http.request(method, path, headers=headers, **content)
        return answer.status_code, answer.json()["data"], answer.json()["error"]

    return call


@pytest.fixture
def deliver(service, settings):
    """A deliverer's part, in a thread of its own."""
    terms = Terms(Vault(settings.secrets_key), parse_networks(LOOPBACK))

    async def deliver():
        await asyncio.to_thread(work_off, service.engine)
        await asyncio.to_thread(deliver_next, service.engine, terms, NOBODY)

    return deliver


async def test_a_webhook_is_created_listed_read_changed_and_deleted(call, receiver):
    status, created, _ = await call("POST", WEBHOOKS, {"url": receiver.url})
    secret = created.pop("secret")
    assert (status, secret[:6]) == (201, "whsec_")
    assert created | {"webhookId": 0, "createdAt": 0} == {
        "webhookId": 0, "url": receiver.url,
        "events": ["job.completed", "job.failed", "job.cancelled"], "description": "",
        "enabled": True, "disabledReason": None, "failingSince": None, "oldSecretUntil": None,
        "createdAt": 0,
    }  # fmt: skip
    path = f"{WEBHOOKS}/{created['webhookId']}"
    assert await call("GET", path) == (200, created, None)
    other = (
        await call(
            "POST",
            WEBHOOKS,
            {"url": receiver.url + "/x", "events": ["job.failed"], "description": "d"},
        )
    )[1]
    assert other.pop("secret") != secret
    assert await call("GET", WEBHOOKS) == (
        200,
        {"items": [other, created], "nextCursor": None},
        None,
    )
    _, page, _ = await call("GET", f"{WEBHOOKS}?limit=1")
    assert page["items"] == [other]
    assert await call("GET", f"{WEBHOOKS}?cursor={page['nextCursor']}") == (
        200,
        {"items": [created], "nextCursor": None},
        None,
    )
    change = {
        "url": receiver.url + "/y",
        "events": ["job.cancelled", "job.cancelled"],
        "description": "e",
        "enabled": False,
    }
    assert await call("PATCH", path, change) == (
        200,
        created | change | {"events": ["job.cancelled"]},
        None,
    )
    assert (await call("PATCH", path, {"enabled": True}))[1]["url"] == receiver.url + "/y"
    assert await call("DELETE", path) == (200, {"deleted": True}, None)
    for method in ("GET", "DELETE"):
        assert await call(method, path) == (404, None, "Webhook not found")
    assert (await call("PATCH", path, {}))[0] == (await call("POST", f"{path}/test"))[0] == 404


async def test_secrets_are_stored_encrypted_and_shown_never_again(call, receiver, service):
    _, created, _ = await call("POST", WEBHOOKS, {"url": receiver.url})
    await call("POST", f"{WEBHOOKS}/{created['webhookId']}/rotate")
    with service.engine.connect() as connection:
        stored = connection.execute(
            text("SELECT CAST(webhooks AS text) FROM webhooks")
        ).scalar_one()
    assert created["secret"].removeprefix("whsec_") not in stored
    assert created["secret"].removeprefix("whsec_").encode().hex() not in stored
    for method, path in (("GET", ""), ("GET", f"/{created['webhookId']}")):
        assert "whsec" not in str(await call(method, WEBHOOKS + path))


async def test_a_rotation_shows_the_new_secret_and_those_of_before_sign_too(
    call, deliver, receiver
):
    _, created, _ = await call("POST", WEBHOOKS, {"url": f"{receiver.url}/200"})
    path = f"{WEBHOOKS}/{created['webhookId']}"
    secrets, ends = [created["secret"]], []
    for _ in range(2):
        status, rotated, _ = await call("POST", f"{path}/rotate")
        assert (status, rotated["secret"][:6]) == (200, "whsec_")
        secrets.append(rotated["secret"])
        ends.append(rotated["oldSecretUntil"])
    assert len(set(secrets)) == 3
    assert ends == sorted(set(ends))
    assert (await call("GET", path))[1]["oldSecretUntil"] == ends[-1]
    status, delivery, _ = await call("POST", f"{path}/test")
    assert (status, delivery["event"], delivery["jobId"], delivery["status"]) == (
        202,
        "webhook.test",
        None,
        "pending",
    )
    await deliver()
    (came,) = receiver.came
    for secret in secrets:
        assert came.verified(secret)["data"] == {"webhookId": created["webhookId"]}
    assert came.headers["webhook-id"] == delivery["deliveryId"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", "Request body is not valid JSON"),
        (
            b'{"url": "https://a.example", "url": "https://b.example"}',
            "Request body is not valid JSON",
        ),
        ([], "Request body must be an object"),
        ({"URL": "https://example.com"}, "Unknown field: URL"),
        ({"url": "https://example.com", "secret": "mine"}, "Unknown field: secret"),
        ({}, "url is required"),
        ({"url": None}, "url is required"),
        ({"url": 1}, "url must be a string"),
        ({"url": "https://example.com/" + "x" * 2048}, "url is longer than 2048 characters"),
        (
            {"url": "example.com"},
            "url must be a URL such as https://example.com/hook, its host written in ASCII",
        ),
        (
            {"url": "https://bücher.example/"},
            "url must be a URL such as https://example.com/hook, its host written in ASCII",
        ),
        (
            {"url": "https://a.example/\0"},
            "url must be a URL such as https://example.com/hook, its host written in ASCII",
        ),
        ({"url": "https://u:p@example.com"}, "url must not contain a user name or a password"),
        ({"url": "https://1.1.1.1/#x"}, "url must not contain a fragment"),
        (
            {"url": "http://1.1.1.1/"},
            "url must lead to a public address, over https on port 443 or 8443",
        ),
        (
            {"url": "https://1.1.1.1:22/"},
            "url must lead to a public address, over https on port 443 or 8443",
        ),
        (
            {"url": "https://169.254.169.254/"},
            "url must lead to a public address, over https on port 443 or 8443",
        ),
        (
            {"url": "https://1.1.1.1", "events": []},
            "events must be some of job.completed, job.failed, job.cancelled",
        ),
        (
            {"url": "https://1.1.1.1", "events": "job.failed"},
            "events must be some of job.completed, job.failed, job.cancelled",
        ),
        (
            {"url": "https://1.1.1.1", "events": [[]]},
            "events must be some of job.completed, job.failed, job.cancelled",
        ),
        (
            {"url": "https://1.1.1.1", "events": [{}]},
            "events must be some of job.completed, job.failed, job.cancelled",
        ),
        (
            {"url": "https://1.1.1.1", "events": ["webhook.test"]},
            "events must be some of job.completed, job.failed, job.cancelled",
        ),
        ({"url": "https://1.1.1.1", "description": 1}, "description must be a string"),
        (
            {"url": "https://1.1.1.1", "description": "x" * 256},
            "description is longer than 255 characters",
        ),
        ({"url": "https://1.1.1.1", "description": "\0"}, "description contains U+0000"),
        ({"url": "https://1.1.1.1", "enabled": 1}, "enabled must be a boolean"),
    ],
)
async def test_the_first_error_of_a_body_is_the_answer(call, body, error):
    assert await call("POST", WEBHOOKS, body) == (400, None, error)
    if error != "url is required":
        assert (await call("PATCH", f"{WEBHOOKS}/{uuid4()}", body))[2] == error


@pytest.mark.proof("hostile urls")
async def test_a_url_that_leads_nowhere_public_is_refused_however_it_is_written(
    service, settings, monkeypatch
):
    """On a server that allows no networks, and a port that is allowed; for webhooks and for
    callbacks alike.
    """
    app = create_app(settings.model_copy(update={"webhook_allow": ()}))
    service.http._transport.app = app
    with receiving() as receiver:
        async with app.router.lifespan_context(app):
            tried = shut_network(monkeypatch, receiver.port)
            for written in TRICKS + SPELLINGS:
                url = written.format(port=receiver.port)
                answers = [
                    await service.http.post(
                        WEBHOOKS, headers={"x-api-key": service.write}, json={"url": url}
                    ),
                    await service.post(
                        {"campaignId": "cmp", "leads": [{"externalId": "a"}], "callbackUrl": url}
                    ),
                ]
                assert [answer.status_code for answer in answers] == [400, 400], url
                assert answers[0].json()["error"].replace("url ", "", 1) == answers[1].json()[
                    "error"
                ].replace("callbackUrl ", "", 1)
        assert tried == []
        assert receiver.connections == 0
    ran(len(TRICKS + SPELLINGS))


async def test_a_name_is_checked_by_what_it_leads_to_and_let_through_where_that_cannot_be_known_now(
    call, monkeypatch
):
    answers = {"private": ["10.0.0.1"], "mixed": ["1.1.1.1", "10.0.0.1"], "public": ["1.1.1.1"]}
    real = socket.getaddrinfo

    def look_up(host, port, *further, **options):
        name, _, rest = host.partition(".")
        if rest != "example":
            return real(host, port, *further, **options)
        if name not in answers:
            raise socket.gaierror(socket.EAI_AGAIN if name == "later" else socket.EAI_NONAME, "no")
        return [(2, 1, 6, "", (address, port)) for address in answers[name]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for name, status in {
        "private": 400,
        "mixed": 400,
        "nowhere": 400,
        "public": 201,
        "later": 201,
    }.items():
        assert (await call("POST", WEBHOOKS, {"url": f"https://{name}.example/"}))[0] == status, (
            name
        )


async def test_only_a_company_wide_write_key_sees_webhooks_and_only_its_own(
    call, receiver, service
):
    _, created, _ = await call("POST", WEBHOOKS, {"url": receiver.url})
    path = f"{WEBHOOKS}/{created['webhookId']}"
    calls = [
        ("GET", WEBHOOKS),
        ("POST", WEBHOOKS, {"url": receiver.url}),
        ("GET", path),
        ("PATCH", path, {}),
    ]
    calls += [("POST", f"{path}/rotate"), ("POST", f"{path}/test"), ("DELETE", path)]
    with service.engine.begin() as connection:
        reads_all, limited = service.read, make_key(connection, "co", campaign="cmp")
    for key in (reads_all, limited):
        for asked in calls:
            assert await call(*asked, key=key) == (403, None, "Forbidden"), asked
    for asked in calls[2:]:
        assert await call(*asked, key=service.foreign) == (404, None, "Webhook not found"), asked
    assert await call("GET", WEBHOOKS, key=service.foreign) == (
        200,
        {"items": [], "nextCursor": None},
        None,
    )
    assert await call("GET", path) == (
        200,
        {name: created[name] for name in created if name != "secret"},
        None,
    )


async def test_deliveries_are_visible_as_their_job_is(call, deliver, receiver, service):
    _, webhook, _ = await call("POST", WEBHOOKS, {"url": f"{receiver.url}/500"})
    job_id = await service.submit({"externalId": "a"}, callbackUrl=f"{receiver.url}/201")
    await call("POST", f"{WEBHOOKS}/{webhook['webhookId']}/test")
    await deliver()
    of_job, of_webhook = (
        f"/api/v1/jobs/{job_id}/deliveries",
        f"{WEBHOOKS}/{webhook['webhookId']}/deliveries",
    )
    _, listed, _ = await call("GET", of_job, key=service.read)
    by_status = {item["status"]: item for item in listed["items"]}
    sent, failing = by_status["delivered"], by_status["pending"]
    assert (sent["url"], sent["webhookId"], sent["jobId"], sent["nextAttemptAt"]) == (
        f"{receiver.url}/201",
        None,
        job_id,
        None,
    )
    assert (failing["webhookId"], failing["event"]) == (webhook["webhookId"], "job.completed")
    assert failing["nextAttemptAt"] > failing["createdAt"]
    assert failing["attempts"][0].keys() == {"at", "statusCode", "latencyMs", "error"}
    assert (failing["attempts"][0]["statusCode"], failing["attempts"][0]["error"]) == (500, None)
    for filters, count in {
        "?status=delivered": 1,
        "?status=failed": 0,
        "?event=job.failed": 0,
        "?event=job.completed": 2,
    }.items():
        assert len((await call("GET", of_job + filters))[1]["items"]) == count, filters
    assert (await call("GET", f"{of_job}?status=lost"))[2] == "Invalid query parameter: status"
    assert (await call("GET", f"{of_job}?state=failed"))[2] == "Invalid query parameter: state"
    assert {
        item["event"] for item in (await call("GET", of_webhook, key=service.read))[1]["items"]
    } == {
        "webhook.test",
        "job.completed",
    }
    _, page, _ = await call("GET", f"{of_webhook}?limit=1")
    assert [item["event"] for item in page["items"]] == ["job.completed"]
    _, page, _ = await call("GET", f"{of_webhook}?cursor={page['nextCursor']}")
    assert [item["event"] for item in page["items"]] == ["webhook.test"]
    assert await call("GET", of_job, key=service.limited) == (404, None, "Job not found"), (
        "it is another campaign's"
    )
    assert (await call("GET", of_webhook, key=service.limited))[1]["items"] == []
    for path in (of_job, of_webhook):
        assert (await call("GET", path, key=service.foreign))[0] == 404


async def test_where_a_webhook_leads_is_told_to_those_alone_who_may_see_webhooks(
    call, receiver, service
):
    _, webhook, _ = await call("POST", WEBHOOKS, {"url": f"{receiver.url}/201"})
    job_id = await service.submit({"externalId": "a"}, callbackUrl=f"{receiver.url}/202")
    await service.work()
    with service.engine.begin() as connection:
        limited = make_key(connection, "co", campaign="cmp")
    callback, standing = f"{receiver.url}/202", f"{receiver.url}/201"
    of_job, of_webhook = (
        f"/api/v1/jobs/{job_id}/deliveries",
        f"{WEBHOOKS}/{webhook['webhookId']}/deliveries",
    )
    for key, seen in ((service.write, standing), (service.read, None), (limited, None)):
        items = (await call("GET", of_job, key=key))[1]["items"]
        assert {item["webhookId"]: item["url"] for item in items} == {
            None: callback,
            webhook["webhookId"]: seen,
        }
        items = (await call("GET", of_webhook, key=key))[1]["items"]
        assert [item["url"] for item in items] == [seen]
    again = f"/api/v1/deliveries/{items[0]['deliveryId']}/redeliver"
    assert (await call("POST", again, key=limited))[1]["url"] is None
    assert (await call("POST", again))[1]["url"] == standing


async def test_a_test_of_a_webhook_that_is_deleted_at_that_moment_finds_none(
    call, receiver, service
):
    _, created, _ = await call("POST", WEBHOOKS, {"url": receiver.url})
    with service.engine.begin() as connection:
        connection.execute(text("DELETE FROM webhooks"))
        asked = asyncio.create_task(call("POST", f"{WEBHOOKS}/{created['webhookId']}/test"))
        await asyncio.to_thread(wait_for, lambda: lock_waits(service.engine))
    assert await asked == (404, None, "Webhook not found")


async def test_a_delivery_is_sent_again_with_its_id_by_whoever_may_write_to_its_job(
    call, deliver, receiver, service
):
    job_id = await service.submit({"externalId": "a"}, callbackUrl=f"{receiver.url}/410")
    await deliver()
    (delivery,) = (await call("GET", f"/api/v1/jobs/{job_id}/deliveries"))[1]["items"]
    assert (delivery["status"], delivery["error"], delivery["nextAttemptAt"]) == (
        "failed",
        "answered 410 Gone",
        None,
    )
    path = f"/api/v1/deliveries/{delivery['deliveryId']}/redeliver"
    assert await call("POST", path, key=service.read) == (403, None, "Forbidden")
    for key in (service.foreign, service.limited):
        assert await call("POST", path, key=key) == (404, None, "Delivery not found")
    for unknown in (uuid4(), "x", "%00"):
        assert await call("POST", f"/api/v1/deliveries/{unknown}/redeliver") == (
            404,
            None,
            "Delivery not found",
        )
    assert await call("POST", path, {"force": True}) == (400, None, "Request body must be empty")
    receiver.script["/410"] = b"HTTP/1.1 204 x\r\n\r\n"
    status, again, _ = await call("POST", path)
    assert (status, again["status"], again["error"]) == (202, "pending", None)
    await deliver()
    first, second = receiver.came
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
    (delivery,) = (await call("GET", f"/api/v1/jobs/{job_id}/deliveries"))[1]["items"]
    assert (delivery["status"], [attempt["statusCode"] for attempt in delivery["attempts"]]) == (
        "delivered",
        [410, 204],
    )


@pytest.fixture
def held(service, receiver):
    """A delivery that a deliverer has in hand, in its last attempt."""

    async def held():
        await service.submit({"externalId": "a"}, callbackUrl=f"{receiver.url}/204")
        await service.work()
        with service.engine.begin() as connection:
            connection.execute(text("UPDATE deliveries SET attempts = 9"))
            return claim(connection)

    return held


def attempts_of(service):
    with service.engine.connect() as connection:
        return connection.execute(text("SELECT state, attempts, error FROM deliveries")).one()


@pytest.mark.parametrize("reply", [Reply(200), Reply(410), Reply(500)])
async def test_what_is_asked_for_again_while_it_is_under_way_is_sent_once_more_and_at_once(
    call, deliver, receiver, service, held, reply
):
    claimed = await held()
    status, again, _ = await call("POST", f"/api/v1/deliveries/{claimed.id}/redeliver")
    assert (status, again["status"], again["nextAttemptAt"]) == (202, "pending", None)
    await deliver()
    assert receiver.came == [], "it is in somebody's hands"
    with service.engine.begin() as connection:
        record(connection, claimed, reply, 0.1)
    assert attempts_of(service) == ("pending", 0, None)
    await deliver()
    assert [came.headers["webhook-id"] for came in receiver.came] == [str(claimed.id)]
    assert attempts_of(service) == ("delivered", 1, None)


async def test_what_is_asked_for_again_of_a_deliverer_that_died_is_sent_once_its_lease_has_run_out(
    call, deliver, receiver, service, held
):
    lost = await held()
    assert (await call("POST", f"/api/v1/deliveries/{lost.id}/redeliver"))[0] == 202
    with service.engine.begin() as connection:
        past = "interval '61 s'"
        connection.execute(
            text(
                f"UPDATE deliveries SET due_at = due_at - {past}, claimed_until = claimed_until -"
                f" {past}"
            )
        )
    await deliver()
    with service.engine.begin() as connection:
        record(connection, lost, Reply(500), 0.1)
    assert len(receiver.came) == 1
    assert attempts_of(service) == ("delivered", 1, None)


async def test_what_was_disabled_is_given_up_and_can_be_sent_once_it_is_enabled(
    call, deliver, receiver, service
):
    _, webhook, _ = await call("POST", WEBHOOKS, {"url": f"{receiver.url}/500"})
    path = f"{WEBHOOKS}/{webhook['webhookId']}"
    await service.submit({"externalId": "a"})
    await deliver()
    assert (await call("GET", path))[1]["failingSince"]
    assert (await call("PATCH", path, {"enabled": False}))[1]["disabledReason"] is None
    (delivery,) = (await call("GET", f"{path}/deliveries"))[1]["items"]
    assert (delivery["status"], delivery["error"]) == ("failed", "the webhook was disabled")
    again = f"/api/v1/deliveries/{delivery['deliveryId']}/redeliver"
    assert await call("POST", again) == (
        409,
        None,
        "Cannot redeliver to a webhook that is disabled",
    )
    changed = (await call("PATCH", path, {"enabled": True, "url": f"{receiver.url}/200"}))[1]
    assert changed["failingSince"] is None
    assert (await call("POST", again))[0] == 202
    await deliver()
    assert receiver.came[-1].path == "/200"
    assert receiver.came[-1].headers["webhook-id"] == delivery["deliveryId"]


async def test_a_company_has_fifty_webhooks_at_most(call, receiver):
    for _ in range(50):
        assert (await call("POST", WEBHOOKS, {"url": receiver.url}))[0] == 201
    assert await call("POST", WEBHOOKS, {"url": receiver.url}) == (
        409,
        None,
        "A company can have 50 webhooks",
    )


async def test_a_company_has_fifty_webhooks_of_80_created_at_once(
    call, receiver, service, monkeypatch
):
    """Those that have a connection are held up by the lock of their company's row, so that all
    count what is there.

    Where the machine is busy, some are told to come back, and do. Nothing was created then, as
    the one bound that could come upon a commit, that of `rows`, does not end here.
    """
    assert "seconds" in rows.__kwdefaults__
    monkeypatch.setitem(rows.__kwdefaults__, "seconds", 300)

    async def create():
        while (answer := await call("POST", WEBHOOKS, {"url": receiver.url}))[0] == 503:
            pass
        return answer[0]

    for _ in range(47):
        assert (await call("POST", WEBHOOKS, {"url": receiver.url}))[0] == 201
    with service.engine.connect() as other:
        other.execute(text("SELECT FROM companies WHERE id = 'co' FOR UPDATE"))
        calls = [asyncio.create_task(create()) for _ in range(80)]
        await until(
            lambda: lock_waits(service.engine) == service.app.state.services.settings.pool_size
        )
        other.rollback()
    assert sorted(await asyncio.gather(*calls)) == [201] * 3 + [409] * 77
    with service.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM webhooks")).scalar_one() == 50
    assert (await call("POST", WEBHOOKS, {"url": receiver.url}, service.foreign))[0] == 201


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (1, "callbackUrl must be a string"),
        (
            "example.com",
            "callbackUrl must be a URL such as https://example.com/hook, its host written in ASCII",
        ),
        (
            "https://10.0.0.1/",
            "callbackUrl must lead to a public address, over https on port 443 or 8443",
        ),
    ],
)
async def test_a_callback_is_checked_before_the_job_is_accepted(service, url, error):
    answer = await service.post(
        {"campaignId": "cmp", "leads": [{"externalId": "a"}], "callbackUrl": url}
    )
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert (await service.get("/api/v1/jobs")).json()["data"]["items"] == []


async def test_a_repeated_submission_is_answered_as_before_whatever_its_callback_leads_to_by_now(
    service, receiver, monkeypatch
):
    body = {"campaignId": "cmp", "leads": [{"externalId": "a"}], "callbackUrl": receiver.url}
    first = await service.post(body, headers={"idempotency-key": "k"})
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("10.0.0.1", 80))])
    again = await service.post(body, headers={"idempotency-key": "k"})
    assert (again.status_code, again.json()) == (first.status_code, first.json())


async def test_the_job_says_where_it_calls_back_and_so_does_the_one_that_follows(service, receiver):
    job_id = await service.submit({"externalId": "a"}, callbackUrl=receiver.url, mode="archive")
    assert (await service.job(job_id))["callbackUrl"] == receiver.url
    await service.work()
    restored = (await service.act(job_id, "restore")).json()["data"]["jobId"]
    assert (await service.job(restored))["callbackUrl"] == receiver.url


async def test_the_end_of_a_job_sends_a_message_to_the_deliverers_only_where_somebody_is_told(
    service, receiver
):
    sent = []
    await service.submit({"externalId": "a"})
    await asyncio.to_thread(run_next, service.engine, "jobs", Wake(lambda _: None, sent.append))
    assert WEBHOOKS_QUEUE not in sent
    await service.submit({"externalId": "b"}, callbackUrl=receiver.url)
    await asyncio.to_thread(run_next, service.engine, "jobs", Wake(lambda _: None, sent.append))
    assert sent.count(WEBHOOKS_QUEUE) == 1
