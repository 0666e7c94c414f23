"""The contests: each runs one round of both sides and returns their figures. Which side goes first
alternates.
"""

import http.client
import json
import statistics
import time
from contextlib import closing, contextmanager
from typing import NamedTuple

import psutil
import psycopg

from benchmarks import floors
from benchmarks.client import body_of, request_of, requests_per_second
from benchmarks.ground import CAMPAIGN, JOB, entries_of, shuffled_jobs
from cli.stack.embedded import free_port
from shared.broker.sender import BURST, RUN_NEXT, create_celery

LOAD = 4000  # chunks, more than is done while anything is measured
OURS_ALONE = None  # in place of a round's number


class Round(NamedTuple):
    """One round: ours, and theirs where both sides were run."""

    ours: float
    theirs: float | None


def in_turn(number, ours, theirs):
    """Runs both sides, ours first in even rounds; or ours alone."""
    if number is OURS_ALONE:
        return Round(ours(), None)
    if number % 2:
        second = theirs()
        return Round(ours(), second)
    return Round(ours(), theirs())


def drain(ground, processes, number, scale):
    """Leads/s of 200 queued jobs, from the first message to the last job finished, against two
    plain connections.
    """
    jobs = shuffled_jobs(200 // scale)

    def ours():
        return our_drain(ground, processes, jobs, lead_count=len(jobs) * JOB + 10_000)

    def theirs():
        ground.fill(len(jobs) * JOB + 10_000)
        return len(jobs) * JOB / floors.drain_plainly(ground.url, jobs)

    return in_turn(number, ours, theirs)


def our_drain(ground, processes, jobs, *, lead_count, old_jobs=0, mode="delete"):
    """Leads/s of our worker with two processes, warm and idle when the first message is sent."""
    ground.fill(lead_count, old_jobs=old_jobs)
    with (
        processes.run("worker", "worker", "--processes", 2, ready="worker ready"),
        processes.run("ticker", "worker.ticker", ready="ticker ready"),
        create_celery(ground.servers.broker_url) as broker,
        ground.connect() as connection,
    ):
        ground.queue([entries_of(range(10**7, 10**7 + 10)) for _ in range(8)])
        _send_messages(broker)
        ground.wait_until_drained()
        # Held back until the clock starts, so that the ticker, which runs as it always does, does
        # not begin them earlier.
        ground.queue(jobs, state="scheduled", mode=mode)
        started = connection.execute("SELECT clock_timestamp()").fetchone()[0]
        connection.execute("UPDATE jobs SET state = 'queued' WHERE state = 'scheduled'")
        _send_messages(broker)
        ground.wait_until_drained()
        finished = connection.execute("SELECT max(finished_at) FROM jobs").fetchone()[0]
    return len(jobs) * JOB / (finished - started).total_seconds()


def _send_messages(broker):
    for _ in range(BURST):
        broker.send_task(RUN_NEXT, args=("jobs",))


def accept(ground, processes, number, scale):
    """POSTs/s of 1000 entries by 8 clients, against a bare ASGI app with the same decoder and the
    same INSERTs.
    """
    bodies = [body_of(*entries) for entries in shuffled_jobs(50)]
    requests = [request_of(body, ground.key) for body in bodies] * (60 // scale)

    def side(role, module, *arguments):
        ground.fill(1000)
        port = free_port()
        with processes.run(
            role,
            module,
            *arguments,
            str(port),
            ready="startup complete" if role == "bare" else "api ready",
        ):
            _wait_until_open(port)
            requests_per_second(port, requests[:50])
            ground.settle()
            return requests_per_second(port, requests)

    return in_turn(
        number, lambda: side("api", "api", "--port"), lambda: side("bare", "benchmarks.bare")
    )


def latency(ground, processes, number, scale):
    """Milliseconds from the POST to the first GET that says `completed`, idle, against the plain
    DELETEs of as many leads.
    """
    tries = 40 // scale
    jobs = shuffled_jobs(tries * 2 + 2)
    ground.fill(len(jobs) * JOB)
    port = free_port()

    def ours():
        with all_of_it(processes, port):
            times = [
                _until_completed(port, body_of(*entries), ground.key)
                for entries in jobs[: tries + 1]
            ]
        return statistics.median(times[1:]) * 1000

    def theirs():
        with psycopg.connect(ground.url) as connection:
            times = []
            for entries in jobs[tries + 1 :]:
                started = time.perf_counter()
                floors.plain_delete(connection, *entries)
                times.append(time.perf_counter() - started)
        return statistics.median(times[1:]) * 1000

    return in_turn(number, ours, theirs)


def growth(ground, processes, number, scale):
    """Leads/s of the drain with a million leads and 50,000 old jobs, against 210,000 leads and
    none.
    """
    jobs = shuffled_jobs(200 // scale)
    return in_turn(
        number,
        lambda: our_drain(
            ground, processes, jobs, lead_count=1_000_000 // scale, old_jobs=50_000 // scale
        ),
        lambda: our_drain(ground, processes, jobs, lead_count=210_000 // scale),
    )


def usual(ground, processes, number, scale):
    """Leads/s of the drain, against a Celery task that selects and deletes lead by lead with an ORM
    (20 jobs of 1000).
    """
    jobs = shuffled_jobs(200 // scale)

    def theirs():
        ground.fill(len(jobs) * JOB + 10_000)
        few = jobs[: 20 // scale or 1]
        options = (
            "--app",
            "benchmarks.floors:usual",
            "--quiet",
            "worker",
            "--concurrency",
            2,
            "--queues",
            "usual",
        )
        with (
            processes.run("usual", "celery", *options, "--loglevel", "INFO", ready="ready."),
            floors.usual.connection_for_write(ground.servers.broker_url) as broker,
        ):
            for _ in range(4):
                floors.delete_leads.apply_async((ground.url, ["nobody"], [None]), connection=broker)
            before = _lead_count(ground)
            started = time.perf_counter()
            for entries in few:
                floors.delete_leads.apply_async((ground.url, *entries), connection=broker)
            expected = before - len(few) * JOB * 19 // 20
            while _lead_count(ground) > expected:
                time.sleep(0.02)
            return len(few) * JOB / (time.perf_counter() - started)

    return in_turn(
        number,
        lambda: our_drain(ground, processes, jobs, lead_count=len(jobs) * JOB + 10_000),
        theirs,
    )


def archive(ground, processes, number, scale):
    """Leads/s of the drain of archiving jobs, against that of deleting ones."""
    jobs = shuffled_jobs(200 // scale)

    def drained(mode):
        return our_drain(ground, processes, jobs, lead_count=len(jobs) * JOB + 10_000, mode=mode)

    return in_turn(number, lambda: drained("archive"), lambda: drained("delete"))


def waiting(ground, processes, _number, scale):
    """Milliseconds from a POST with `Prefer: wait` to its answer, against the job's own time, from
    acceptance to its end.
    """
    tries = 40 // scale
    jobs = shuffled_jobs(tries + 1)
    ground.fill(len(jobs) * JOB)
    port, answers, own = free_port(), [], []
    with (
        all_of_it(processes, port),
        ground.connect() as connection,
        closing(_client(port)) as client,
    ):
        for body in [body_of(*entries) for entries in jobs]:
            began = time.perf_counter()
            status, published = _call(
                client, "POST", "/api/v1/leads/bulk-delete", body, ground.key, Prefer="wait=60"
            )
            answers.append(time.perf_counter() - began)
            if status != http.HTTPStatus.OK:
                raise RuntimeError(f"answered {status}")
            job_id = published["jobId"]
            query = "SELECT finished_at - created_at FROM jobs WHERE id = %s"
            own.append(connection.execute(query, (job_id,)).fetchone()[0].total_seconds())
    return Round(statistics.median(answers[1:]) * 1000, statistics.median(own[1:]) * 1000)


def cancel(ground, processes, _number, scale):
    """Milliseconds until a cancellation is in force, the longest of all, while two workers are
    busy; limit: 1 s.
    """
    ground.fill(1000)
    port, times = free_port(), []
    body = body_of(*entries_of(range(10**7, 10**7 + JOB)))
    with (
        all_of_it(processes, port),
        ground.connect() as connection,
        closing(_client(port)) as client,
    ):
        ground.queue_load(LOAD)
        for _ in range(20 // scale):
            job_id = _call(client, "POST", "/api/v1/leads/bulk-delete", body, ground.key)[1][
                "jobId"
            ]
            began = time.perf_counter()
            _call(client, "POST", f"/api/v1/jobs/{job_id}/cancel", None, ground.key)
            while not connection.execute(
                "SELECT finished_at FROM jobs WHERE id = %s", (job_id,)
            ).fetchone()[0]:
                time.sleep(0.001)
            times.append(time.perf_counter() - began)
        _require_load(connection)
    return Round(max(times) * 1000, 1000.0)


def schedule(ground, processes, _number, scale):
    """Percent of a core that the ticker and its database connection take with 10,000 scheduled
    jobs; limit: 5 %.
    """
    ground.fill(1000)
    with ground.connect() as connection:
        connection.execute(
            "INSERT INTO jobs (id, company_id, campaign_id, total, state, run_at)"
            " SELECT gen_random_uuid(), 'bench', %s, 1, 'scheduled', now() + interval '1 day'"
            " FROM generate_series(1, %s)",
            (CAMPAIGN, 10_000 // scale),
        )
        ground.settle()
        with processes.run("ticker", "worker.ticker", ready="ticker ready") as ticker:
            query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'leadsweep-ticker'"
            while (backend := connection.execute(query).fetchone()) is None:
                time.sleep(0.02)
            seconds = 20 / scale
            before = _cpu_seconds(ticker.pid) + _cpu_seconds(backend[0])
            time.sleep(seconds)
            used = _cpu_seconds(ticker.pid) + _cpu_seconds(backend[0]) - before
    return Round(used / seconds * 100, 5.0)


def beside(ground, processes, _number, scale):
    """Milliseconds from the POST of an ordinary job to its end while off-peak jobs drain, against
    the same on an idle stack.
    """
    tries = 20 // scale
    jobs = shuffled_jobs(tries * 2 + 2)
    ground.fill(len(jobs) * JOB)
    port = free_port()
    with all_of_it(processes, port), ground.connect() as connection:
        idle = [
            _until_completed(port, body_of(*entries), ground.key) for entries in jobs[: tries + 1]
        ]
        ground.queue_load(LOAD, queue="off-peak")
        while not connection.execute(
            "SELECT count(*) FROM jobs WHERE queue = 'off-peak' AND state = 'running'"
        ).fetchone()[0]:
            time.sleep(0.01)
        busy = [
            _until_completed(port, body_of(*entries), ground.key) for entries in jobs[tries + 1 :]
        ]
        _require_load(connection)
    return Round(statistics.median(busy[1:]) * 1000, statistics.median(idle[1:]) * 1000)


def _require_load(connection):
    if not connection.execute("SELECT count(*) FROM jobs WHERE finished_at IS NULL").fetchone()[0]:
        raise RuntimeError("the load ended before the last measurement")


@contextmanager
def all_of_it(processes, port):
    """API, worker and ticker."""
    with (
        processes.run("api", "api", "--port", port, ready="api ready"),
        processes.run("worker", "worker", "--processes", 2, ready="worker ready"),
        processes.run("ticker", "worker.ticker", ready="ticker ready"),
    ):
        _wait_until_open(port)
        yield


def _client(port):
    return http.client.HTTPConnection("127.0.0.1", port, timeout=90)


def _call(client, method, path, body, key, **headers):
    client.request(
        method, path, body, {"x-api-key": key, "Content-Type": "application/json"} | headers
    )
    answer = client.getresponse()
    return answer.status, json.loads(answer.read())["data"]


def _cpu_seconds(pid):
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system


def _lead_count(ground):
    with ground.connect() as connection:
        return connection.execute("SELECT count(*) FROM leads").fetchone()[0]


def _wait_until_open(port):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            http.client.HTTPConnection("127.0.0.1", port, timeout=1).connect()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port}")


def _until_completed(port, body, key):
    headers = {"x-api-key": key, "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    started = time.perf_counter()
    connection.request("POST", "/api/v1/leads/bulk-delete", body, headers)
    job = json.loads(connection.getresponse().read())["data"]
    while True:
        connection.request("GET", job["statusUrl"], headers=headers)
        if json.loads(connection.getresponse().read())["data"]["status"] == "completed":
            elapsed = time.perf_counter() - started
            connection.close()
            return elapsed
        time.sleep(0.002)  # polling harder takes the time from the worker
