"""`leadsweep webhooks listen`: what is signed is printed and passed on, what is not is refused. And
the company's secret.
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import text

from shared.credentials import Vault, in_force, new_secret, new_secrets_key, sign
from tests.support.receiver import receiving
from tests.support.stack import wait_for

LISTEN = [
    sys.executable,
    "-c",
    "from leadsweep.commands.main import main; main()",
    "webhooks",
    "listen",
    "--port",
    "0",
]
EVENT = {
    "type": "job.completed",
    "timestamp": "2026-01-01T02:00:00.000Z",
    "data": {"jobId": "j", "deleted": 2, "dryRun": False, "error": None},
}
BODY = json.dumps(EVENT).encode()
WEBHOOK = uuid4()


@contextmanager
def listening(folder, *options):
    """Runs the command; yields it with its `url`, what it `printed` and what it `remarked`."""
    out, err = folder / "out", folder / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [*LISTEN, *options], stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL
        )
    process.printed = lambda: out.read_text().splitlines()
    process.remarked = lambda: err.read_text().splitlines()
    try:
        process.url = wait_for(process.remarked)[0].removeprefix("listening on ")
        yield process
    finally:
        process.terminate()
        assert process.wait(10) == 0


def deliver(url, secret, body=BODY, moment=None, **headers):
    signed = sign([secret], "msg_1", moment or datetime.now(UTC), body)
    return httpx2.post(
        url,
        content=body,
        headers=signed | {"content-type": "application/json"} | headers,
        trust_env=False,
    ).status_code


def test_what_is_signed_with_one_of_the_secrets_is_printed_in_a_line(tmp_path):
    secrets = [new_secret(), new_secret()]
    with listening(
        tmp_path, *(word for secret in secrets for word in ("--secret", secret))
    ) as process:
        assert [deliver(process.url, secret) for secret in secrets] == [204, 204]
        wait_for(lambda: len(process.printed()) == 2)
        assert (
            process.printed()[0]
            == "2026-01-01T02:00:00.000Z job.completed jobId=j deleted=2 dryRun=false"
        )


def test_what_is_not_signed_or_too_old_or_changed_is_refused_and_not_printed(tmp_path):
    secret = new_secret()
    with listening(tmp_path, "--secret", secret) as process:
        assert deliver(process.url, new_secret()) == 401
        assert deliver(process.url, secret, moment=datetime.now(UTC) - timedelta(minutes=6)) == 401
        assert deliver(process.url, secret, **{"webhook-id": "msg_2"}) == 401
        assert deliver(process.url, secret, **{"webhook-signature": "rubbish"}) == 401
        assert httpx2.post(process.url, content=BODY, trust_env=False).status_code == 401
        assert deliver(process.url, secret) == 204
        wait_for(
            lambda: len([line for line in process.remarked() if line.startswith("refused ")]) == 5
        )
        assert len(wait_for(process.printed)) == 1


def test_what_none_of_the_secrets_signed_is_told_with_whose_secret_would_have_fitted(
    leadsweep, engine, tmp_path
):
    """`leadsweep` says where the database is."""
    leadsweep("companies", "create", "acme")
    leadsweep("companies", "create", "other")
    of = {
        name: leadsweep("companies", "webhook-secret", name).out.strip()
        for name in ("acme", "other")
    }
    old = of["acme"]
    of["acme"] = leadsweep("companies", "webhook-secret", "acme", "--rotate").out.strip()
    vault, own = Vault(os.environ["LEADSWEEP_SECRETS_KEY"]), new_secret()
    with engine.begin() as connection:
        added = text(
            "INSERT INTO webhooks (id, company_id, url, events, secret) VALUES (:id, 'acme', "
            "'https://x', '{}', :secret)"
        )
        foreign = Vault(new_secrets_key()).lock(new_secret())
        connection.execute(added, {"id": WEBHOOK, "secret": vault.lock(own)})
        connection.execute(added, {"id": uuid4(), "secret": foreign})
    nobody = "a job's callbackUrl is signed with its company's secret, a webhook with its own"
    with listening(tmp_path, "--secret", of["other"]) as process:
        for secret, told in {
            of["acme"]: "the secret of company acme would have fitted",
            old: "the secret of company acme before its last rotation would have fitted",
            own: f"the secret of webhook {WEBHOOK} of company acme would have fitted",
            new_secret(): nobody,
        }.items():
            before = len(process.remarked())
            assert deliver(process.url, secret) == 401
            (said,) = wait_for(lambda before=before: process.remarked()[before:])
            assert said == f"refused msg_1: No matching signature found; {told}"
        assert deliver(process.url, of["other"]) == 204
        assert not [
            secret for secret in (*of.values(), old, own) if secret in "".join(process.remarked())
        ]


def test_without_a_database_it_says_which_kinds_of_secrets_there_are(tmp_path, monkeypatch):
    for url in ("", "postgresql://127.0.0.1:1/nowhere"):
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setenv("LEADSWEEP_DATA_DIR", str(tmp_path / "none"))
        with listening(tmp_path, "--secret", new_secret()) as process:
            assert deliver(process.url, new_secret()) == 401
            wait_for(lambda: len(process.remarked()) == 2)
            assert process.remarked()[1].endswith(
                "is signed with its company's secret, a webhook with its own"
            )


def test_what_is_signed_and_is_no_event_is_refused_in_a_line(tmp_path):
    secret = new_secret()
    with listening(tmp_path, "--secret", secret) as process:
        for body in (b"7", b"[7]", b"{", b"[" * 100_000):
            assert deliver(process.url, secret, body) == 400
        right = sign([secret], "msg_1", datetime.now(UTC), BODY)["webhook-signature"]
        assert deliver(process.url, secret, **{"webhook-signature": f"v2 {right}"}) == 204
        wait_for(lambda: len(process.printed()) == 1 and len(process.remarked()) == 5)
        assert process.remarked()[1:] == ["refused msg_1: signed, but not a JSON object"] * 4


def test_what_a_caller_wrote_cannot_pass_for_more_than_one_word_of_one_line(tmp_path):
    secret, forged = new_secret(), "x\n2026-01-01T02:00:00.000Z job.failed jobId=k\x1b[2J\u202e"
    with listening(tmp_path, "--secret", secret) as process:
        for reference in (forged, "ticket 17 deleted=5", 'a"b', "ü"):
            event = EVENT | {"data": {"clientReference": reference}}
            assert deliver(process.url, secret, json.dumps(event).encode()) == 204
        deliver(process.url, new_secret(), **{"webhook-id": "\x1b[2J"})
        wait_for(lambda: len(process.printed()) == 4 and len(process.remarked()) == 2)
        assert sorted(
            line.partition("clientReference=")[2] for line in process.printed()
        ) == sorted([json.dumps(forged), '"ticket 17 deleted=5"', '"a\\"b"', "ü"])
        assert process.remarked()[1].startswith('refused "\\u001b[2J": ')


def test_it_ends_without_a_word_when_nobody_reads_what_it_prints(tmp_path):
    secret = new_secret()
    with (tmp_path / "err").open("wb") as stderr:
        process = subprocess.Popen(
            [*LISTEN, "--secret", secret],
            stdout=subprocess.PIPE,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
        )
    try:
        (said,) = wait_for(lambda: (tmp_path / "err").read_text().splitlines())
        url = said.removeprefix("listening on ")
        deliver(url, secret)
        assert process.stdout.readline()
        process.stdout.close()
        deliver(url, secret)
        assert process.wait(10) == 1
        assert (tmp_path / "err").read_text().splitlines() == [said]
    finally:
        process.kill()
        process.wait()


def test_it_listens_on_an_ipv6_address_too(tmp_path):
    secret = new_secret()
    with listening(tmp_path, "--secret", secret, "--host", "::1") as process:
        assert process.url.startswith("http://[::1]:")
        assert deliver(process.url, secret) == 204
        assert len(wait_for(process.printed)) == 1


@pytest.mark.parametrize(
    "url",
    ["", "example.com", "http://", "http://[::1", "ftp://example.com/", "http://localhost:99999/"],
)
def test_where_it_cannot_forward_to_it_does_not_begin(leadsweep, url):
    ran = leadsweep("webhooks", "listen", "--port", "0", "--secret", new_secret(), "--forward", url)
    assert ran.code == 2
    assert "Invalid value for '--forward': must be a URL such as" in ran.error


def test_as_json_the_events_are_as_they_were_sent(tmp_path):
    secret = new_secret()
    with listening(tmp_path, "--secret", secret, "--json") as process:
        deliver(process.url, secret)
        assert json.loads(wait_for(process.printed)[0]) == EVENT


def test_what_is_forwarded_keeps_its_signature_and_the_answer_is_the_forwarded_one(tmp_path):
    secret = new_secret()
    with (
        receiving() as behind,
        listening(tmp_path, "--secret", secret, "--forward", f"{behind.url}/503") as process,
    ):
        assert deliver(process.url, secret) == 503
        assert deliver(process.url, new_secret()) == 401
        (came,) = behind.came
        assert came.verified(secret) == EVENT
        wait_for(process.printed)
        assert process.printed()[0].endswith("forwarded: 503")
    with listening(tmp_path, "--secret", secret, "--forward", "http://127.0.0.1:1/") as process:
        assert deliver(process.url, secret) == 502


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "Missing option '--secret'"),
        (("--secret", "whsec_ä"), "a secret must be whsec_ followed by base64"),
        (("--secret", "whsec_"), "a secret must be whsec_ followed by base64"),
    ],
)
def test_without_a_secret_it_does_not_begin(leadsweep, options, said):
    assert said in leadsweep("webhooks", "listen", "--port", "0", *options).error


def test_a_companys_secret_is_shown_and_rotated(leadsweep, engine, monkeypatch):
    leadsweep("companies", "create", "acme")
    first = leadsweep("companies", "webhook-secret", "acme").out.strip()
    assert leadsweep("companies", "webhook-secret", "acme", "--json").json == {
        "id": "acme",
        "webhookSecret": first,
        "oldSecretUntil": None,
    }
    rotated = [leadsweep("companies", "webhook-secret", "acme", "--rotate") for _ in range(2)]
    assert all(ran.err.startswith("the old secret signs too until 20") for ran in rotated)
    second, third = (ran.out.strip() for ran in rotated)
    assert len({first, second, third}) == 3
    assert third == leadsweep("companies", "webhook-secret", "acme").out.strip()
    with engine.begin() as connection:
        locked, old = connection.exec_driver_sql(
            "SELECT webhook_secret, old_webhook_secrets FROM companies"
        ).one()
        connection.exec_driver_sql("INSERT INTO companies (id) VALUES ('by-hand'), ('rotated')")
    vault = Vault(os.environ["LEADSWEEP_SECRETS_KEY"])
    assert [
        vault.unlock(secret) for secret in (bytes(locked), *in_force(old, datetime.now(UTC)))
    ] == [third, second, first]
    by_hand = leadsweep("companies", "webhook-secret", "by-hand").out
    assert by_hand == leadsweep("companies", "webhook-secret", "by-hand").out, "made once"
    assert leadsweep("companies", "webhook-secret", "rotated", "--rotate").err == "", (
        "there is no old one"
    )
    assert (
        "company nobody does not exist" in leadsweep("companies", "webhook-secret", "nobody").error
    )
    monkeypatch.setenv("LEADSWEEP_SECRETS_KEY", "A" * 43 + "=")
    assert (
        "LEADSWEEP_SECRETS_KEY is not the key"
        in leadsweep("companies", "webhook-secret", "acme").error
    )
