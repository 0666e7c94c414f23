"""Deliveries: which is sent next, what is sent, what follows from the answer. The clock is the
database's, and is moved there.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select, text, update

from shared.broker.wakeups import Wake
from shared.credentials import Vault, new_secret, new_secrets_key, retired
from shared.database.models import deliveries, jobs, webhooks
from shared.destinations import parse_networks
from tests.support.jobs import add_campaign, add_leads, queue_job, work_off
from tests.support.receiver import receiving
from tests.support.stack import lock_waits, wait_for
from worker.attempts import DELAYS, next_delay, parse_retry_after, record
from worker.composer import MAX_BODY
from worker.deliverer import Terms, deliver_next
from worker.outbox import (
    AT_ONCE,
    AT_ONCE_OF_COMPANY,
    CHEAP_BACKLOG,
    RETRIES_AT_ONCE,
    claim,
)
from worker.poster import Reply
from worker.purger import purge_identifiers

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """A company with a secret and a campaign, a receiver, and a deliverer's part."""

    def __init__(self, engine, receiver):
        self.engine, self.receiver = engine, receiver
        self.vault = Vault(new_secrets_key())
        self.terms = Terms(self.vault, parse_networks("127.0.0.0/8"))
        self.secret = new_secret()
        with engine.begin() as connection:
            add_campaign(connection)
        self.execute(
            "UPDATE companies SET webhook_secret = :secret", secret=self.vault.lock(self.secret)
        )

    def execute(self, statement, **values):
        with self.engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return result.all() if result.returns_rows else []

    def finished_job(self, entries=(("nobody", None),), *, path="/200", leads=(), **columns):
        """A job that has just ended, with a callback; its id."""
        url = self.receiver.url + path if path else None
        with self.engine.begin() as connection:
            if leads:
                add_leads(connection, leads)
            job_id = queue_job(connection, list(entries), callback_url=url, **columns)
        work_off(self.engine)
        return job_id

    def webhook(self, path="/200", *, company="co", **columns):
        """A standing endpoint; its id and secret."""
        webhook_id, secret = uuid4(), new_secret()
        values = {
            "id": webhook_id,
            "company_id": company,
            "url": self.receiver.url + path,
            "secret": self.vault.lock(secret),
        }
        values |= {"events": ["job.completed", "job.failed", "job.cancelled"]} | columns
        with self.engine.begin() as connection:
            connection.execute(insert(webhooks), values)
        return webhook_id, secret

    def pending(self, count, path="/200", *, company="co", **columns):
        """Tests that are due, to callbacks of one URL, as they stand after as many jobs."""
        url = self.receiver.url + path
        with self.engine.begin() as connection:
            add = {"company_id": company, "url": url, "event": "job.completed"} | columns
            job_id = queue_job(connection, [("nobody", None)], company=company, queue="none")
            connection.execute(
                insert(deliveries), [add | {"id": uuid4(), "job_id": job_id} for _ in range(count)]
            )
        self.execute(
            "UPDATE jobs SET state = 'completed', finished_at = now(), " + ZERO + " WHERE id = :id",
            id=job_id,
        )

    def claim(self):
        with self.engine.begin() as connection:
            return claim(connection)

    def claim_all(self):
        return list(iter(self.claim, None))

    def record(self, outbound, reply, seconds=0.01):
        with self.engine.begin() as connection:
            record(connection, outbound, reply, seconds)

    def deliver(self):
        """What a thread does with one message; the messages that it sends."""
        sent = []
        deliver_next(self.engine, self.terms, Wake(lambda _: None, sent.append))
        return sent

    def rows(self):
        with self.engine.connect() as connection:
            return connection.execute(
                select(deliveries).order_by(deliveries.c.created_at, deliveries.c.id)
            ).all()

    def row(self):
        (row,) = self.rows()
        return row

    def let_time_pass(self, seconds):
        """Moves everything that was written into the past."""
        past = f"interval '{seconds} s'"
        self.execute(
            f"UPDATE deliveries SET due_at = due_at - {past}, claimed_until = claimed_until -"
            f" {past}"
        )
        self.execute(
            f"UPDATE webhooks SET failing_since = failing_since - {past}, old_secrets = (SELECT"
            " coalesce(jsonb_agg("
            "earlier || jsonb_build_object('until', CAST(earlier ->> 'until' AS timestamptz) -"
            f" {past})), '[]')"
            " FROM jsonb_array_elements(old_secrets) AS earlier)"
        )


ZERO = (
    "deleted = 0, would_delete = 0, restored = 0, conflict = 0, not_found = 1, unprocessed = 0,"
    " invalid = 0"
)


@pytest.fixture
def world(engine):
    with receiving() as receiver:
        yield World(engine, receiver)


def test_the_end_of_a_job_is_told_to_its_callback_signed_and_complete(world):
    entries = [("a", None), (None, "+102"), ("nobody", None)]
    job_id = world.finished_job(entries, leads=[("a", None), ("b", "+102")], client_reference="r ü")
    world.deliver()
    (came,) = world.receiver.came
    event = came.verified(world.secret)
    with world.engine.connect() as connection:
        job = connection.execute(select(jobs)).one()
    finished_at = job.finished_at.astimezone(UTC).isoformat(timespec="milliseconds")
    assert event == {
        "type": "job.completed",
        "timestamp": finished_at.replace("+00:00", "Z"),
        "data": {
            "jobId": str(job_id),
            "campaignId": "cmp",
            "clientReference": "r ü",
            "status": "completed",
            "mode": "delete",
            "dryRun": False,
            "total": 3,
            "deleted": 2,
            "notFound": 1,
            "unprocessed": 0,
            "statusUrl": f"/api/v1/jobs/{job_id}",
            "deletedIdentifiers": ["a", "+102"],
            "notFoundIdentifiers": ["nobody"],
        },
    }
    row = world.row()
    assert UUID(came.headers["webhook-id"]) == row.id
    assert abs(int(came.headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60
    assert (row.state, row.error, len(row.tried)) == ("delivered", None, 1)
    assert row.tried[0]["status"] == 200
    assert row.tried[0]["latency"] >= 0


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_each_end_is_an_event_of_its_own_and_webhooks_hear_of_theirs(world, end):
    told, _ = world.webhook(events=[f"job.{end}"])
    world.webhook(
        events=[f"job.{other}" for other in ("completed", "failed", "cancelled") if other != end]
    )
    world.webhook(enabled=False)
    if end == "failed":
        world.execute("CREATE TABLE calls (lead_id bigint REFERENCES leads (id))")
        with world.engine.begin() as connection:
            add_leads(connection, [("a", None)])
        world.execute("INSERT INTO calls SELECT id FROM leads")
    world.finished_job([("a", None)], path=None, wanted="cancel" if end == "cancelled" else None)
    row = world.row()
    assert (row.webhook_id, row.event, row.state) == (told, f"job.{end}", "pending")
    world.deliver()
    assert json.loads(world.receiver.came[0].body)["data"]["status"] == end


def test_a_callback_and_several_webhooks_each_get_it_with_their_own_secret(world):
    secrets = {
        "/201": world.webhook("/201")[1],
        "/202": world.webhook("/202")[1],
        "/200": world.secret,
    }
    with world.engine.begin() as connection:
        add_campaign(connection, "theirs", company="other")
    world.webhook("/203", company="other")
    world.finished_job()
    world.deliver()
    assert {came.path for came in world.receiver.came} == set(secrets)
    for came in world.receiver.came:
        assert came.verified(secrets[came.path])["type"] == "job.completed"
    assert len({came.headers["webhook-id"] for came in world.receiver.came}) == 3


@pytest.mark.parametrize(("entries", "omitted"), [(1000, False), (1000, True), (1200, True)])
def test_a_body_stays_under_its_limit_and_says_so_where_lists_are_left_out(world, entries, omitted):
    longest = 19 if omitted else 12
    identifiers = [(f"{i:0{longest}d}", None) for i in range(entries)]
    world.finished_job(identifiers)
    world.deliver()
    (came,) = world.receiver.came
    content = came.verified(world.secret)["data"]
    assert len(came.body) < MAX_BODY == 20_000
    assert content["notFound"] == entries
    if omitted:
        assert content["identifiersOmitted"] is True
        assert not {"deletedIdentifiers", "notFoundIdentifiers"} & content.keys()
    else:
        assert content["notFoundIdentifiers"] == [identifier for identifier, _ in identifiers]
        assert "identifiersOmitted" not in content


def test_of_a_big_job_the_few_that_are_listed_are_sent(world):
    """A preview lists what it would delete nowhere, however much that is."""
    leads = [(f"crm-{i}", None) for i in range(2500)]
    entries = [*leads[:1700], ("nobody", None), *leads[1700:], ("nor he", None)]
    world.finished_job(entries, leads=leads, dry_run=True)
    world.deliver()
    (came,) = world.receiver.came
    content = came.verified(world.secret)["data"]
    assert (content["total"], content["deletedIdentifiers"], content["notFoundIdentifiers"]) == (
        2502,
        [],
        ["nobody", "nor he"],
    )


def test_what_is_purged_with_the_job_is_not_sent_any_more(world):
    world.finished_job(path="/500")
    world.deliver()
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET finished_at = finished_at - interval '31 days'"))
        purge_identifiers(connection, timedelta(days=30))
    world.let_time_pass(60)
    world.deliver()
    first, second = world.receiver.came
    assert b"nobody" in first.body
    assert b"nobody" not in second.body
    assert (
        json.loads(second.body)["data"] | {"notFound": 1, "identifiersOmitted": True}
        == json.loads(second.body)["data"]
    )
    assert "nobody" not in str(world.row())


def test_every_attempt_has_the_same_id_and_body_and_a_time_of_its_own(world):
    world.finished_job(path="/500")
    for _ in range(3):
        world.deliver()
        world.let_time_pass(2000)
    assert len(world.receiver.came) == 3
    assert len({(came.headers["webhook-id"], came.body) for came in world.receiver.came}) == 1
    for came in world.receiver.came:
        came.verified(world.secret)


def rotate(world):
    """Gives the webhook a new secret, which is returned."""
    secret = new_secret()
    old_secrets = retired(webhooks.c.secret, webhooks.c.old_secrets)
    with world.engine.begin() as connection:
        connection.execute(
            update(webhooks).values(secret=world.vault.lock(secret), old_secrets=old_secrets)
        )
    return secret


def signed_with(world, secrets):
    """Which of `secrets` sign what is sent now, and nothing else does."""
    world.finished_job(path=None)
    world.deliver()
    came = world.receiver.came[-1]
    good = [secret for secret in secrets if came.is_signed_with(secret)]
    assert len(came.headers["webhook-signature"].split()) == len(good)
    return good


def test_after_a_rotation_each_secret_of_before_signs_too_for_a_day_of_its_own(world):
    _, first = world.webhook()
    assert signed_with(world, [first]) == [first]
    second = rotate(world)
    world.let_time_pass(13 * 3600)
    third = rotate(world)
    secrets = [first, second, third]
    assert signed_with(world, secrets) == secrets
    world.let_time_pass(12 * 3600)
    assert signed_with(world, secrets) == [second, third]
    world.let_time_pass(12 * 3600)
    assert signed_with(world, secrets) == [third]


def test_of_many_secrets_of_before_the_latest_five_sign(world):
    secrets = [world.webhook()[1], *(rotate(world) for _ in range(7))]
    assert signed_with(world, secrets) == secrets[-6:]


def test_a_company_that_was_made_without_a_secret_gets_one_and_keeps_it(world):
    world.execute("UPDATE companies SET webhook_secret = NULL")
    world.finished_job()
    world.finished_job()
    world.deliver()
    ((locked,),) = world.execute("SELECT webhook_secret FROM companies")
    for came in world.receiver.came:
        came.verified(world.vault.unlock(locked))
    assert len(world.receiver.came) == 2


def test_a_secret_that_cannot_be_read_holds_up_no_other_delivery(world):
    world.webhook("/201", secret=Vault(new_secrets_key()).lock(new_secret()))
    world.finished_job()
    world.deliver()
    assert [came.path for came in world.receiver.came] == ["/200"]
    assert {row.state: row.tried[-1]["error"] for row in world.rows()} == {
        "pending": "not signed",
        "delivered": None,
    }


def test_the_schedule_is_that_of_the_specification_each_delay_a_fifth_longer_or_shorter():
    seconds = [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    assert [delay.total_seconds() for delay in DELAYS] == seconds
    for attempts, delay in enumerate(seconds, start=1):
        for spread in (-1, 0, 0.5, 1):
            expected = delay * (1 + 0.2 * spread)
            assert next_delay(attempts, Reply(500), NOW, spread) == timedelta(seconds=expected)
        drawn = [next_delay(attempts, Reply(500), NOW).total_seconds() for _ in range(200)]
        assert 0.8 * delay <= min(drawn) < 0.9 * delay
        assert 1.1 * delay < max(drawn) <= 1.2 * delay
    assert next_delay(10, Reply(500), NOW) is None


@pytest.mark.parametrize(
    ("status", "retry_after", "seconds"),
    [
        (429, "7200", 7200),
        (503, "7200", 7200),
        (503, "Thu, 01 Jan 2026 02:00:00 GMT", 7200),
        (429, "999999999999999999", 86400),
        (429, "Fri, 01 Jan 2099 02:00:00 GMT", 86400),
        (500, "7200", 5),
        (429, "1", 5),
        (429, "Mon, 01 Jan 2001 02:00:00 GMT", 5),
        (429, "soon", 5),
        (429, "-7200", 5),
        (429, "٣٦٠٠", 5),
        (429, "Thu, 01 Jan 2026 02:00:00", 7200),
        (429, "9" * 5000, 86400),
        (429, "", 5),
        (429, None, 5),
    ],
)
def test_retry_after_is_honoured_where_it_asks_for_longer_and_up_to_a_day(
    status, retry_after, seconds
):
    assert next_delay(1, Reply(status, retry_after), NOW, 0) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "written",
    [
        "x" * 10_000,
        "\xff",
        "1 2",
        "Thu, 99 Foo 2026 99:99:99 GMT",
        "Thu, 01 Jan 0001 00:00:00 +2359",
    ],
)
def test_rubbish_in_retry_after_is_nothing(written):
    assert parse_retry_after(written, NOW) <= timedelta(0)


def test_a_delivery_is_tried_ten_times_and_then_given_up(world):
    world.finished_job(path="/500")
    for attempt in range(1, 11):
        assert world.deliver() == []
        row = world.row()
        assert len(world.receiver.came) == len(row.tried) == attempt
        assert row.state == ("pending" if attempt < 10 else "failed")
        world.deliver()
        assert len(world.receiver.came) == attempt, "it is not due"
        world.let_time_pass(110_000)
    assert row.error == "all attempts failed"
    assert {attempt["status"] for attempt in row.tried} == {500}


@pytest.mark.parametrize("path", ["/301", "/302", "/400", "/404", "/500", "/redirect", "/reset"])
def test_anything_but_2xx_is_a_failure(world, path):
    world.finished_job(path=path)
    world.deliver()
    assert world.row().state == "pending"
    assert timedelta(seconds=3) < world.row().due_at - datetime.now(UTC) < timedelta(seconds=7)
    assert world.receiver.connections == 1


def test_410_ends_the_delivery_and_disables_the_webhook_with_all_that_waits_for_it(world):
    webhook_id, _ = world.webhook("/410")
    world.finished_job(path=None)
    world.finished_job(path="/410")
    world.execute("UPDATE deliveries SET due_at = due_at + interval '1 hour' WHERE url IS NOT NULL")
    world.finished_job(path=None)
    world.deliver()
    ((enabled, reason),) = world.execute("SELECT enabled, disabled_reason FROM webhooks")
    assert (enabled, reason) == (False, "It answered 410 Gone")
    of_webhook = [row for row in world.rows() if row.webhook_id == webhook_id]
    assert [row.error for row in of_webhook] == ["answered 410 Gone"] + [
        "the webhook was disabled"
    ] * 2
    world.finished_job(path=None)
    assert len(world.rows()) == 4, "nothing more is written for it"
    world.let_time_pass(3600)
    world.deliver()
    assert [row.error for row in world.rows() if row.url] == ["answered 410 Gone"]


def test_a_webhook_that_failed_for_five_days_is_disabled_and_says_why(world):
    webhook_id, _ = world.webhook("/500")
    world.finished_job(path=None)
    world.deliver()
    world.let_time_pass(5 * 24 * 3600 - 3600)
    world.deliver()
    assert world.execute("SELECT enabled FROM webhooks") == [(True,)]
    world.let_time_pass(3600)
    world.deliver()
    assert world.execute("SELECT enabled, disabled_reason FROM webhooks") == [
        (False, "Every attempt failed for 5 days")
    ]
    assert [row.error for row in world.rows() if row.webhook_id == webhook_id] == [
        "the webhook was disabled"
    ]


def test_one_success_in_between_and_it_is_not(world):
    world.webhook("/500")
    world.finished_job(path=None)
    world.deliver()
    world.let_time_pass(4 * 24 * 3600)
    world.receiver.script["/500"] = b"HTTP/1.1 200 x\r\ncontent-length: 0\r\n\r\n"
    world.deliver()
    del world.receiver.script["/500"]
    world.finished_job(path=None)
    world.let_time_pass(2 * 24 * 3600)
    world.deliver()
    assert world.execute("SELECT enabled FROM webhooks") == [(True,)]


def test_what_is_written_while_its_webhook_is_disabled_is_given_up_unsent_and_the_next_is_sent(
    world,
):
    world.webhook("/201")
    for _ in range(2):
        world.finished_job(path=None)
    world.finished_job()
    world.execute("UPDATE webhooks SET enabled = false")
    world.deliver()
    assert [came.path for came in world.receiver.came] == ["/200"]
    of_webhook = [row for row in world.rows() if row.webhook_id]
    assert [(row.state, row.error) for row in of_webhook] == [
        ("failed", "the webhook was disabled")
    ] * 3
    assert [(row.attempts, row.tried, row.claimed_until) for row in of_webhook] == [
        (0, [], None)
    ] * 3


def test_a_success_counts_also_where_another_attempt_failed_while_it_was_under_way(world):
    world.webhook()
    for _ in range(2):
        world.finished_job(path=None)
    good, bad = world.claim_all()
    world.record(bad, Reply(500))
    assert world.execute("SELECT FROM webhooks WHERE failing_since IS NOT NULL")
    world.record(good, Reply(200))
    assert world.execute("SELECT failing_since FROM webhooks") == [(None,)]


@pytest.mark.parametrize("status", [200, 410, 500])
def test_what_the_old_url_answered_says_nothing_of_a_webhook_whose_url_was_changed_meanwhile(
    world, status
):
    world.webhook("/410", failing_since=NOW)
    for _ in range(2):
        world.finished_job(path=None)
    held, other = world.claim_all()
    world.execute("UPDATE webhooks SET url = :url", url=f"{world.receiver.url}/200")
    world.record(held, Reply(status))
    assert world.execute("SELECT enabled, failing_since FROM webhooks") == [(True, NOW)]
    assert {row.id: row.state for row in world.rows()}[other.id] == "pending"


def test_that_we_cannot_sign_is_no_failure_of_the_webhook(world):
    world.webhook(secret=Vault(new_secrets_key()).lock(new_secret()))
    world.finished_job(path=None)
    world.deliver()
    assert world.row().tried[-1]["error"] == "not signed"
    assert world.execute("SELECT failing_since FROM webhooks") == [(None,)]


def test_a_test_is_sent_to_a_webhook_that_is_disabled_and_changes_nothing_about_it(world):
    webhook_id, _ = world.webhook(
        "/500", enabled=False, disabled_reason="It answered 410 Gone", failing_since=NOW
    )
    with world.engine.begin() as connection:
        connection.execute(
            insert(deliveries),
            {"id": uuid4(), "company_id": "co", "webhook_id": webhook_id, "event": "webhook.test"},
        )
    world.deliver()
    assert len(world.receiver.came) == 1
    assert world.execute("SELECT enabled, disabled_reason, failing_since FROM webhooks") == [
        (False, "It answered 410 Gone", NOW)
    ]
    assert world.row().state == "pending"


@pytest.mark.parametrize("then", ["DELETE FROM webhooks", "UPDATE deliveries SET due_at = due_at"])
@pytest.mark.parametrize("status", [200, 410, 500])
def test_who_records_takes_the_webhook_before_the_delivery_as_who_changes_or_deletes_it_does(
    world, status, then
):
    world.webhook(failing_since=NOW)
    world.finished_job(path=None)
    held = world.claim()
    with ThreadPoolExecutor() as other:
        with world.engine.begin() as connection:
            connection.execute(text("SELECT FROM webhooks FOR UPDATE"))
            recording = other.submit(world.record, held, Reply(status))
            wait_for(lambda: lock_waits(world.engine) == 1)
            connection.execute(text(then))
        recording.result(10)


def test_two_attempts_that_both_disable_their_webhook_are_recorded_one_after_the_other(world):
    world.webhook()
    for _ in range(3):
        world.finished_job(path=None)
    with ThreadPoolExecutor() as others:
        with world.engine.begin() as connection:
            connection.execute(text("SELECT FROM webhooks FOR UPDATE"))
            recording = [
                others.submit(world.record, held, Reply(410)) for held in world.claim_all()
            ]
            wait_for(lambda: lock_waits(world.engine) == 2)
        for attempt in recording:
            attempt.result(10)
    assert sorted(attempt["status"] for row in world.rows() for attempt in row.tried) == [410, 410]
    assert {row.state for row in world.rows()} == {"failed"}


def test_a_deliverer_that_dies_leaves_it_to_be_sent_again_with_the_same_id(world):
    world.finished_job()
    lost = world.claim()
    assert world.claim() is None, "it is in somebody's hands"
    world.let_time_pass(61)
    world.deliver()
    (came,) = world.receiver.came
    assert UUID(came.headers["webhook-id"]) == lost.id
    assert (world.row().state, len(world.row().tried)) == ("delivered", 2)
    world.record(lost, Reply(500))
    assert world.row().state == "delivered", "whose lease ran out has no say"


def test_no_more_than_two_at_once_go_to_one_receiver(world):
    world.pending(5)
    world.webhook()
    world.finished_job(path=None)
    held = world.claim_all()
    assert len(held) == AT_ONCE + 1, "a webhook is another receiver than a callback of the same URL"
    world.record(held[0], Reply(200))
    assert len(world.claim_all()) == 1


def test_one_company_does_not_take_all(world):
    with world.engine.begin() as connection:
        add_campaign(connection, "theirs", company="other")
    for receiver in range(AT_ONCE_OF_COMPANY):
        world.pending(2, f"/{200 + receiver}")
    world.pending(1, company="other")
    first, second, *_ = held = world.claim_all()
    assert len(held) == AT_ONCE_OF_COMPANY + 1
    by_id = {row.id: row.company_id for row in world.rows()}
    assert {by_id[first.id], by_id[second.id]} == {"co", "other"}, (
        "who has fewer under way comes first"
    )


def test_receivers_that_failed_before_leave_room_for_those_that_did_not(world):
    with world.engine.begin() as connection:
        for number in range(RETRIES_AT_ONCE):
            add_campaign(connection, f"cmp-{number}", company=f"co-{number}")
    for number in range(RETRIES_AT_ONCE):
        world.pending(2, f"/{number}", company=f"co-{number}", attempts=1)
    assert len(world.claim_all()) == RETRIES_AT_ONCE
    world.pending(1)
    assert len(world.claim_all()) == 1


def test_a_thread_that_sees_more_to_do_wakes_another_and_one_at_its_end_sends_for_the_rest(world):
    world.pending(1)
    assert world.deliver() == []
    world.pending(3)
    assert world.deliver() == ["webhooks"], "which is enough: it wakes the next"


@pytest.mark.parametrize(
    "backlog", [CHEAP_BACKLOG - 2, CHEAP_BACKLOG - 1, CHEAP_BACKLOG, 15 * CHEAP_BACKLOG]
)
def test_a_claim_looks_past_a_long_queue_of_a_receiver_that_hangs(world, backlog):
    world.pending(backlog, "/hang")
    world.claim_all()
    world.pending(1, "/201")
    assert world.claim().url.endswith("/201")


def test_what_is_removed_while_it_is_under_way_does_no_harm(world):
    webhook_id, _ = world.webhook()
    world.finished_job(path=None)
    held = world.claim()
    world.execute("DELETE FROM webhooks WHERE id = :id", id=webhook_id)
    world.record(held, Reply(500))
    assert world.rows() == []
    world.finished_job()
    held = world.claim()
    world.execute("DELETE FROM jobs")
    world.record(held, Reply(200))
    assert world.claim() is None


def test_only_the_last_fifty_attempts_are_kept(world):
    world.finished_job()
    world.execute(
        "UPDATE deliveries SET tried ="
        " (SELECT jsonb_agg(jsonb_build_object('at', n::text, 'status', 500, 'latency', 1,"
        " 'error', NULL))"
        " FROM generate_series(1, 50) AS n)"
    )
    world.deliver()
    tried = world.row().tried
    assert (len(tried), tried[0]["at"], tried[-1]["status"]) == (50, "2", 200)
