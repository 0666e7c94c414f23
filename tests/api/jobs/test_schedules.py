"""When a job is to run: what is answered, and what becomes of it as its time comes and goes. Time
passes by SQL.
"""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from sqlalchemy import text

from api.app import create_app
from shared.windows import next_opening, parse_window
from tests.api.conftest import Service
from tests.support.jobs import job_row, one_tick

LEAD = {"externalId": "a"}


def database_now(service):
    with service.engine.begin() as connection:
        return connection.execute(text("SELECT clock_timestamp()")).scalar_one()


def window_in(service, begins, ends):
    """The window, in UTC, from so many hours from now on to so many; whole hours, so that they may
    not be exact.
    """
    now = database_now(service)
    return {
        name: f"{(now + timedelta(hours=h)).hour:02}:00"
        for name, h in (("start", begins), ("end", ends))
    }


def let_pass(service, job_id, **time):
    """As if so much time had passed for this job."""
    values = {"id": job_id, "time": timedelta(**time)}
    shift = text(
        "UPDATE jobs SET run_at = run_at - :time, closes_at = closes_at - :time WHERE id = :id"
    )
    with service.engine.begin() as connection:
        connection.execute(shift, values)


async def states(service, job_id):
    return [change["status"] for change in (await service.job(job_id))["history"]]


async def test_a_job_runs_at_its_time_and_not_before(service):
    run_at = (database_now(service) + timedelta(hours=2)).astimezone(UTC).replace(microsecond=0)
    answer = await service.post(
        {"campaignId": "cmp", "leads": [LEAD], "schedule": {"runAt": run_at.isoformat()}}
    )
    accepted = answer.json()["data"]
    assert (answer.status_code, accepted["status"]) == (202, "scheduled")
    assert accepted["runAt"] == run_at.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    job_id = accepted["jobId"]
    assert one_tick(service.engine) == []
    await service.work()
    job = await service.job(job_id)
    assert (job["status"], job["schedule"], job["startedAt"]) == (
        "scheduled",
        {"runAt": run_at.isoformat()},
        None,
    )
    let_pass(service, job_id, hours=2)
    assert one_tick(service.engine) == ["jobs"]
    await service.work()
    assert await states(service, job_id) == ["scheduled", "queued", "running", "completed"]


@pytest.mark.parametrize(
    "run_at", ["2020-01-01T00:00:00Z", "2020-01-01T05:30:00+05:30", "1999-12-31T23:59:59.999-11:00"]
)
async def test_a_time_in_the_past_is_now(service, run_at):
    job_id = await service.submit(LEAD, schedule={"runAt": run_at})
    assert (await service.job(job_id))["status"] == "queued"
    await service.work()
    assert (await service.job(job_id))["status"] == "completed"


@pytest.mark.parametrize("run_at", ["2027-11-23T12:00:00Z", "9999-12-31T00:00:00Z"])
async def test_a_time_far_ahead_is_kept(service, run_at):
    job_id = await service.submit(LEAD, schedule={"runAt": run_at})
    one_tick(service.engine)
    job = await service.job(job_id)
    assert (job["status"], job["runAt"][:19]) == ("scheduled", run_at[:19])


async def test_a_window_that_is_open_lets_the_job_run_at_once(service):
    job_id = await service.submit(LEAD, schedule={"window": window_in(service, -1, 3)})
    job = await service.job(job_id)
    assert job["status"] == "queued"
    assert job["runAt"] < job["createdAt"]
    assert one_tick(service.engine) == ["off-peak"], "beside ordinary jobs, not before them"
    await service.work()
    assert (await service.job(job_id))["status"] == "completed"


async def test_a_window_that_is_shut_makes_the_job_wait_for_its_opening(service):
    window = window_in(service, 2, 4)
    job_id = await service.submit(LEAD, schedule={"window": window})
    job = await service.job(job_id)
    assert (job["status"], job["schedule"]) == ("scheduled", {"window": window})
    assert job["runAt"][11:16] == window["start"]
    await service.work()
    assert (await service.job(job_id))["deleted"] == 0
    let_pass(service, job_id, hours=2)
    one_tick(service.engine)
    await service.work()
    assert (await service.job(job_id))["status"] == "completed"


async def test_when_a_window_shuts_the_job_waits_for_the_next_opening_and_goes_on_there(
    settings, engine
):
    app = create_app(settings.model_copy(update={"chunk_size": 1}))
    async with app.router.lifespan_context(app):
        service = Service(app, engine)
        window = window_in(service, -1, 2)
        job_id = await service.submit(
            LEAD, {"externalId": "b"}, {"externalId": "c"}, schedule={"window": window}
        )
        with (
            engine.begin() as connection
        ):  # the last chunk is a day off, so that the window shuts before the job is done
            connection.execute(
                text(
                    "UPDATE chunks SET retry_at = clock_timestamp() + interval '1 day'"
                    " WHERE number > 0"
                )
            )
        await service.work()
        job = await service.job(job_id)
        assert (job["status"], job["processed"]) == ("running", 1)
        with engine.begin() as connection:
            connection.execute(text("UPDATE chunks SET retry_at = '-infinity' WHERE number > 0"))
            connection.execute(text("UPDATE jobs SET closes_at = clock_timestamp()"))
        await service.work()
        assert (await service.job(job_id))["processed"] == 1, (
            "nothing is claimed from then on, with or without a ticker"
        )
        one_tick(engine)
        job = await service.job(job_id)
        opening = next_opening(
            parse_window(f"{window['start']}-{window['end']}"), database_now(service)
        )
        with engine.begin() as connection:
            row = job_row(connection, job_id)
        assert (row.state, row.run_at, row.closes_at, row.wanted) == (
            "scheduled",
            opening.opens,
            opening.closes,
            None,
        )
        one_tick(engine)
        await service.work()
        assert (await service.job(job_id))["status"] == "completed"
        assert await states(service, job_id) == [
            "queued",
            "running",
            "scheduled",
            "queued",
            "running",
            "completed",
        ]
        await service.http.aclose()


async def test_a_job_that_missed_its_window_gets_the_next_one(service):
    """No ticker ran while it was open."""
    job_id = await service.submit(LEAD, schedule={"window": window_in(service, 2, 4)})
    let_pass(service, job_id, hours=24 * 3)
    one_tick(service.engine)
    await service.work()
    job = await service.job(job_id)
    assert (job["status"], job["processed"]) == ("scheduled", 0)
    assert job["runAt"] > job["createdAt"]
    assert await states(service, job_id) == ["scheduled"]


async def test_off_peak_is_the_window_of_the_campaign_or_else_of_the_server(service):
    def opening(window):
        return next_opening(parse_window(window), database_now(service)).opens.strftime(
            "%Y-%m-%dT%H:%M:%S.000Z"
        )

    server = await service.job(await service.submit(LEAD, schedule={"offPeak": True}))
    with service.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE campaigns SET off_peak = '01:23-01:24 wed Asia/Kathmandu' WHERE id = 'cmp'"
            )
        )
    own = await service.job(await service.submit(LEAD, schedule={"offPeak": True}))
    assert (server["runAt"], own["runAt"]) == (
        opening("22:00-06:00"),
        opening("01:23-01:24 wed Asia/Kathmandu"),
    )


async def test_a_campaigns_window_that_makes_no_sense_is_the_servers(service):
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE campaigns SET off_peak = 'at night' WHERE id = 'cmp'"))
    job = await service.job(await service.submit(LEAD, schedule={"offPeak": True}))
    assert job["runAt"] == next_opening(
        parse_window("22:00-06:00"), database_now(service)
    ).opens.strftime("%Y-%m-%dT%H:%M:%S.000Z")


async def test_a_window_whose_time_zone_is_gone_stops_neither_the_ticker_nor_other_jobs(service):
    lost = await service.submit(LEAD, schedule={"window": window_in(service, -1, 2)})
    other = await service.submit(
        {"externalId": "b"}, schedule={"window": window_in(service, -1, 2)}
    )
    with service.engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET run_window = '22:00-06:00 mon-sun Mars/Olympus' WHERE id = :id"),
            {"id": lost},
        )
        connection.execute(text("UPDATE jobs SET closes_at = clock_timestamp()"))
    one_tick(service.engine)
    assert (await service.job(other))["status"] == "scheduled"
    job = await service.job(lost)
    assert (job["status"], job["processed"]) == ("queued", 0), (
        "outside of its window nothing is done"
    )


async def test_a_paused_job_that_is_not_due_when_it_is_resumed_is_scheduled_again(service):
    job_id = await service.submit(LEAD, schedule={"runAt": "2999-01-01T00:00:00Z"})
    await service.act(job_id, "pause")
    await service.work()
    assert (await service.job(job_id))["status"] == "paused"
    let_pass(service, job_id, days=1)
    one_tick(service.engine)
    resumed = await service.act(job_id, "resume")
    assert (resumed.status_code, resumed.json()["data"]["status"]) == (200, "scheduled")


async def test_a_paused_job_whose_window_has_shut_waits_for_the_next_when_it_is_resumed(service):
    window = window_in(service, -1, 2)
    job_id = await service.submit(LEAD, schedule={"window": window})
    await service.act(job_id, "pause")
    await service.work()
    let_pass(service, job_id, hours=5)
    one_tick(service.engine)
    assert (await service.job(job_id))["status"] == "paused"
    assert (await service.act(job_id, "resume")).json()["data"]["status"] == "scheduled"
    one_tick(service.engine)
    job = await service.job(job_id)
    assert (job["status"], job["processed"]) == ("scheduled", 0)
    next_one = next_opening(
        parse_window(f"{window['start']}-{window['end']}"), database_now(service)
    )
    assert datetime.fromisoformat(job["runAt"]) == next_one.opens


async def test_a_host_whose_clock_is_an_hour_off_changes_nothing(service):
    """The API's, the worker's and the ticker's; the database's clock decides."""
    now = database_now(service)
    for off in (timedelta(hours=1), timedelta(hours=-1)):
        with time_machine.travel(now + off, tick=True):
            later = await service.submit(
                LEAD, schedule={"runAt": (now + timedelta(minutes=30)).isoformat()}
            )
            earlier = await service.submit(
                LEAD, schedule={"runAt": (now - timedelta(minutes=30)).isoformat()}
            )
            shut = await service.submit(
                {"externalId": "b"}, schedule={"window": window_in(service, 2, 3)}
            )
            one_tick(service.engine)
            await service.work()
            assert [(await service.job(job_id))["status"] for job_id in (later, earlier, shut)] == [
                "scheduled",
                "completed",
                "scheduled",
            ]


async def test_ten_thousand_jobs_that_are_due_at_one_moment_are_queued_fairly_within_ten_seconds(
    service,
):
    with service.engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO jobs (id, company_id, campaign_id, total, state, run_at)
                SELECT gen_random_uuid(), CASE WHEN n % 1000 = 0 THEN 'small' ELSE 'big' END, 'cmp',
                    1, 'scheduled', now()
                FROM generate_series(1, 12000) AS n
            """)
        )
    count = text("""
        SELECT count(*) FILTER (WHERE state = 'queued'),
            count(*) FILTER (WHERE company_id = 'small' AND state = 'queued'),
            max(queued_at) - min(run_at)
        FROM jobs
    """)
    one_tick(service.engine)
    with service.engine.begin() as connection:
        queued, of_small, _ = connection.execute(count).one()
        assert (queued, of_small) == (10_000, 12), "each company's first ones come first"
    one_tick(service.engine)
    with service.engine.begin() as connection:
        queued, _, took = connection.execute(count).one()
        assert queued == 12_000
        assert took < timedelta(seconds=10)
