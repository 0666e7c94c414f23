"""What others wrote never steers a terminal: identifiers, references, names, a server's errors,
whichever command prints them.
"""

import ast
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import click
import pytest
from leadsweep.commands.main import main
from sqlalchemy import insert, text

from shared.credentials import new_secret
from shared.database.models import api_keys, campaigns, companies, leads, webhooks
from shared.printable import brief, printable, printable_json, printable_lines
from tests.cli.terminal import terminal
from tests.client.commands.test_listen import deliver, listening
from tests.client.test_client import COMPLETED
from tests.support.stack import wait_for

LEADSWEEP = [
    sys.executable,
    "-c",
    "from leadsweep.commands.main import main; main(prog_name='leadsweep')",
]
ROOT = Path(__file__).parents[3]

# One of each kind: what C0, DEL, C1, turns of the writing direction, line separators, markup and
# unseen letters are made of.
HOSTILE = (
    "evil\x1b[2J\a\x7f\x9b31m\u202e\u2066\u200f\u061c\u2028\u2029\u200b\u3164\ufeff[bold]\r\nforged"
)
JOB = COMPLETED | {
    "jobId": HOSTILE,
    "campaignId": HOSTILE,
    "clientReference": HOSTILE,
    "mode": HOSTILE,
    "error": HOSTILE,
    "phoneRegion": HOSTILE,
    "waitingFor": {
        "reason": "locked",
        "since": None,
        "leads": 1,
        "sqlstate": None,
        "detail": HOSTILE,
    },
}
RESULT = {
    "index": 0,
    "externalId": HOSTILE,
    "phoneNumber": None,
    "identifier": HOSTILE,
    "outcome": HOSTILE,
    "matchedBy": None,
    "reason": HOSTILE,
    "detail": HOSTILE,
}


def is_harmless(said):
    """Whether nothing in it acts on a terminal, but for the ends of lines."""
    return all(
        character == "\n" or (character.isprintable() and character != "\u3164")
        for character in said
    )


class Strange(ThreadingHTTPServer):
    """A server that puts the text wherever its answers have one; what would change something it
    takes, or `refuses`.
    """

    daemon_threads = True

    def __init__(self, *, refuses):
        super().__init__(("127.0.0.1", 0), Handler)
        self.refuses = refuses


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        items = [RESULT] if path.endswith("/results") else [JOB] if path.endswith("/jobs") else None
        self.answer(200, {"items": items, "nextCursor": None} if items else JOB)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.answer(202, JOB)

    do_PATCH = do_POST  # noqa: N815 - the standard library's names

    def answer(self, status, content):
        refused = self.server.refuses and self.command != "GET"
        answer = {
            "success": not refused,
            "data": None if refused else content,
            "error": HOSTILE if refused else None,
        }
        body = json.dumps(answer).encode()
        self.send_response(409 if refused else status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def strange_server(*, refuses=False):
    with Strange(refuses=refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def strange_database(engine, database_url, monkeypatch):
    """Whose texts are such ones, wherever a column takes any. Operators' commands work on it."""
    company, campaign = f"company {HOSTILE}", f"campaign {HOSTILE}"
    with engine.begin() as connection:
        connection.execute(insert(companies).values(id=company, name=HOSTILE))
        connection.execute(insert(campaigns).values(id=campaign, company_id=company, name=HOSTILE))
        connection.execute(insert(campaigns).values(id="c", company_id=company, name=HOSTILE))
        connection.execute(
            insert(leads).values(campaign_id="c", external_id=HOSTILE, metadata={HOSTILE: HOSTILE})
        )
        key = {
            "id": uuid4(),
            "company_id": company,
            "campaign_id": campaign,
            "name": HOSTILE,
            "scope": "write",
        }
        connection.execute(insert(api_keys).values(hash=b"", **key))
        webhook = {
            "id": uuid4(),
            "company_id": company,
            "url": HOSTILE,
            "description": HOSTILE,
            "events": [HOSTILE],
        }
        connection.execute(
            insert(webhooks).values(secret=b"x", enabled=False, disabled_reason=HOSTILE, **webhook)
        )
        # A table that refers to leads, and refuses: doctor and the database's errors tell of it.
        connection.execute(
            text(f'CREATE TABLE "{HOSTILE}" (lead bigint CONSTRAINT "{HOSTILE}" REFERENCES leads)')
        )
    monkeypatch.setenv("DATABASE_URL", database_url)


def commands(command=main, path=()):
    """Every command, by the words that call it."""
    if isinstance(command, click.Group):
        return {
            found: one
            for name, part in command.commands.items()
            for found, one in commands(part, (*path, name)).items()
        }
    return {path: command}


WRITTEN_BY = ("write", "buffer")

# What prints nothing that others wrote, and why.
ITS_OWN = {
    ("up",): "says what its children say: below",
    ("demo",): "has made all that it prints",
    ("completion",): "a script that click makes",
    ("webhooks", "listen"): "below",
    **{(role,): "keeps a log" for role in ("api", "worker", "deliverer", "ticker")},
}
CALLERS = {
    ("submit",): ("FILE", "--campaign", "c", "--yes", "--wait"),
    ("status",): ("j",),
    ("watch",): ("j",),
    ("results",): ("j",),
    ("jobs", "list"): (),
    **{("jobs", action): ("j",) for action in ("pause", "resume", "cancel")},
    **{("jobs", action): ("j", "--yes", "--wait") for action in ("retry", "execute", "restore")},
    ("jobs", "pace"): ("j", "7"),
}
OPERATORS = {
    ("migrate",): ("--to", HOSTILE),
    ("doctor",): (),
    ("companies", "create"): (HOSTILE,),
    ("companies", "list"): (),
    ("companies", "webhook-secret"): (HOSTILE,),
    ("campaigns", "create"): ("n", "--company", HOSTILE),
    ("campaigns", "list"): (),
    ("campaigns", "off-peak"): ("c", HOSTILE),
    ("campaigns", "phone-region"): ("c", HOSTILE),
    ("keys", "create"): ("--company", HOSTILE, "--scope", "read"),
    ("keys", "list"): (),
    ("keys", "revoke"): (HOSTILE,),
    ("leads", "count"): ("--campaign", HOSTILE),
    ("leads", "list"): ("--campaign", "c"),
    ("leads", "import"): ("FILE", "--campaign", "c"),
    ("leads", "recanonicalise"): (),
    ("webhooks", "list"): (),
}


def test_every_command_is_looked_at():
    assert commands().keys() == CALLERS.keys() | OPERATORS.keys() | ITS_OWN.keys()


def test_nothing_is_printed_but_through_the_one_module_that_makes_it_harmless():
    """Whoever prints elsewhere must have a reason that is written down here."""
    allowed = {
        # The script of completion.
        ("client/leadsweep/commands/jobs/commands.py", "click.echo"),
        # Bytes, written as a terminal or a pipe has them.
        ("client/leadsweep/commands/jobs/results.py", "sys.stdout"),
        # JSON in ASCII, a million of rejections in a stream.
        ("cli/leads/commands.py", "sys.stdout"),
        ("cli/migrate.py", "click.confirm"),
        ("client/leadsweep/commands/submit.py", "os.write"),
    }
    prints = {"click.echo", "click.secho", "click.confirm", "click.prompt", "os.write", "print"}
    prints |= {f"sys.{stream}.{part}" for stream in ("stdout", "stderr") for part in WRITTEN_BY}
    found = set()
    for path in sorted({*(ROOT / "cli").rglob("*.py"), *(ROOT / "client").rglob("*.py")}):
        if "rules" in path.parts:  # linked, and no commands
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
            is_kept = isinstance(node, ast.Assign) and ast.unparse(node.value) == "sys.stdout"
            if name.startswith("sys.stdout") or is_kept:
                name = "sys.stdout" if name in prints or is_kept else ""
            if name in {*prints, "sys.stdout"}:
                found.add((str(path.relative_to(ROOT)), name))
    where_it_is_made_harmless = {
        "client/leadsweep/terminal/output.py",
        "client/leadsweep/commands/main.py",
    }
    assert {one for one in found if one[0] not in where_it_is_made_harmless} == allowed


def seen(folder, words, *, both=False, **env):
    """What stands at the terminal after the command, its results and its remarks; and the first of
    them alone, unless `both` go there.
    """
    file = folder / "leads.csv"
    file.write_bytes(f'externalId\n"{HOSTILE}"\n'.encode())
    words = [str(file) if word == "FILE" else word for word in words]
    env |= {
        "TERM": "dumb",
        "NO_COLOR": "1",
        "LEADSWEEP_DATA_DIR": "/nowhere",
    }  # no colours of our own
    with (
        (folder / "err").open("w+b") as err,
        terminal(*LEADSWEEP, *words, env=env, stderr=None if both else err) as shown,
    ):
        shown.end(40)
        err.seek(0)
        out = shown.seen.replace("\r\n", "\n").replace(
            "\r\n", "\n"
        )  # the terminal's, then that of CSV
        return out + err.read().decode(), out


def ways(command, words):
    """The command as it is, and with --json where it has that."""
    has_json = any("--json" in param.opts for param in commands()[command].params)
    return [(*command, *words), (*command, *words, "--json")] if has_json else [(*command, *words)]


@pytest.mark.parametrize("command", CALLERS, ids=" ".join)
def test_what_a_server_says_does_not_steer_the_terminal(command, tmp_path):
    for refuses in (False, True):
        with strange_server(refuses=refuses) as url:
            for words in ways(command, CALLERS[command]):
                all_of_it, out = seen(
                    tmp_path, words, both=refuses, LEADSWEEP_URL=url, LEADSWEEP_API_KEY="k"
                )
                assert is_harmless(all_of_it), all_of_it
                assert "evil" in all_of_it
                if "--json" in words and not refuses and out.strip():
                    assert HOSTILE in json.loads(out.splitlines()[-1]).get("jobId", HOSTILE)


@pytest.mark.parametrize("form", ["csv", "ndjson", "identifiers"])
def test_results_are_harmless_at_a_terminal_and_exact_in_a_pipe(form, tmp_path):
    with strange_server() as url:
        env = {"LEADSWEEP_URL": url, "LEADSWEEP_API_KEY": "k"}
        words = ("results", "j", "--format", form, *(["--raw"] if form == "csv" else []))
        if form != "identifiers":  # a list cannot hold what has two lines
            all_of_it, out = seen(tmp_path, words, **env)
            assert is_harmless(all_of_it), all_of_it
            assert len(out.splitlines()) == (2 if form == "csv" else 1)
            if form == "ndjson":
                assert json.loads(out)["externalId"] == HOSTILE
            piped = subprocess.run(
                [*LEADSWEEP, *words],
                env=os.environ | env,
                capture_output=True,
                check=True,
                timeout=40,
            )
            assert (HOSTILE if form == "csv" else "\u202e").encode() in piped.stdout
        device, _ = seen(tmp_path, (*words, "-o", "/dev/tty"), **env)
        assert is_harmless(device), device


@pytest.mark.parametrize("command", OPERATORS, ids=" ".join)
def test_what_a_database_holds_and_an_argument_says_do_not_steer_the_terminal(
    command, strange_database, tmp_path
):
    for words in ways(command, OPERATORS[command]):
        begins_its_line_anew = command == (
            "leads",
            "recanonicalise",
        )  # for its progress: a sign of our own
        all_of_it, out = seen(
            tmp_path, words, both="--json" not in words and not begins_its_line_anew
        )
        assert is_harmless(all_of_it), all_of_it
        assert all_of_it
        if command[-1] == "list":
            assert "evil" in out
            if "--json" in words:
                assert json.dumps(HOSTILE)[1:-1] in json.dumps(json.loads(out))


def test_an_unexpected_error_with_its_traceback_is_harmless(tmp_path):
    fails = f"""
import click
from leadsweep.commands.main import main
@main.command()
def fails():
    raise ValueError({HOSTILE!r})
main(["fails"])
"""
    for level in ("INFO", "DEBUG"):
        env = os.environ | {"LEADSWEEP_LOG_LEVEL": level}
        ran = subprocess.run(
            [sys.executable, "-c", fails],
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=40,
        )
        assert ran.returncode == 1
        assert "ValueError: evil" in ran.stderr
        assert is_harmless(ran.stderr), ran.stderr


def test_webhooks_that_come_are_told_of_harmlessly(tmp_path):
    secret = new_secret()
    event = {
        "type": HOSTILE,
        "timestamp": HOSTILE,
        HOSTILE: 1,
        "data": {HOSTILE: HOSTILE, "a": {"b": HOSTILE}, "c": 1},
    }
    for options in ((), ("--json",)):
        with listening(tmp_path, "--secret", secret, *options) as process:
            assert deliver(process.url, secret, json.dumps(event).encode()) == 204
            assert (
                deliver(
                    process.url,
                    secret,
                    b"{}",
                    **{"webhook-id": "\x9b31m\x7f evil".encode("latin-1")},
                )
                == 401
            )
            (line,) = wait_for(process.printed)
            wait_for(lambda: len(process.remarked()) > 1)
            assert is_harmless(line), line
            assert "evil" in line
            assert is_harmless("".join(process.remarked()))
            if options:
                assert json.loads(line) == event


def test_what_died_of_the_stack_is_told_of_harmlessly(capsys):
    from cli.stack.up import _say  # noqa: PLC0415

    _say(f"worker ended; its last words: {HOSTILE}")
    assert is_harmless(capsys.readouterr().out)


@pytest.mark.parametrize(
    "character",
    [*HOSTILE.removeprefix("evil").replace("[bold]", "").replace("forged", ""), "\udc80"],
)
def test_each_such_character_is_written_out_and_means_the_same_in_json(character):
    if character.isascii() and character.isprintable():
        return
    written = printable(f"ä{character}漢")
    assert is_harmless(written)
    assert (written[:2], written[-1]) == ("ä\\", "漢")
    assert brief(f"a{character}") == "a?"
    if character != "\n":
        assert is_harmless(printable_lines(f"a\n{character}"))
    said = json.dumps({"ä": character}, ensure_ascii=False)
    assert is_harmless(printable_json(said))
    assert json.loads(printable_json(said)) == {"ä": character}


NAMES = (
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian
    "क्\u200dष", "अ\u200dॅ",  # Marathi
    "👨\u200d👩\u200d👧", "❤\ufe0f\u200d🔥", "👩🏽\u200d🚀",
    "山田\u3000太郎", "Jean\u00a0Dupont",
)  # fmt: skip


@pytest.mark.parametrize(
    "hidden",
    [
        "a\u200db",
        "\u200dä",
        "ä\u200c",
        "ä\u200d\u200dä",
        "ä\u200d ä",
        "a\ufe0f",
        "ä\ufe00",
        "ä\U000e0100",
        "ä\u180b",
        "\u2800",
        "ä\ufe0f\ufe0f",
        "\U000e0041",
    ],
)
def test_what_is_seen_as_nothing_is_written_out(hidden):
    assert "\\" in printable(hidden)
    assert json.loads(printable_json(json.dumps(hidden, ensure_ascii=False))) == hidden


def test_other_text_stays_as_it_is():
    for kept in ("", "plain", "äöü ß 漢字 ｱ Ω €", "[bold]", "a\\nb", "👍", "e\u0301", *NAMES):
        assert (
            printable(kept) == printable_lines(kept) == printable_json(kept) == brief(kept) == kept
        )
    assert printable_lines("a\nb\n") == printable_json("a\nb\n") == "a\nb\n"
