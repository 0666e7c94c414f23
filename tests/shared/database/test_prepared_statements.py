"""Behind a pooler that does not keep prepared statements nothing is prepared, and no call is
answered with 500.
"""

import asyncio
from contextlib import asynccontextmanager

import httpx2
from sqlalchemy import text

from api.app import create_app
from shared.database.engines import create_sync_engine, try_preparing
from shared.database.engines import database_url as parsed
from shared.database.prepared_statements import MISSING, are_kept
from tests.support.jobs import add_campaign, add_leads
from tests.support.pooler import pooled
from tests.support.stack import (
    environment,
    free_port,
    make_key,
    running_api,
    running_ticker,
    running_worker,
    wait_for,
)

PREPARED = text("SELECT count(*) FROM pg_prepared_statements")
ENTRIES = {"campaignId": "cmp", "leads": [{"externalId": "a"}]}


def prepared_after_ten(settings):
    """How many statements a connection has prepared after ten of one kind."""
    engine = create_sync_engine(settings, "tests", pool_size=1)
    with engine.connect() as connection:
        for _ in range(10):
            connection.execute(text("SELECT 1"))
            connection.commit()
        count = connection.execute(PREPARED).scalar_one()
    engine.dispose()
    return count


def test_without_a_pooler_and_behind_one_that_keeps_them_statements_are_prepared(settings):
    assert prepared_after_ten(settings) == 1
    with pooled(settings.database_url, in_transaction_mode=False) as pooler:
        assert prepared_after_ten(settings.model_copy(update={"database_url": pooler.url})) == 1
    assert prepared_after_ten(settings.model_copy(update={"prepare_statements": False})) == 0


def test_behind_a_pooler_that_gives_each_transaction_another_connection_nothing_is_prepared(
    settings, capsys
):
    with pooled(settings.database_url) as pooler:
        behind = settings.model_copy(update={"database_url": pooler.url})
        assert are_kept(parsed(pooler.url)) is False
        before = pooler.served
        assert are_kept(parsed(pooler.url)) is False
        assert pooler.served == before, "it is tried once"
        assert prepared_after_ten(behind) == 1, "what the trial has left there"
        assert "".join(capsys.readouterr()).count(MISSING) == 1


def test_a_database_that_is_away_is_tried_again_and_nothing_is_prepared_until_then(settings):
    away = parsed(f"postgresql://u:p@127.0.0.1:{free_port()}/x")
    assert are_kept(away) is None
    assert are_kept(parsed(settings.database_url)) is True


@asynccontextmanager
async def service_behind(pooler, settings, engine):
    """Calls to an API whose database is behind it, with a key; it has tried the pooler, as a
    process does when it begins.
    """
    behind = settings.model_copy(update={"database_url": pooler.url})
    await asyncio.to_thread(try_preparing, behind)
    app = create_app(behind)
    with engine.begin() as connection:
        add_campaign(connection)
        add_leads(connection, [("a", "+101")])
        headers = {"x-api-key": make_key(connection, "co")}
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    http = httpx2.AsyncClient(transport=transport, base_url="http://leadsweep", headers=headers)
    async with app.router.lifespan_context(app), http:
        yield http


async def statuses(http):
    """Of calls of several kinds at once, more than there are connections; each has five seconds,
    however busy the machine is.
    """
    calls = [http.post("/api/v1/leads/bulk-delete", json=ENTRIES) for _ in range(4)]
    calls += [http.get("/api/v1/jobs") for _ in range(4)]
    calls += [http.get("/api/v1/leads?campaignId=cmp") for _ in range(4)]
    return {answer.status_code for answer in await asyncio.gather(*calls)}


async def test_no_call_behind_such_a_pooler_is_refused(settings, engine):
    with pooled(settings.database_url) as pooler:
        async with service_behind(pooler, settings, engine) as http:
            for _ in range(20):
                assert await statuses(http) == {200, 202}


async def test_a_pooler_that_begins_to_lose_statements_costs_connections_and_never_a_500(
    settings, engine, capsys
):
    with pooled(settings.database_url, in_transaction_mode=False) as pooler:
        async with service_behind(pooler, settings, engine) as http:
            for _ in range(10):
                assert await statuses(http) == {200, 202}, "statements are prepared by now"
            pooler.in_transaction_mode = True
            seen = [await statuses(http) for _ in range(20)]
        assert set().union(*seen) <= {200, 202, 503}
        assert seen[-2:] == [{200, 202}] * 2
        assert "".join(capsys.readouterr()).count(MISSING) == 1


def test_all_processes_work_off_a_job_behind_such_a_pooler(settings, engine):
    with pooled(settings.database_url) as pooler:
        behind = environment(settings.model_copy(update={"database_url": pooler.url}))
        with engine.begin() as connection:
            add_campaign(connection)
            add_leads(connection, [(f"l{n}", None) for n in range(500)])
            key = make_key(connection, "co")
        with (
            running_api(behind) as url,
            running_worker(behind) as worker,
            running_ticker(behind) as ticker,
        ):
            leads = [{"externalId": f"l{n}"} for n in range(500)]
            for some in range(0, 500, 50):
                body = {"campaignId": "cmp", "leads": leads[some : some + 50]}
                answer = httpx2.post(
                    f"{url}/api/v1/leads/bulk-delete", json=body, headers={"x-api-key": key}
                )
                assert answer.status_code == 202, answer.text

            def all_done():
                with engine.connect() as connection:
                    return connection.execute(
                        text("SELECT sum(deleted) FROM jobs WHERE state = 'completed'")
                    ).scalar_one()

            assert wait_for(lambda: all_done() == 500)
            assert MISSING in worker.log.read_text()
            assert MISSING in ticker.log.read_text()
            assert "26000" not in worker.log.read_text()
