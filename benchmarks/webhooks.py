"""The contests of webhooks: how soon one arrives, and how many one deliverer process sends. The
receiver answers 204 at once.
"""

import asyncio
import json
import statistics
import threading
import time
from contextlib import contextmanager

from benchmarks.contests import Round
from benchmarks.ground import CAMPAIGN, JOB, entries_of
from shared.broker.sender import BURST, RUN_NEXT, WEBHOOKS_QUEUE, create_celery

RECEIVERS = 8  # URLs: two deliveries go to each at once, sixteen to one company


class _Exchange(asyncio.Protocol):
    def __init__(self, arrived):
        self.arrived, self.read = arrived, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, part):
        self.read += part
        head, separator, body = self.read.partition(b"\r\n\r\n")
        if separator and len(body) == int(
            head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        ):
            self.arrived.append((time.time(), body))
            self.transport.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            self.transport.close()


@contextmanager
def receiver():
    """A local receiver: its port, and the list of (unix seconds, body) that it fills."""
    loop, arrived = asyncio.new_event_loop(), []
    server = loop.run_until_complete(
        loop.create_server(lambda: _Exchange(arrived), "127.0.0.1", 0, backlog=1000)
    )
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()[1], arrived
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
    loop.close()


def webhook(ground, processes, _number, scale):
    """Milliseconds from the end of a job of 1000, as the database has it, to its receiver; limit:
    100 ms.
    """
    tries = 40 // scale
    ground.fill(1000)
    took = []
    with (
        receiver() as (port, arrived),
        processes.run("worker", "worker", "--processes", 2, ready="worker ready"),
        processes.run("deliverer", "worker", "--webhooks", ready="deliverer ready"),
        processes.run("ticker", "worker.ticker", ready="ticker ready"),
        create_celery(ground.servers.broker_url) as broker,
        ground.connect() as connection,
    ):
        for number in range(tries + 1):
            ground.queue([entries_of(range(10**7, 10**7 + JOB))], state="scheduled")
            url = f"http://127.0.0.1:{port}/{number}"
            connection.execute(
                "UPDATE jobs SET callback_url = %s, state = 'queued' WHERE state = 'scheduled'",
                (url,),
            )
            broker.send_task(RUN_NEXT, args=("jobs",))
            while len(arrived) <= number:
                time.sleep(0.001)
            at, body = arrived[number]
            query = "SELECT extract(epoch FROM finished_at)::float FROM jobs WHERE id = %s"
            took.append(
                at - connection.execute(query, (json.loads(body)["data"]["jobId"],)).fetchone()[0]
            )
    return Round(statistics.median(took[1:]) * 1000, 100.0)


def deliveries(ground, processes, _number, scale):
    """Deliveries/s of one deliverer process to a local receiver, of jobs with 100 entries; limit:
    300.
    """
    count = 3000 // scale
    ground.fill(1000, old_jobs=count)
    with (
        receiver() as (port, arrived),
        processes.run("deliverer", "worker", "--webhooks", ready="deliverer ready"),
        processes.run("ticker", "worker.ticker", ready="ticker ready"),
        create_celery(ground.servers.broker_url) as broker,
        ground.connect() as connection,
    ):
        connection.execute(
            "INSERT INTO deliveries (id, company_id, job_id, url, event)"
            " SELECT gen_random_uuid(), 'bench', id, %s || row_number() OVER () %% %s,"
            " 'job.completed' FROM jobs WHERE campaign_id = %s",
            (f"http://127.0.0.1:{port}/", RECEIVERS, CAMPAIGN),
        )
        for _ in range(BURST):
            broker.send_task(RUN_NEXT, args=(WEBHOOKS_QUEUE,), queue=WEBHOOKS_QUEUE)
        while len(arrived) < count:
            time.sleep(0.01)
    tenth = count // 10  # the start, until all threads run, is left out
    return Round((count - 1 - tenth) / (arrived[count - 1][0] - arrived[tenth][0]), 300.0)
