"""A process that cannot begin says why in one line."""

import os
import subprocess
import sys

import pytest

from shared.broker_health import CLUSTER
from tests.brokers import redis_server

GOOD = {
    "DATABASE_URL": "postgresql://u@127.0.0.1:1/x",
    "BROKER_URL": "redis://127.0.0.1:1/0",
    "LEADSWEEP_SECRETS_KEY": "A" * 43 + "=",
}


@pytest.mark.parametrize("module", ["api", "worker", "worker.ticker"])
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": GOOD["DATABASE_URL"]}, "BROKER_URL is not set"),
        (GOOD | {"DATABASE_URL": "mysql://secret@x/y"}, "DATABASE_URL must begin with postgresql://"),
        (GOOD | {"BROKER_URL": "sqs://key:secret@"}, "BROKER_URL: sqs:// is not supported"),
        (GOOD | {"BROKER_URL": "sentinel://:secret@host:26379"}, "BROKER_URL: sentinel:// is not supported"),
        (GOOD | {"REDIS_URL": "amqp://u:secret@host"}, "REDIS_URL: amqp:// is not supported"),
        (GOOD | {"LEADSWEEP_CHUNK_SIZE": "0"}, "LEADSWEEP_CHUNK_SIZE: "),
        (GOOD | {"LEADSWEEP_SECRETS_KEY": "secret"}, "LEADSWEEP_SECRETS_KEY: must be 32 random bytes in base64"),
        (GOOD | {"LEADSWEEP_WEBHOOK_ALLOW": "localhost"}, "LEADSWEEP_WEBHOOK_ALLOW: write networks as 127.0.0.0/8,::1/128"),
        (GOOD | {"LEADSWEEP_OFF_PEAK": "nightly"}, "LEADSWEEP_OFF_PEAK: write a window as 22:00-06:00 mon-sun Europe/Berlin"),
        (GOOD | {"LEADSWEEP_RATE_LIMIT_READ": "often"}, "LEADSWEEP_RATE_LIMIT_READ: write a rate as 1000/hour"),
    ],
)
def test_what_is_wrong_with_the_environment_is_said_in_one_line(module, environment, said):
    done = subprocess.run(
        [sys.executable, "-m", module],
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "secret" not in done.stderr


@pytest.mark.parametrize("command", [["api"], ["worker", "--webhooks"]])
def test_who_needs_the_secrets_says_how_to_make_their_key(command):
    environment = {"PATH": os.environ["PATH"]} | GOOD
    del environment["LEADSWEEP_SECRETS_KEY"]
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "LEADSWEEP_SECRETS_KEY is not set; make it once with: openssl rand -base64 32\n"


@pytest.mark.parametrize("command", [["api"], ["worker"], ["worker", "--webhooks"], ["worker.ticker"]])
def test_a_redis_cluster_is_refused_by_name(command, tmp_path):
    with redis_server(tmp_path, cluster_enabled="yes") as url:
        environment = {"PATH": os.environ["PATH"]} | GOOD | {"BROKER_URL": "amqp://127.0.0.1:1", "REDIS_URL": url}
        if command != ["api"]:
            environment |= {"BROKER_URL": url, "REDIS_URL": ""}
        done = subprocess.run(
            [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 1
        name = "REDIS_URL" if command == ["api"] else "BROKER_URL"
        assert done.stderr == f"{name}: {CLUSTER.finding}; {CLUSTER.mend}\n"
