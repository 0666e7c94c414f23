"""The calls about leads, webhooks and deliveries, of both clients, against the real stack."""

import asyncio
from inspect import isawaitable

import httpx2
import pytest
from leadsweep import (
    AsyncClient,
    Client,
    NotFound,
    Refused,
    Retries,
    ServerFailed,
    ServerNotReached,
    verify,
)

from shared.destinations import LOOPBACK
from tests.faults.conftest import ground  # noqa: F401 - a fixture
from tests.support.receiver import receiving
from tests.support.stack import (
    running_api,
    running_deliverer,
    running_ticker,
    running_worker,
    wait_for,
)


@pytest.fixture
def server(ground):  # noqa: F811
    """A whole stack, whose webhooks may go to this machine; yields the ground, with its `url`."""
    env = ground.env(LEADSWEEP_WEBHOOK_ALLOW=LOOPBACK)
    with (
        running_api(env) as url,
        running_worker(env),
        running_deliverer(env),
        running_ticker(env),
    ):
        ground.url = url
        yield ground


@pytest.fixture(params=["sync", "async"])
def carry_out(request, server):
    """Carries a call out on a client of either kind: `carry_out(lambda c: c.job("j"))`."""

    def run(do):
        if request.param == "sync":
            with Client(server.url, server.key) as client:
                result = do(client)
                return list(result) if hasattr(result, "__next__") else result

        async def run_async():
            async with AsyncClient(server.url, server.key) as client:
                result = do(client)
                return await result if isawaitable(result) else [item async for item in result]

        return asyncio.run(run_async())

    return run


def test_leads_are_created_listed_found_and_deleted(carry_out):
    leads = [
        {"externalId": f"crm-{i}", "phoneNumber": f"+1555{i:07d}", "metadata": {"i": i}}
        for i in range(1001)
    ]
    created = carry_out(lambda c: c.create_leads("cmp", iter([*leads, leads[0]])))
    assert (created.created, created.skipped) == (1001, 1)
    assert len(set(created.created_ids)) == 1001
    assert created.skipped_identifiers == ["crm-0"]
    listed = carry_out(lambda c: c.leads("cmp"))
    assert {lead.external_id for lead in listed} == {lead["externalId"] for lead in leads}
    (found,) = carry_out(lambda c: c.find_leads("cmp", external_id="crm-7"))
    assert (found.campaign_id, found.phone_number, found.metadata, found.created_at.tzinfo) == (
        "cmp",
        "+15550000007",
        {"i": 7},
        found.created_at.tzinfo,
    )
    assert found.id in created.created_ids
    assert carry_out(lambda c: c.find_leads("cmp", phone_number="+15550000007")) == [found]
    assert carry_out(lambda c: c.delete_lead("cmp", external_id="crm-7")) == 0
    assert carry_out(lambda c: c.find_leads("cmp", external_id="crm-7")) == []
    with pytest.raises(NotFound):
        carry_out(lambda c: c.delete_lead("cmp", phone_number="+15550000007"))
    with pytest.raises(ValueError, match="external_id or a phone_number"):
        carry_out(lambda c: c.delete_lead("cmp"))
    with pytest.raises(Refused, match="leads\\[0\\]"):
        carry_out(lambda c: c.create_leads("cmp", [{}]))


def test_webhooks_are_created_changed_tested_rotated_and_deleted(carry_out, server):
    server.add_leads(1)
    with receiving() as receiver:
        url = f"{receiver.url}/200"
        made = carry_out(lambda c: c.create_webhook(url, description="CRM"))
        assert (made.url, made.description, made.enabled) == (url, "CRM", True)
        assert made.secret.startswith("whsec_")
        assert [one.webhook_id for one in carry_out(lambda c: c.webhooks())] == [made.webhook_id]
        assert carry_out(lambda c: c.webhook(made.webhook_id)).secret is None
        sent = carry_out(lambda c: c.test_webhook(made.webhook_id))
        assert (sent.event, sent.webhook_id, sent.job_id) == (
            "webhook.test",
            made.webhook_id,
            None,
        )

        def arrived(count):
            tests = carry_out(lambda c: c.deliveries(made.webhook_id, event="webhook.test"))
            return tests[0].status == "delivered" and len(receiver.came) >= count and tests[0]

        delivered = wait_for(lambda: arrived(1))
        assert delivered.attempts[-1].status_code == 200
        request = receiver.came[0]
        assert verify(request.body, request.headers, made.secret).type == "webhook.test"
        assert carry_out(lambda c: c.redeliver(delivered.delivery_id)).status == "pending"
        wait_for(lambda: arrived(2))

        job = carry_out(lambda c: c.submit("cmp", [{"externalId": "crm-0"}]))
        carry_out(lambda c: c.wait(job.job_id, timeout=30))
        (told,) = wait_for(lambda: carry_out(lambda c: c.deliveries_of_job(job.job_id)))
        assert (told.event, told.job_id) == ("job.completed", job.job_id)

    rotated = carry_out(lambda c: c.rotate_secret(made.webhook_id))
    assert rotated.secret != made.secret
    assert rotated.old_secret_until is not None
    changed = carry_out(
        lambda c: c.change_webhook(made.webhook_id, events=["job.failed"], enabled=False)
    )
    assert (changed.events, changed.enabled, changed.description) == (["job.failed"], False, "CRM")
    assert carry_out(lambda c: c.delete_webhook(made.webhook_id)) is None
    with pytest.raises(NotFound):
        carry_out(lambda c: c.webhook(made.webhook_id))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx2.ReadError("lost"), ServerNotReached),
        (httpx2.Response(503, headers={"retry-after": "1"}), ServerFailed),
    ],
)
def test_a_webhook_that_may_have_been_made_is_not_made_again(answer, error):
    calls = []

    def serve(request):
        calls.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    transport = httpx2.MockTransport(serve)
    with (
        Client("http://leads", "key", transport=transport) as client,
        pytest.raises(error),
    ):
        client.create_webhook("https://crm.example.com/")
    assert len(calls) == 1


def test_a_webhook_that_cannot_have_been_made_is_tried_again():
    answers = [httpx2.ConnectError("refused"), httpx2.Response(429), httpx2.Response(401)]

    def serve(_request):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    retries = Retries(first=0.01)
    with (
        Client(
            "http://leads", "key", retries=retries, transport=httpx2.MockTransport(serve)
        ) as client,
        pytest.raises(Refused),
    ):
        client.create_webhook("https://crm.example.com/")
    assert answers == []
