"""The session that the README shows, typed in as it stands there, on the services of docker-compose.yml."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from cli.embedded import free_port
from shared.destinations import LOOPBACK
from tests.deployment.compose import ROOT
from tests.deployment.containers import Container

# A machine with Python and make need not have curl.
CURL = f"""#!{sys.executable}
import sys, urllib.request
words, headers, body, method, file = sys.argv[1:], {{}}, None, None, None
while words:
    word = words.pop(0)
    if word == "-H":
        name, _, value = words.pop(0).partition(": ")
        headers[name] = value
    elif word == "-d":
        body = words.pop(0).encode()
    elif word == "-X":
        method = words.pop(0)
    elif word == "-o":
        file = words.pop(0)
    elif word != "-s":
        url = word
try:
    answer = urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=20).read().decode()
except urllib.error.HTTPError as refusal:
    answer = refusal.read().decode()
print(answer, file=open(file, "w") if file else sys.stdout)
"""


def steps():
    """Each command of the README's sessions with the output that is shown for it."""
    for block in re.findall(r"^```console\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = step.strip().split("\n")
            size = next(n for n in range(1, len(lines) + 1) if "\n".join(lines[:n]).count("'") % 2 == 0)
            yield "\n".join(lines[:size]), "\n".join(lines[size:])


def masked(output):
    """`output` without what differs from run to run: ids, times and durations; JSON without its line breaks."""
    output = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", output)
    output = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", output)
    output = re.sub(r"in \d+\.\d s", "in N s", output)
    return json.loads(output) if output.startswith("{") else output


class Terminal:
    """A shell that remembers its variables and functions."""

    def __init__(self, folder, environment):
        self.folder, self.environment, self.functions = folder, environment, ""

    def type(self, command):
        """What the command prints on stdout."""
        if re.match(r"\w+\(\)", command):
            self.functions += f"{command}\n"
            return ""
        name = re.match(r"(?:export )?(\w+)=", command)
        shell = f'{command}; printf %s "${name[1]}"' if name else command
        done = subprocess.run(
            ["sh", "-c", self.functions + shell],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)
        if name:
            self.environment[name[1]] = done.stdout
        return done.stdout.strip()


@pytest.fixture
def terminal(values, tmp_path):
    """A terminal beside a running stack."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "curl").write_text(CURL)
    (programs / "curl").chmod(0o755)
    port = free_port()
    with ExitStack() as running:
        for name in ("api", "worker", "deliverer", "ticker"):
            running.enter_context(Container(name, values | {"LEADSWEEP_WEBHOOK_ALLOW": LOOPBACK}, tmp_path, port))
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield Terminal(
            tmp_path,
            {
                "PATH": path,
                "DATABASE_URL": values["DATABASE_URL"],
                "LEADSWEEP_SECRETS_KEY": values["LEADSWEEP_SECRETS_KEY"],
                "PORT": str(port),
                "LEADSWEEP_URL": f"http://127.0.0.1:{port}",
            },
        )


def test_the_session_of_the_readme_goes_as_it_is_shown(terminal):
    job_id = None
    for command, shown in steps():
        typed = command.replace("127.0.0.1:8000", f"127.0.0.1:{terminal.environment['PORT']}")
        if job_id:
            terminal.environment["JOB"] = job_id
        if typed.startswith("JOB="):
            continue
        output = terminal.type(typed)
        deadline = time.monotonic() + 30
        while masked(output) != masked(shown) and "/api/v1/jobs/" in typed and time.monotonic() < deadline:
            output = terminal.type(typed)  # whoever reads the README types more slowly than the worker works
        if shown:
            assert masked(output) == masked(shown), command
        if output.startswith("{"):
            answer = json.loads(output)
            assert answer["success"] or shown, (command, output)
            job_id = (answer["data"] or {}).get("jobId", job_id)
    assert (terminal.folder / "not-found.csv").read_text().startswith("index,externalId,")
    history = json.loads(terminal.type("post $API/jobs/$JOB -X GET"))["data"]["history"]
    assert history[-1]["status"] in {"queued", "running", "completed"}
