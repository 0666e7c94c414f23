"""What a key does not see costs what does not exist costs: the same statements, by the same plans,
of which no step reads what belongs to it. Otherwise the time that an answer takes would tell that
it is there, and how big it is.
"""

from uuid import UUID

import psycopg
import pytest
from sqlalchemy import event, text

from tests.api.calls import calls, send
from tests.support.stack import make_key

IDS = {"jobId": UUID(int=1), "webhookId": UUID(int=2), "deliveryId": UUID(int=3)}
NOBODYS = dict.fromkeys(IDS, UUID(int=4))

# A big job of another company that has ended, and what was told of it. Likewise its leads.
FILL = f"""
    INSERT INTO webhooks (id, company_id, url, events, secret)
    VALUES ('{IDS["webhookId"]}', 'other', 'https://example.com/', '{{job.completed}}', 'x');
    INSERT INTO jobs (id, company_id, campaign_id, total, state, started_at, finished_at, error,
        deleted, would_delete, restored,
        conflict, not_found, unprocessed, invalid, erased, lacks_plus, other_external_id)
    VALUES ('{IDS["jobId"]}', 'other', 'foreign', 20000, 'failed', now(), now(), 'x', 0, 0, 0, 0, 0,
        20000, 0, 0, 0, 0);
    INSERT INTO chunks (job_id, number, first_index, external_ids, phone_numbers, outcomes, state,
        unprocessed)
    SELECT CAST('{IDS["jobId"]}' AS uuid), n, n * 1000, array_fill('x'::text, ARRAY[1000]),
        array_fill(NULL::text, ARRAY[1000]),
        array_fill(6::smallint, ARRAY[1000]), 'done', 1000
    FROM generate_series(0, 19) AS n;
    INSERT INTO deliveries (id, company_id, job_id, webhook_id, event)
    SELECT CASE WHEN n = 0 THEN CAST('{IDS["deliveryId"]}' AS uuid) ELSE gen_random_uuid() END,
        'other',
        CAST('{IDS["jobId"]}' AS uuid), CAST('{IDS["webhookId"]}' AS uuid), 'job.failed'
    FROM generate_series(0, 499) AS n;
    INSERT INTO leads (campaign_id, external_id, phone_number)
    SELECT 'foreign', CASE WHEN n = 0 THEN 'a' ELSE 'foreign-' || n END, '+1' || n
        FROM generate_series(0, 2000) AS n;
"""
# More than of what is not there: the row that says whose it is. Which campaign a delivery is of,
# its job says, so that is looked up too, and its webhook.
PAGES = {"company": 1, "campaign": 8}


NOT_OF_THE_CALL = (
    "FROM api_keys",
    "UPDATE api_keys",
    "WHERE id = ANY(CAST(%(ids)s AS uuid[]))",
)  # who asks; who has ended


class Ears:
    """The statements of the API while it answers a call, but for those about keys, and about who
    waits.
    """

    def __init__(self, service):
        self.heard = []
        engine = service.app.state.services.engine.sync_engine
        event.listen(engine, "before_cursor_execute", self._hear)

    def _hear(self, _connection, _cursor, statement, parameters, *_rest):
        if not any(part in statement for part in NOT_OF_THE_CALL):
            self.heard.append((statement, parameters))

    def take(self):
        heard, self.heard = self.heard, []
        return heard


def explained(service, statement, parameters):
    """The shape of the plan by which it goes, and how many pages it touches."""
    url = service.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        for _ in range(2):  # the second time, what a session looks up once is there
            found = connection.execute(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
            ).fetchone()[0]
            connection.rollback()
    plan = found[0]["Plan"]
    return shape_of(plan), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def shape_of(plan):
    return (
        plan["Node Type"],
        plan.get("Index Name"),
        [shape_of(part) for part in plan.get("Plans", ())],
    )


async def compared(service, ears, pair, key):
    """The status of the call about what is there; how many pages more than about nothing each
    statement touches.
    """
    answers, statements, plans = [], [], []
    for call, names in zip(pair, (IDS, NOBODYS), strict=True):
        answers.append(await send(service, call, key, **names))
        heard = ears.take()
        statements.append([statement for statement, _ in heard])
        plans.append([explained(service, *one) for one in heard])
    assert answers[0].content == answers[1].content
    assert statements[0] == statements[1], pair
    assert [shape for shape, _ in plans[0]] == [shape for shape, _ in plans[1]], pair
    return answers[0].status_code, [
        pages - fewer for (_, pages), (_, fewer) in zip(*plans, strict=True)
    ]


@pytest.fixture
def ears(service):
    with service.engine.begin() as connection:
        connection.exec_driver_sql(f"{FILL}; ANALYZE")
    return Ears(service)


def asked_of(service, names):
    """The calls that name one of these, or a campaign: each about what is there, and about what is
    not.
    """
    pairs = zip(calls(service.app, "foreign"), calls(service.app, "nowhere"), strict=True)
    return [pair for pair in pairs if pair[0].names & names or pair[0] != pair[1]]


async def test_what_is_another_companys_costs_what_does_not_exist(service, ears):
    asked = asked_of(service, IDS.keys())
    assert len(asked) > 25
    for pair in asked:
        status, more = await compared(service, ears, pair, service.write)
        assert status == 200 if pair[0].operation == "listJobs" else status in {403, 404}, pair
        assert more, f"nothing was heard of {pair}"
        assert max(more) <= PAGES["company"], (pair, more)


async def test_what_is_another_campaigns_costs_a_key_of_one_campaign_what_does_not_exist(
    service, ears
):
    with service.engine.begin() as connection:
        connection.execute(text("INSERT INTO campaigns (id, company_id) VALUES ('its', 'other')"))
        key = make_key(connection, "other", campaign="its")
    for pair in asked_of(service, {"jobId", "deliveryId"}):
        status, more = await compared(service, ears, pair, key)
        assert status == 200 if pair[0].operation == "listJobs" else status in {403, 404}, pair
        assert more or not pair[0].names, (
            f"nothing was heard of {pair}"
        )  # the key itself tells of a campaign
        assert (
            max(more, default=0)
            <= PAGES["campaign" if "deliveryId" in pair[0].names else "company"]
        ), (pair, more)
