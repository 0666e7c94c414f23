"""The blocks of shell in the README, the tutorial and the how-to pages, pasted as they stand there
into one shell, beside the services of docker-compose.yml.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from cli.stack.embedded import free_port
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
    elif word == "-T":
        body = open(words.pop(0), "rb").read()
    elif word not in {"-s", "-sS"}:
        url = word
try:
    request = urllib.request.Request(url, body, headers, method=method)
    answer = urllib.request.urlopen(request, timeout=20).read().decode()
except urllib.error.HTTPError as refusal:
    answer = refusal.read().decode()
print(answer, file=open(file, "w") if file else sys.stdout)
"""


_BLOCK = re.compile(
    r"^```sh\n(.*?)^```\n(?:\n```(?:json|text)\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL
)


def blocks(path):
    """Each block of shell in a page, and the output that is shown for it, which may be none."""
    return [(block, shown.strip()) for block, shown in _BLOCK.findall(path.read_text())]


def how_to_pages():
    """The how-to pages, in the order in which the guide lists them."""
    navigation = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    (listed,) = [entry["How to"] for entry in navigation if "How to" in entry]
    return [ROOT / "docs" / name for page in listed for name in page.values()]


TUTORIAL = ROOT / "docs/tutorial.md"
PAGES = [ROOT / "README.md", TUTORIAL, *how_to_pages()]


def masked(output):
    """`output` without what differs from run to run: ids, times and durations; JSON without its
    line breaks.
    """
    output = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", output)
    output = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", output)
    output = re.sub(r"in \d+\.\d s", "in N s", output)
    return json.loads(output) if output.startswith("{") else output


class Terminal:
    """One shell, into which blocks are pasted. A command that fails is told on its stderr."""

    def __init__(self, folder, environment, ports):
        self.folder, self._ports = folder, ports
        self.errors = (folder / "errors").open("w+")
        pipe = subprocess.PIPE
        self._shell = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            env=environment,
            stdin=pipe,
            stdout=pipe,
            stderr=self.errors,
            text=True,
        )
        self._send("set -E -o pipefail; trap 'echo \"failed: $BASH_COMMAND\" >&2' ERR")

    def paste(self, block):
        """What the commands of the block print on stdout."""
        for theirs, ours in self._ports.items():
            block = block.replace(f"127.0.0.1:{theirs}", f"127.0.0.1:{ours}").replace(
                f"--port {theirs}", f"--port {ours}"
            )
        self._send(f"{block}\nprintf '%s\\n' END-OF-BLOCK")
        lines = list(iter(self._shell.stdout.readline, "END-OF-BLOCK\n"))
        assert self._shell.poll() is None, block
        self.errors.seek(0)
        failed = [line for line in self.errors if line.startswith("failed: ")]
        assert not failed, (block, failed)
        return "".join(lines).strip()

    def close(self):
        """Ends the shell."""
        self._shell.stdin.close()
        self._shell.wait(20)
        self._shell.stdout.close()
        self.errors.close()

    def _send(self, text):
        self._shell.stdin.write(f"{text}\n")
        self._shell.stdin.flush()


@pytest.fixture
def terminal(values, tmp_path):
    """A terminal beside a running stack."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "curl").write_text(CURL)
    (programs / "curl").chmod(0o755)
    port, listener = free_port(), free_port()
    with ExitStack() as running:
        for name in ("api", "worker", "deliverer", "ticker"):
            running.enter_context(
                Container(name, values | {"LEADSWEEP_WEBHOOK_ALLOW": LOOPBACK}, tmp_path, port)
            )
        environment = {
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DATABASE_URL": values["DATABASE_URL"],
            "LEADSWEEP_SECRETS_KEY": values["LEADSWEEP_SECRETS_KEY"],
            "LEADSWEEP_URL": f"http://127.0.0.1:{port}",
        }
        yield running.enter_context(
            closing(Terminal(tmp_path, environment, {8000: port, 9000: listener}))
        )


def paste(terminal, path):
    """Pastes every block of a page, and looks at what each prints; how many there were."""
    for block, shown in blocks(path):
        assert not re.search(r"^[$>#] ", block, re.MULTILINE), "a prompt"
        output = terminal.paste(block)
        answers = [line for line in output.splitlines() if line.startswith('{"success"')]
        assert all(json.loads(answer)["success"] for answer in answers), (block, output)
        if shown:
            last = answers[-1] if shown.startswith("{") else output
            assert masked(last) == masked(shown), block
    return len(blocks(path))


def test_the_session_of_the_readme_can_be_pasted_and_prints_what_is_shown(terminal):
    assert paste(terminal, ROOT / "README.md") >= 3


@pytest.mark.timeout(600)  # some fifty commands, each a process that begins anew
def test_every_block_of_the_guide_can_be_pasted_and_prints_what_is_shown(terminal):
    assert sum(paste(terminal, path) for path in (TUTORIAL, *how_to_pages())) > 20
    assert (terminal.folder / "not-found.csv").read_text().startswith("index,externalId,")
    history = json.loads(terminal.paste("post -X GET $API/jobs/$JOB"))["data"]["history"]
    assert history[-1]["status"] in {"queued", "running", "completed"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_example_of_shell_is_one_of_these_blocks(path):
    text = path.read_text()
    assert set(re.findall(r"^```(\w*)$", text, re.MULTILINE)) <= {
        "",
        "sh",
        "json",
        "text",
        "py",
        "python",
        "js",
    }
    without = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(
        r"^ {4}(?:\$ )?(?:curl|leadsweep|make|export|docker|post) .*$", without, re.MULTILINE
    )
