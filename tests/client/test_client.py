"""The client, sync and async alike: what it sends, how often, and what it makes of the answers.
First against a scripted server, then against the real one.
"""

import asyncio
import gzip
import io
import json
import re
import socket
import time
import traceback
from datetime import UTC, datetime, timedelta, timezone
from email.utils import formatdate
from inspect import isawaitable

import httpx2
import leadsweep
import pytest
from leadsweep import (
    AsyncClient,
    Client,
    Conflict,
    KeyRefused,
    NotFound,
    RateLimited,
    Refused,
    Retries,
    ServerFailed,
    ServerNotReached,
    WaitTimedOut,
)
from standardwebhooks import WebhookVerificationError

from shared.credentials import new_secret, sign
from tests.faults.conftest import ground  # noqa: F401 - a fixture
from tests.support.stack import PROJECT, running_api, running_ticker, running_worker, wait_for

NOTHING = (
    "requested clientReference sourceJobId error schedule callbackUrl maxLeadsPerSecond runAt "
    "startedAt finishedAt"
)
COUNTS = "processed deleted wouldDelete restored conflict notFound unprocessed invalid"
RUNNING = {
    **dict.fromkeys(f"{NOTHING} identifiersPurgedAt".split()),
    **dict.fromkeys(COUNTS.split(), 0),
    "jobId": "j",
    "campaignId": "c",
    "status": "running",
    "mode": "delete",
    "dryRun": False,
    "phoneFallback": True,
    "createdAt": "2026-01-01T02:00:00.000Z",
    "history": [],
    "resultsUrl": "/r",
    "total": 5,
}
COMPLETED = RUNNING | {"status": "completed"}
ACCEPTED = {
    "jobId": "j",
    "status": "queued",
    "total": 1,
    "createdAt": "2026-01-01T02:00:00.000Z",
    "runAt": None,
}
LEAD = {"externalId": "a"}


class Script:
    """A server that answers with `answers`, one after another, the last for ever: a status, headers
    and data; or an exception.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.pauses = []

    def __call__(self, request):
        self.requests.append((request, request.read()))
        return self._answer()

    async def async_call(self, request):
        self.requests.append((request, await request.aread()))
        return self._answer()

    def _answer(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        status, headers, content = answer
        if isinstance(content, bytes):
            return httpx2.Response(status, headers=headers, content=content)
        body = {"success": status < 400, "data": content} | {
            "error": None if status < 400 else content
        }
        return httpx2.Response(status, headers=headers, json=body)


@pytest.fixture(params=["sync", "async"])
def carried_out(request, monkeypatch):
    """Carries a call out on a client of either kind: `carried_out(script, lambda c:
    c.job("j"))`.
    """

    def run(script, do, retries=None):
        monkeypatch.setattr("time.sleep", script.pauses.append)
        if request.param == "sync":
            with Client(
                "http://leads", "key", retries=retries, transport=httpx2.MockTransport(script)
            ) as sync:
                result = do(sync)
                return result if not hasattr(result, "__next__") else list(result)

        async def pause(seconds):
            script.pauses.append(seconds)

        async def run_async():
            monkeypatch.setattr("asyncio.sleep", pause)
            transport = httpx2.MockTransport(script.async_call)
            async with AsyncClient(
                "http://leads", "key", retries=retries, transport=transport
            ) as concurrent:
                result = do(concurrent)
                return await result if isawaitable(result) else [item async for item in result]

        return asyncio.run(run_async())

    return run


def lost():
    return httpx2.ReadError("connection reset")


def test_what_fails_for_a_while_is_sent_again_with_the_same_key_after_a_random_pause(carried_out):
    script = Script(
        lost(),
        (503, {"retry-after": "5"}, "Service temporarily unavailable"),
        (502, {}, b"<html>"),
        (202, {}, ACCEPTED),
    )
    submitted = carried_out(script, lambda c: c.submit("cmp", [LEAD]))
    assert (submitted.job_id, submitted.replayed) == ("j", False)
    keys = {request.headers["idempotency-key"] for request, _ in script.requests}
    bodies = {body for _, body in script.requests}
    assert (len(script.requests), len(keys), len(bodies)) == (4, 1, 1)
    first, second, third = script.pauses
    assert 0 <= first <= 0.5
    assert 5 <= second <= 6
    assert 0 <= third <= 2
    assert script.requests[0][0].headers["x-api-key"] == "key"


def test_a_file_is_sent_again_from_its_beginning(carried_out):
    script = Script(lost(), (202, {"idempotency-replayed": "true"}, ACCEPTED))
    file = io.BytesIO(b"externalId\na\n")
    assert carried_out(
        script, lambda c: c.submit_file("cmp", file, media_type="text/csv", dry_run=True)
    ).replayed
    assert [body for _, body in script.requests] == [b"externalId\na\n"] * 2
    request = script.requests[0][0]
    assert dict(request.url.params) == {"campaignId": "cmp", "dryRun": "true", "onInvalid": "fail"}
    assert request.headers["content-type"] == "text/csv"


def test_what_never_succeeds_is_given_up_and_said_so(carried_out):
    for answer, error in (
        (lost(), ServerNotReached),
        ((500, {}, "Internal server error"), ServerFailed),
    ):
        script = Script(answer)
        with pytest.raises(error):
            carried_out(script, lambda c: c.job("j"), Retries(attempts=3))
        assert len(script.requests) == 3


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Refused),
        (401, KeyRefused),
        (403, KeyRefused),
        (404, NotFound),
        (409, Conflict),
        (422, Refused),
    ],
)
def test_what_is_refused_is_not_asked_again(carried_out, status, error):
    script = Script((status, {"x-request-id": "r"}, "the server's words"))
    with pytest.raises(error, match="the server's words") as raised:
        carried_out(script, lambda c: c.job("j"))
    assert (raised.value.status, raised.value.request_id, len(script.requests)) == (status, "r", 1)


def test_who_answers_in_the_servers_place_is_not_believed(carried_out):
    with pytest.raises(ServerFailed, match="not an answer of Leadsweep's"):
        carried_out(Script((200, {}, b"<html>welcome</html>")), lambda c: c.job("j"))
    with pytest.raises(Refused, match=r"redirects to https://leads\.example\.com/"):
        carried_out(
            Script((301, {"location": "https://leads.example.com/"}, b"")), lambda c: c.job("j")
        )


@pytest.mark.parametrize(
    "data",
    [
        b'{"jobId":"\xff"}',
        b"[" * 5000 + b"]" * 5000,
        b'{"items":[{"jobId":7}],"nextCursor":null}',
        b'{"items":[{"jobId":"\xff"}],"nextCursor":null}',
    ],
)
def test_what_cannot_be_read_is_no_answer_of_the_servers_whatever_is_wrong_with_it(
    carried_out, data
):
    body = b'{"success":true,"error":null,"data":%s}' % data
    with pytest.raises(ServerFailed, match="not an answer of Leadsweep's"):
        carried_out(Script((200, {}, body)), lambda c: c.job("j"))
    with pytest.raises(ServerFailed, match="not an answer of Leadsweep's"):
        carried_out(Script((200, {}, body)), lambda c: c.jobs())


@pytest.mark.parametrize(
    "words", [b"\xff", b"[" * 5000, b'{"success":false,"data":null,"error":"\xff"}']
)
def test_what_cannot_be_read_of_a_refusal_is_told_by_its_status(carried_out, words):
    with pytest.raises(Refused, match="HTTP 400"):
        carried_out(Script((400, {}, words)), lambda c: c.job("j"))


def test_a_rate_limit_is_waited_for_unless_it_takes_too_long(carried_out):
    script = Script((429, {"retry-after": "7"}, "slow down"), (202, {}, ACCEPTED))
    carried_out(script, lambda c: c.submit("cmp", [LEAD]))
    assert 7 <= script.pauses[0] <= 7.5
    with pytest.raises(RateLimited):
        carried_out(
            Script((429, {"retry-after": "3600"}, "slow down")), lambda c: c.submit("cmp", [LEAD])
        )


def test_the_server_may_say_when_by_a_date(carried_out):
    in_half_a_minute = formatdate(time.time() + 30, usegmt=True)
    script = Script((429, {"retry-after": in_half_a_minute}, "slow down"), (202, {}, ACCEPTED))
    carried_out(script, lambda c: c.submit("cmp", [LEAD]))
    assert 20 <= script.pauses[0] <= 31
    script = Script((200, {"retry-after": in_half_a_minute}, RUNNING), (200, {}, COMPLETED))
    assert carried_out(script, lambda c: c.wait("j", long_poll=False)).final
    assert 20 <= script.pauses[0] <= 31


def test_what_is_still_in_progress_elsewhere_is_sent_again(carried_out):
    in_progress = (409, {"retry-after": "1"}, "Another request is in progress; try again")
    script = Script(lost(), in_progress, (202, {}, ACCEPTED))
    assert carried_out(script, lambda c: c.submit("cmp", [LEAD])).job_id == "j"


def test_a_server_that_waits_by_default_is_asked_not_to_and_understood_if_it_has(carried_out):
    ended = {
        "deleted": 1,
        "notFound": 0,
        "deletedIdentifiers": ["a"],
        "notFoundIdentifiers": [],
        "jobId": "j",
    }
    script = Script(
        (200, {"idempotency-replayed": "true"}, ended | {"status": "completed"}),
        (200, {}, COMPLETED),
    )
    submitted = carried_out(script, lambda c: c.submit("cmp", [LEAD]))
    assert (submitted.job_id, submitted.total, submitted.replayed) == ("j", 5, True)
    assert script.requests[0][0].headers["prefer"] == "wait=0"


def test_who_cannot_know_whether_it_was_accepted_is_told_the_key_to_send_again(carried_out):
    script = Script(lost())
    with pytest.raises(ServerNotReached) as raised:
        carried_out(script, lambda c: c.submit("cmp", [LEAD]), Retries(attempts=2))
    assert raised.value.idempotency_key == script.requests[0][0].headers["idempotency-key"]


def test_an_answer_that_cannot_be_inflated_is_none(carried_out):
    with pytest.raises(ServerNotReached):
        carried_out(
            Script((200, {"content-encoding": "gzip"}, b"no gzip")),
            lambda c: c.job("j"),
            Retries(attempts=1),
        )


def test_an_id_stays_in_its_place(carried_out):
    script = Script((200, {}, ACCEPTED))
    carried_out(script, lambda c: c.act("x/cancel?", "pause"))
    assert script.requests[0][0].url.raw_path == b"/api/v1/jobs/x%2Fcancel%3F/pause"


def test_an_execution_is_sent_with_its_schedule(carried_out):
    script = Script((200, {}, ACCEPTED), (200, {}, ACCEPTED))
    carried_out(script, lambda c: c.act("x", "execute", schedule={"offPeak": True}))
    carried_out(script, lambda c: c.act("x", "execute"))
    sent = [
        (request.content, request.headers.get("content-type")) for request, *_ in script.requests
    ]
    assert sent == [(b'{"schedule":{"offPeak":true}}', "application/json"), (b"", None)]


@pytest.mark.parametrize("long_poll", [True, False])
def test_a_server_that_has_answered_once_is_waited_for_however_long_it_is_away(
    carried_out, long_poll
):
    away = [
        lost(),
        (503, {"retry-after": "5"}, "away"),
        (429, {"retry-after": "3600"}, "slow down"),
    ] * 5
    script = Script((200, {"retry-after": "1"}, RUNNING), *away, (200, {}, COMPLETED))
    assert carried_out(script, lambda c: c.wait("j", long_poll=long_poll)).final
    assert len(script.requests) == 17


def test_waiting_keeps_to_its_time_and_never_says_that_the_job_failed(carried_out, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for away in (
        lost(),
        (429, {"retry-after": "100"}, "slow down"),
        (503, {"retry-after": "100"}, "away"),
    ):
        script = Script((200, {"retry-after": "1"}, RUNNING), away)
        script.pauses = Clock(now)
        began = now[0]
        with pytest.raises(WaitTimedOut, match="still running, 0 of 5"):
            carried_out(script, lambda c: c.wait("j", timeout=20, long_poll=False))
        assert now[0] - began == pytest.approx(20)


class Clock(list):
    """Pauses that take their time."""

    def __init__(self, now):
        self.now = now

    def append(self, seconds):
        super().append(seconds)
        self.now[0] += seconds


def test_a_server_that_takes_the_connection_and_says_nothing_is_not_waited_for_longer_than_said():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with (
            Client(f"http://127.0.0.1:{silent.getsockname()[1]}", "k") as patient,
            pytest.raises(ServerNotReached),
        ):
            patient.job("j", timeout=0.1)
        assert time.monotonic() - began < 10, "its usual patience is 30 s, eight times"


def test_leads_too_long_for_a_request_go_as_a_file(carried_out):
    script = Script((202, {}, ACCEPTED))
    carried_out(
        script,
        lambda c: c.submit(
            "cmp", [{"externalId": "ü" * 255, "phoneNumber": "+" * 32, "x": "y" * 600}] * 1000
        ),
    )
    assert script.requests[0][0].url.path == "/api/v1/leads/bulk-delete/files"


def test_what_cannot_be_read_again_is_refused_at_once(carried_out):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    with pytest.raises(ValueError, match="copy it first"):
        carried_out(
            Script((202, {}, ACCEPTED)),
            lambda c: c.submit_file("cmp", Pipe(b"externalId\na\n"), media_type="text/csv"),
        )


@pytest.mark.parametrize("count", [3, 2500])
async def test_leads_may_come_as_they_are_awaited(count):
    async def entries():
        for number in range(count):
            yield {"externalId": str(number)}

    script = Script((202, {}, ACCEPTED))
    async with AsyncClient(
        "http://leads", "key", transport=httpx2.MockTransport(script.async_call)
    ) as leads:
        await leads.submit("cmp", entries())
    assert script.requests[0][1].count(b"externalId") == count
    with Client("http://leads", "key") as sync, pytest.raises(TypeError, match="AsyncClient"):
        sync.submit("cmp", entries())


def test_the_options_are_those_of_the_api(carried_out):
    script = Script((202, {}, ACCEPTED))
    schedule = {"offPeak": True}
    options = {
        "client_reference": "r",
        "phone_fallback": False,
        "mode": "archive",
        "dry_run": True,
        "schedule": schedule,
    }
    options |= {
        "callback_url": "https://x.example/",
        "max_leads_per_second": 7,
        "idempotency_key": "mine",
    }
    carried_out(script, lambda c: c.submit("cmp", [LEAD], **options))
    carried_out(script, lambda c: c.submit("cmp", [LEAD] * 1001, **options))
    (_, body), (file_request, file) = script.requests
    fields = {
        "clientReference": "r",
        "phoneFallback": False,
        "mode": "archive",
        "dryRun": True,
        "schedule": schedule,
    }
    fields |= {"callbackUrl": "https://x.example/", "maxLeadsPerSecond": 7}
    assert json.loads(body) == {"campaignId": "cmp", "leads": [LEAD]} | fields
    query = dict(file_request.url.params)
    assert {
        name: json.loads(value)
        if name in {"schedule", "dryRun", "phoneFallback", "maxLeadsPerSecond"}
        else value
        for name, value in query.items()
    } == {"campaignId": "cmp"} | fields
    assert file == b'{"externalId":"a"}\n' * 1001
    assert file_request.headers["idempotency-key"] == "mine"


def test_what_a_file_calls_the_identifiers_is_sent_as_lines_of_csv(carried_out, tmp_path):
    (tmp_path / "crm.csv").write_bytes(b"x")
    script = Script((202, {}, ACCEPTED))
    columns = {"externalId": 'CRM, "ID"', "phoneNumber": "Tel."}
    options = {
        "columns": columns,
        "ignore": ["fax", "a,b"],
        "phone_region": "DE",
        "phone_fallback": "onlyIfUnidentified",
    }
    carried_out(script, lambda c: c.submit_file("cmp", tmp_path / "crm.csv", **options))
    assert dict(script.requests[0][0].url.params) == {
        "campaignId": "cmp",
        "onInvalid": "fail",
        "columns": '"externalId:CRM, ""ID""",phoneNumber:Tel.',
        "ignore": 'fax,"a,b"',
        "phoneRegion": "DE",
        "phoneFallback": "onlyIfUnidentified",
    }


def test_the_name_of_a_file_says_what_it_is(carried_out, tmp_path):
    for name, media_type in (
        ("a.csv", "text/csv"),
        ("a.ndjson.gz", "application/x-ndjson"),
        ("a.tsv.gz", "text/csv"),
    ):
        (tmp_path / name).write_bytes(gzip.compress(b"x") if name.endswith("gz") else b"x")
        script = Script((202, {}, ACCEPTED))
        carried_out(script, lambda c, name=name: c.submit_file("cmp", tmp_path / name))
        headers = script.requests[0][0].headers
        assert (headers["content-type"], headers.get("content-encoding")) == (
            media_type,
            "gzip" if name.endswith("gz") else None,
        )
    (tmp_path / "leads").write_bytes(b"x")
    with pytest.raises(ValueError, match="give a media_type"):
        carried_out(Script((202, {}, ACCEPTED)), lambda c: c.submit_file("cmp", tmp_path / "leads"))


def test_items_of_all_pages_come_one_after_another(carried_out):
    item = {
        "index": 0,
        "externalId": "a",
        "phoneNumber": None,
        "identifier": "a",
        "outcome": "deleted",
        "matchedBy": None,
        "reason": None,
        "new": 1,
    }
    script = Script(
        (200, {}, {"items": [item] * 2, "nextCursor": "2"}),
        lost(),
        (200, {}, {"items": [item], "nextCursor": None}),
    )
    results = carried_out(script, lambda c: c.results("j", outcome="deleted"))
    assert [result.identifier for result in results] == ["a"] * 3
    assert [request.url.params.get("cursor") for request, _ in script.requests] == [None, "2", "2"]


def test_jobs_are_asked_for_by_the_time_at_which_they_were_created(carried_out):
    script = Script(
        (200, {}, {"items": [COMPLETED], "nextCursor": "2"}),
        (200, {}, {"items": [], "nextCursor": None}),
    )
    since = datetime(2026, 1, 31, 22, tzinfo=timezone(timedelta(hours=1)))
    found = carried_out(
        script,
        lambda c: c.jobs(created_after=since, created_before=datetime(2026, 2, 1, tzinfo=UTC)),
    )
    assert [job.job_id for job in found] == ["j"]
    asked = [
        (r.url.params["createdAfter"], r.url.params["createdBefore"]) for r, _ in script.requests
    ]
    assert asked == [("2026-01-31T22:00:00+01:00", "2026-02-01T00:00:00+00:00")] * 2, (
        "of every page"
    )


def test_a_webhook_is_verified_and_read():
    secret, now = new_secret(), datetime.now(UTC)
    ended = {
        "jobId": "j",
        "campaignId": "c",
        "clientReference": None,
        "status": "completed",
        "mode": "delete",
        "dryRun": False,
    }
    ended |= {
        "total": 2,
        "deleted": 1,
        "notFound": 1,
        "unprocessed": 0,
        "statusUrl": "/j",
        "deletedIdentifiers": ["a"],
    }
    body = json.dumps(
        {"type": "job.completed", "timestamp": "2026-01-01T02:00:00.000Z", "data": ended}
    ).encode()
    headers = sign([secret], "msg_1", now, body)
    event = leadsweep.verify(body, headers, new_secret(), secret)
    assert (event.type, event.job.job_id, event.job.deleted_identifiers) == (
        "job.completed",
        "j",
        ["a"],
    )
    test = json.dumps(
        {
            "type": "webhook.test",
            "timestamp": "2026-01-01T02:00:00.000Z",
            "data": {"webhookId": "w"},
        }
    ).encode()
    assert leadsweep.verify(test, sign([secret], "msg_2", now, test), secret).job is None
    for secrets in ((), (new_secret(),)):
        with pytest.raises(WebhookVerificationError):
            leadsweep.verify(body, headers, *secrets)


@pytest.fixture
def server(ground):  # noqa: F811
    """A whole stack; yields the ground it is on, with its `url`."""
    with (
        running_api(ground.env()) as url,
        running_worker(ground.env()),
        running_ticker(ground.env()),
    ):
        ground.url = url
        yield ground


def test_the_whole_way_against_the_real_server(server):
    pairs = server.add_leads(1500)
    with Client(server.url, server.key) as leads:
        entries = [{"externalId": e} for e, _ in pairs] + [{"phoneNumber": "+998"}, LEAD]
        submitted = leads.submit("cmp", iter(entries), client_reference="all")
        job = leads.wait(submitted.job_id, timeout=30)
        assert (job.status, job.deleted, job.not_found, job.identifiers_omitted) == (
            "completed",
            1500,
            2,
            True,
        )
        assert [r.identifier for r in leads.results(job.job_id, outcome="notFound")] == [
            "+998",
            "a",
        ]
        assert [j.job_id for j in leads.jobs(client_reference="all")] == [job.job_id]
        assert [j.job_id for j in leads.jobs(created_after=job.created_at)] == [job.job_id]
        assert list(leads.jobs(created_before=job.created_at)) == []
        slow = leads.submit(
            "cmp", [{"externalId": f"x{i}"} for i in range(500)], max_leads_per_second=10
        )
        with pytest.raises(WaitTimedOut, match="it goes on") as raised:
            leads.wait(slow.job_id, timeout=0.3, long_poll=False)
        assert raised.value.job.status in {"queued", "running"}
        assert leads.change_pace(slow.job_id, None).max_leads_per_second is None
        assert leads.wait(slow.job_id, long_poll=False).status == "completed"
        with pytest.raises(Conflict, match="completed"):
            leads.act(slow.job_id, "pause")
    with pytest.raises(KeyRefused), Client(server.url, "nobody") as stranger:
        next(stranger.jobs())


def test_the_example_of_the_guide_runs(server, monkeypatch):
    server.add_leads(1)
    monkeypatch.setenv("LEADSWEEP_API_KEY", server.key)
    (example,) = re.findall(
        r"^```py\n(.*?)^```",
        (PROJECT / "docs/how-to/python.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    names = {}
    exec(
        compile(
            example.replace("http://127.0.0.1:8000", server.url).replace('"spring"', '"cmp"'),
            "README.md",
            "exec",
        ),
        names,
    )
    assert (names["job"].status, len(names["unknown"])) == ("completed", 100_000)


def test_a_pace_is_kept_on_the_whole_stack(server):
    """Over ten seconds, within a tenth; the job's own start aside, as its first half second's worth
    is done at once.
    """
    with Client(server.url, server.key) as leads:
        job_id = leads.submit(
            "cmp", [{"externalId": f"x{i}"} for i in range(1000)], max_leads_per_second=50
        ).job_id
        seen = []

        def ten_seconds_are_over():
            job = leads.job(job_id)
            if job.processed and (not seen or job.processed > seen[-1][1]):
                seen.append((time.monotonic(), job.processed))
            return seen and seen[-1][0] - seen[0][0] >= 10

        wait_for(ten_seconds_are_over, 30)
        leads.act(job_id, "cancel")
    (began, before), (ended, after) = seen[0], seen[-1]
    assert 45 <= (after - before) / (ended - began) <= 55


async def test_the_async_client_waits_for_many_at_once(server):
    pairs = server.add_leads(30)
    async with AsyncClient(server.url, server.key) as leads:
        submitted = await asyncio.gather(
            *(leads.submit("cmp", [{"externalId": e}]) for e, _ in pairs)
        )
        jobs = await asyncio.gather(*(leads.wait(one.job_id) for one in submitted))
    assert {(job.status, job.deleted) for job in jobs} == {("completed", 1)}


def test_what_a_server_says_does_not_steer_the_terminal_of_a_traceback():
    said = "evil\x1b[2J\x9b31m\u202e\u2028\r\nforged ä"
    for error in (
        leadsweep.LeadsweepError(said),
        Refused(said, 400, "r"),
        Conflict(said, 409, None),
        ServerFailed(said),
    ):
        assert error.args[0] == said
        shown = "".join(traceback.format_exception(error))
        assert all(character == "\n" or character.isprintable() for character in shown)
        assert str(error) == "evil\\x1b[2J\\x9b31m\\u202e\\u2028\\r\\nforged ä"
