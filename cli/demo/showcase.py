"""What `leadsweep demo` does: the main job on a stack of its own, told step by step with the time
that each took.

It checks what the API says: the leads are counted before and after, and each entry's outcome is
compared with what the sample expects.
"""

import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import httpx2
from leadsweep.commands.listener import Listener, Received
from leadsweep.terminal.failure import Failure
from leadsweep.terminal.signals import uninterrupted
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection

from cli.accounts import registry
from cli.connection import connected_to
from cli.demo import sample
from cli.demo.console import output_console
from cli.leads.importer import import_leads
from cli.leads.reader import read
from cli.settings import read_settings
from cli.stack.address import Address
from cli.stack.supervisor import Stack
from shared.credentials import Vault
from shared.destinations import LOOPBACK, parse_networks
from shared.states import JobState

_JOB_TIMEOUT = 60.0  # seconds for the job, and for its webhook; each takes a small part of one
# Entries of a chunk, so that there is progress to be seen: with the default of 1000 there would be
# only one chunk.
_CHUNK_SIZE = 100
_POLL_SECONDS = 0.01  # between two looks at the job; callers are polite and wait for Retry-After

_BULK_DELETE = "/api/v1/leads/bulk-delete"
# What the webhook must say as the job's status says it.
_IN_BOTH = (
    "jobId",
    "status",
    "total",
    "deleted",
    "notFound",
    "unprocessed",
    "deletedIdentifiers",
    "notFoundIdentifiers",
)
_MAX_WIDTH = 100  # columns, in a pipe too

Json = dict[str, Any]


class Story:
    """Prints what happens, and keeps how long each part took, in seconds."""

    def __init__(self, console: Console) -> None:
        """Takes a console to print on."""
        self.console = console
        console.width = min(console.width, _MAX_WIDTH)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str, doing: str) -> Iterator[list[str]]:
        """Times a part. Once it is over, prints what was appended to the list."""
        done: list[str] = []
        began = time.perf_counter()
        with self.console.status(doing):
            yield done
        self.took(name, time.perf_counter() - began, " ".join(done))

    def took(self, name: str, seconds: float, done: str) -> None:
        """Records and prints a part that is over."""
        self.seconds[name] = round(seconds, 3)
        self.console.print(f"  {seconds:6.2f} s  {done}")


def run_showcase(*, story_on_stderr: bool) -> Json:
    """Runs the demo and returns the job's final status with the seconds of each part. Raises
    Failure if anything is not as expected.
    """
    story = Story(output_console(stderr=story_on_stderr))
    story.console.print("Leadsweep's main job, on real servers in a folder of their own\n")
    began = time.perf_counter()
    # So that the demo never uses a database of somebody else.
    own: Json = {
        "database_url": "",
        "broker_url": "",
        "redis_url": "",
        "secrets_key": "",
        "webhook_allow": parse_networks(LOOPBACK),
    }
    with uninterrupted():  # else a file by which tempfile tries the folder out might stay
        folder = tempfile.TemporaryDirectory(prefix="leadsweep-demo-")
    # A worker that is slow to end is killed. Its temporary files are to go with the folder then.
    os.environ |= {"LEADSWEEP_CHUNK_SIZE": str(_CHUNK_SIZE), "TMPDIR": folder.name}
    with (
        folder,
        Stack(read_settings().model_copy(update=own), Path(folder.name), Address(port=0)) as stack,
    ):
        _start(stack, story)
        with connected_to(stack.settings) as connection:
            job = _show_main_job(stack, connection, story)
        stopping = time.perf_counter()
    story.took("stop", time.perf_counter() - stopping, "stopped everything and removed its folder")
    story.console.print(
        f"\nThat took {time.perf_counter() - began:.1f} s in all. To keep it running: make up"
    )
    return {"job": job, "seconds": story.seconds}


def _start(stack: Stack, story: Story) -> None:
    with story.part("servers", "starting PostgreSQL and Redis") as done:
        stack.start_servers()
        done.append("started PostgreSQL and Redis")
    with story.part("migrate", "creating the tables") as done:
        stack.migrate(lambda _: None)
        done.append("created the tables")
    with story.part("processes", "starting the API, a worker, a deliverer and the ticker") as done:
        stack.start_processes()
        done.append(f"started the API on {stack.address.url}, a worker, a deliverer and the ticker")


def _show_main_job(stack: Stack, connection: Connection, story: Story) -> Json:
    vault = Vault(stack.settings.secrets_key)
    with story.part("key", "making a company, campaigns and a key") as done, connection.begin():
        registry.create_company(connection, sample.COMPANY, vault=vault)
        for campaign_id in (sample.CAMPAIGN, sample.OTHER_CAMPAIGN):
            registry.create_campaign(connection, campaign_id, sample.COMPANY)
        key = registry.create_key(
            connection, registry.KeyTerms(sample.COMPANY, "write", name="demo")
        ).key
        secret, _ = registry.webhook_secret(connection, sample.COMPANY, vault, rotate=False)
        done.append("made a company, two campaigns and a write key")
    with story.part("load", "loading leads") as done:
        _load(connection, sample.CAMPAIGN, sample.csv_of_leads())
        _load(connection, sample.OTHER_CAMPAIGN, sample.csv_of_other_leads())
        done.append(
            f"loaded {sample.LEADS:,} leads, and {sample.OTHER_LEADS} into the other campaign"
        )
    before = _count(connection)
    headers = {"x-api-key": key}
    with (
        httpx2.Client(
            base_url=stack.address.url, headers=headers, trust_env=False, timeout=10
        ) as client,
        _listening(secret) as (callback_url, received),
    ):
        kinds = sample.request()
        job = _wait_for(client, _submit(client, kinds, callback_url, story), story)
        _wait_for_webhook(received, job, story)
        results = _get(client, f"/api/v1/jobs/{job['jobId']}/results?limit=10000")["items"]
    _print_status(story.console, job, results)
    after = _count(connection)
    _check(kinds, job, results, (before, after))
    story.console.print(
        f"\nChecked: {before[0]:,} leads before and {after[0]:,} after, "
        f"the other campaign has its {after[1]} still, and each of the {job['total']:,} entries "
        "has the outcome that it should have.\n"
    )
    return job


def _load(connection: Connection, campaign_id: str, lines: Iterator[str]) -> None:
    with connection.begin():
        tally = import_leads(
            connection, campaign_id, read(io.BytesIO("".join(lines).encode())), lambda *_: None
        )
    if tally.rejected:
        raise Failure(f"{tally.rejected} leads of the sample were rejected")


def _count(connection: Connection) -> tuple[int, int]:
    """How many leads the campaign has, and the other one."""
    with connection.begin():
        return registry.count_leads(connection, sample.CAMPAIGN), registry.count_leads(
            connection, sample.OTHER_CAMPAIGN
        )


def _submit(
    client: httpx2.Client, kinds: list[sample.Kind], callback_url: str, story: Story
) -> Json:
    entries = [entry for kind in kinds for entry in kind.entries]
    story.console.print(
        f"\nPOST {client.base_url.join(_BULK_DELETE)} with {len(entries):,} entries:"
    )
    for kind in kinds:
        example = ", ".join(kind.entries[0].values())
        story.console.print(f"  {len(kind.entries):>8}  {kind.words}, e.g. {example}")
    story.console.print()
    with story.part("submit", "submitting") as done:
        answer = client.post(
            _BULK_DELETE,
            json={"campaignId": sample.CAMPAIGN, "callbackUrl": callback_url, "leads": entries},
        )
        job = _content(answer, httpx2.codes.ACCEPTED)
        done.append(f"202 Accepted, job {job['jobId']}, {job['status']}")
    return job


def _get(client: httpx2.Client, path: str) -> Json:
    return _content(client.get(path), httpx2.codes.OK)


def _content(answer: httpx2.Response, expected: int) -> Json:
    """The `data` of an answer. Raises Failure for another status."""
    if answer.status_code != expected:
        raise Failure(f"the API answered {answer.status_code} instead of {expected}: {answer.text}")
    content: Json = answer.json()["data"]
    return content


def _wait_for(client: httpx2.Client, job: Json, story: Story) -> Json:
    """The job's status once it is final; every change on the way is printed."""
    began = time.perf_counter()
    story.console.print(
        f"            in chunks of {_CHUNK_SIZE}, so that there is something to watch "
        "(by default: 1,000)"
    )
    last_seen = (job["status"], 0)
    while not JobState(job["status"]).final:
        if time.perf_counter() - began > _JOB_TIMEOUT:
            raise Failure(f"the job is still {job['status']} after {_JOB_TIMEOUT:.0f} s")
        time.sleep(_POLL_SECONDS)
        job = _get(client, f"/api/v1/jobs/{job['jobId']}")
        seen = (job["status"], job["processed"])
        if seen != last_seen and not JobState(job["status"]).final:
            story.console.print(
                f"            {job['status']}, {job['processed']:,} of {job['total']:,} processed"
            )
        last_seen = seen
    story.took(
        "job",
        time.perf_counter() - began,
        f"{job['status']}, {job['processed']:,} of {job['total']:,} processed",
    )
    return job


@contextmanager
def _listening(secret: str) -> Iterator[tuple[str, "Queue[Received]"]]:
    """A receiver of webhooks: its URL, and the queue of what it receives."""
    received: Queue[Received] = Queue()
    with Listener(("127.0.0.1", 0), [secret], received.put) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_address[1]}/hook", received
        listener.shutdown()


def _wait_for_webhook(received: "Queue[Received]", job: Json, story: Story) -> None:
    """Prints the event of the job's end. Raises Failure unless an event comes that is signed and
    says the same as the job's status.
    """
    began = time.perf_counter()
    try:
        webhook = received.get(timeout=_JOB_TIMEOUT)
    except Empty:
        raise Failure(f"no webhook came within {_JOB_TIMEOUT:.0f} s") from None
    if webhook.event is None:
        raise Failure(f"the webhook was not signed as it should be: {webhook.wrong}")
    payload = webhook.event["data"]
    differing = [name for name in _IN_BOTH if payload[name] != job[name]]
    if differing or webhook.event["type"] != f"job.{job['status']}":
        difference = ", ".join(differing) or webhook.event["type"]
        raise Failure(f"the webhook differs from the job's status: {difference}")
    event_type, deleted = webhook.event["type"], payload["deleted"]
    done = f"webhook {event_type} received, signature verified, {deleted:,} deleted"
    story.took("webhook", time.perf_counter() - began, done)


def _print_status(console: Console, job: Json, results: list[Json]) -> None:
    counts = Table.grid(padding=(0, 2))
    for name in ("status", "total", "deleted", "notFound", "unprocessed"):
        counts.add_row(f"  {name}", f"{job[name]:,}" if isinstance(job[name], int) else job[name])
    reasons = Table(
        "reason", "entries", "identifiers, as the caller wrote them", box=None, padding=(0, 2)
    )
    for reason in dict.fromkeys(
        result["reason"] for result in results if result["outcome"] == "notFound"
    ):
        named = [result["identifier"] for result in results if result["reason"] == reason]
        reasons.add_row(reason, str(len(named)), ", ".join(named))
    console.print(
        "\nThe job's status:", counts, "\nWhat was not found, and why:", reasons, sep="\n"
    )


def _check(
    kinds: list[sample.Kind],
    job: Json,
    results: list[Json],
    leads: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    """Raises Failure for the first thing that is not as it should be."""
    expected = [(identifier, kind.reason) for kind in kinds for identifier in kind.identifiers]
    deleted = sum(reason is None for _, reason in expected)
    (before, other_before), (after, other_after) = leads
    for what, actual, should_be in (
        ("status", job["status"], "completed"),
        ("outcomes", [(result["identifier"], result["reason"]) for result in results], expected),
        ("deleted", job["deleted"], deleted),
        ("notFound", job["notFound"], len(expected) - deleted),
        ("number of leads", after, before - deleted),
        ("number of leads of the other campaign", other_after, other_before),
    ):
        if actual != should_be:
            raise Failure(f"the {what} should be {should_be}, but is {actual}"[:500])
