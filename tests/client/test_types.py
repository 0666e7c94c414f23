"""The types that a program sees that uses the client, as a type checker of its own finds them."""

import subprocess
import sys

PROGRAM = """
from collections.abc import AsyncIterator, Iterator

from leadsweep import AsyncClient, Client, Job, Result


def sync(leads: Client) -> Job:
    results: Iterator[Result] = leads.results("j", outcome="notFound")
    return leads.wait(leads.submit("c", [{"externalId": "a"}], dry_run=True).job_id, timeout=1)


async def concurrent(leads: AsyncClient) -> Job:
    results: AsyncIterator[Result] = leads.results("j")
    return await leads.wait((await leads.submit("c", [{"externalId": "a"}])).job_id)


def wrong(leads: Client) -> str:
    leads.submit("c", [{"externalId": 1}], dryRun=True)
    return leads.job("j")
"""


def test_a_strict_type_checker_sees_the_types_of_both_clients_and_what_is_wrong(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        str(tmp_path / "cache"),
        "program.py",
    ]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = [
        line.split(": error: ")[1] for line in checked.stdout.splitlines() if ": error: " in line
    ]
    assert [line.rpartition("[")[2] for line in lines] == [
        "call-arg]",
        "typeddict-item]",
        "return-value]",
    ], checked.stdout
