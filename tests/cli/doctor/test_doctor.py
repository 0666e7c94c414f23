"""The doctor finds what is wrong, says how to mend it, and exits with 1 if there is anything."""

import os
import socket

import pytest
import redis
from sqlalchemy import text

from shared.database.prepared_statements import MISSING
from shared.process.heartbeats import beat
from tests.support.brokers import rabbitmq, redis_server
from tests.support.pooler import pooled

NAMES = [
    "settings",
    "database",
    "clock",
    "prepared",
    "schema",
    "forms",
    "numbers",
    "foreign keys",
    "secrets",
    "worker",
    "deliverer",
    "ticker",
    "broker",
]


@pytest.fixture
def healthy(leadsweep, engine, redis_url, monkeypatch):
    """The doctor, where all is well."""
    monkeypatch.setenv("BROKER_URL", redis_url)
    with engine.begin() as connection:
        beat(connection, "worker")
        beat(connection, "deliverer")
        beat(connection, "ticker")
    return lambda *options: leadsweep("doctor", *options)


def wrong(ran):
    """What is wrong, as {name: finding -> mend}."""
    result = ran.json
    assert result["ok"] is (ran.code == 0)
    assert ran.err == ""
    return {
        check["name"]: f"{check['finding']} -> {check['mend']}"
        for check in result["checks"]
        if not check["ok"]
    }


def test_a_healthy_stack_is_ok_in_every_part(healthy):
    ran = healthy("--json")
    assert ran.code == 0
    assert [check["name"] for check in ran.json["checks"]] == NAMES
    assert wrong(ran) == {}
    told = healthy()
    assert told.code == 0
    assert [line.split()[:2] for line in told.out.splitlines()] == [
        ["ok", name.split()[0]] for name in NAMES
    ]


def test_silent_workers_and_tickers_are_told_apart_from_those_that_never_were(healthy, engine):
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM heartbeats WHERE role = 'ticker'"))
        connection.execute(text("UPDATE heartbeats SET beat_at = beat_at - interval '1 minute'"))
    ran = healthy("--json")
    assert ran.code == 1
    found = wrong(ran)
    assert found.keys() == {"worker", "deliverer", "ticker"}
    assert found["worker"].startswith("last sign of life 6")
    assert found["worker"].endswith("-> read its log, then start it again: leadsweep worker")
    assert found["ticker"] == "no ticker has given a sign of life -> start one: leadsweep ticker"


def test_a_schema_that_is_missing_is_to_be_migrated_and_what_needs_it_is_not_checked(
    healthy, engine
):
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    assert wrong(healthy("--json")) == {
        "schema": "the database has no tables of Leadsweep yet -> run: leadsweep migrate",
        "forms": "not checked -> mend the schema first",
        "numbers": "not checked -> mend the schema first",
        "foreign keys": "not checked -> mend the schema first",
        "secrets": "not checked -> mend the schema first",
        "worker": "not checked -> mend the schema first",
        "deliverer": "not checked -> mend the schema first",
        "ticker": "not checked -> mend the schema first",
    }


def test_a_database_that_cannot_be_reached_does_not_hide_the_broker(healthy, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:sesame@127.0.0.1:1/x")
    ran = healthy("--json")
    found = wrong(ran)
    assert found.keys() == set(NAMES) - {"settings", "broker"}
    assert found["database"].endswith("-> start it, create it, or mend DATABASE_URL")
    assert "sesame" not in ran.out


def test_a_broker_that_is_not_set_not_there_or_silent_is_told(healthy, monkeypatch):
    monkeypatch.setenv("BROKER_URL", "")
    assert wrong(healthy("--json"))["broker"].startswith("BROKER_URL is not set -> set it")
    monkeypatch.setenv("BROKER_URL", "redis://:sesame@127.0.0.1:1/0")
    ran = healthy()
    assert ran.code == 1
    assert "redis://127.0.0.1:1/0 does not answer" in ran.out
    assert "sesame" not in ran.out
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        monkeypatch.setenv("BROKER_URL", f"amqp://u:sesame@127.0.0.1:{frozen.getsockname()[1]}//")
        ran = healthy()
    assert "broker       amqp://127.0.0.1" in ran.out
    assert "sesame" not in ran.out


def test_a_broker_that_answers_and_refuses_writes_is_told(healthy, redis_url):
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", "1")
        try:
            found = wrong(healthy("--json"))
        finally:
            client.config_set("maxmemory", "0")
    assert found.keys() == {"broker"}
    assert (
        "refuses writes: its memory is full (maxmemory) -> raise its maxmemory" in found["broker"]
    )


def test_a_rabbitmq_that_blocks_publishers_and_a_redis_cluster_are_told(
    healthy, monkeypatch, tmp_path
):
    with rabbitmq(blocks=True) as url:
        monkeypatch.setenv("BROKER_URL", url)
        assert (
            "blocks publishers: an alarm for its memory or disk -> free them"
            in wrong(healthy("--json"))["broker"]
        )
    with redis_server(tmp_path, cluster_enabled="yes") as url:
        monkeypatch.setenv("BROKER_URL", url)
        assert "is a Redis Cluster, which is not supported" in wrong(healthy("--json"))["broker"]


def test_a_scheme_that_is_not_supported_is_told(healthy, monkeypatch):
    monkeypatch.setenv("BROKER_URL", "sqs://key:sesame@")
    [(name, said)] = wrong(healthy("--json")).items()
    assert name == "settings"
    assert said.startswith("BROKER_URL: sqs:// is not supported; write one of redis://")


def test_a_pooler_that_loses_prepared_statements_is_a_warning_as_all_works_without(
    healthy, database_url, monkeypatch
):
    with pooled(database_url) as pooler:
        monkeypatch.setenv("DATABASE_URL", pooler.url)
        assert wrong(healthy("--json")) == {}
        told = healthy()
        assert told.code == 0, told.out
        assert len(told.out.splitlines()) == len(NAMES)
        assert (
            f"warn  prepared     no statements: {MISSING} -> set LEADSWEEP_PREPARE_STATEMENTS=false"
            in told.out
        )
        monkeypatch.setenv("LEADSWEEP_PREPARE_STATEMENTS", "false")
        assert "warn" not in healthy().out


def test_a_redis_of_its_own_for_rate_limits_is_checked_as_well(healthy, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    assert wrong(healthy("--json")).keys() == {"rate limits"}


def test_wrong_settings_are_the_first_thing_to_mend(healthy, monkeypatch):
    monkeypatch.setenv("LEADSWEEP_POOL_SIZE", "0")
    assert wrong(healthy("--json")) == {
        "settings": (
            "LEADSWEEP_POOL_SIZE: should be greater than or equal to 1 -> correct the environment"
        )
    }


def test_without_database_and_stack_it_says_how_to_start_one(healthy, monkeypatch, tmp_path):
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("LEADSWEEP_DATA_DIR", str(tmp_path))
    assert wrong(healthy("--json")) == {
        "settings": f"no stack is running in {tmp_path}, and DATABASE_URL is not set -> start one: "
        f"leadsweep up, "
        "or set DATABASE_URL"
    }


def test_a_key_that_does_not_open_the_secrets_is_found_out(healthy, leadsweep, monkeypatch):
    flaw = "LEADSWEEP_SECRETS_KEY is not the key that this secret was encrypted with"
    leadsweep("companies", "create", "acme")
    assert wrong(healthy("--json")) == {}
    key, new_key = os.environ["LEADSWEEP_SECRETS_KEY"], "A" * 43 + "="
    monkeypatch.setenv("LEADSWEEP_SECRETS_KEY", f"{new_key},{key}")
    leadsweep("companies", "webhook-secret", "acme", "--rotate")
    assert wrong(healthy("--json")) == {}
    monkeypatch.setenv("LEADSWEEP_SECRETS_KEY", new_key)
    assert wrong(healthy("--json"))["secrets"].startswith(flaw), (
        "the secret of before signs too, and cannot be read"
    )
    monkeypatch.setenv("LEADSWEEP_SECRETS_KEY", "B" * 43 + "=")
    assert wrong(healthy("--json")) == {
        "secrets": f"{flaw} -> set the key that was used then; older keys go after a comma"
    }
    monkeypatch.delenv("LEADSWEEP_SECRETS_KEY")
    assert wrong(healthy("--json"))["secrets"].startswith("LEADSWEEP_SECRETS_KEY is not set")


def test_a_foreign_key_without_an_index_is_named_with_the_statement_that_mends_it(healthy, engine):
    """It works, but slowly: a warning."""
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE calls (lead_id bigint CONSTRAINT of_lead REFERENCES leads)")
        )
    ran = healthy("--json")
    assert (ran.code, wrong(ran)) == (0, {})
    [check] = [check for check in ran.json["checks"] if check["name"] == "foreign keys"]
    assert (
        check["finding"]
        == "deleting leads is slow, as these foreign keys have no index: of_lead of calls"
    )
    assert check["mend"] == "CREATE INDEX CONCURRENTLY ON calls (lead_id)"
    [line] = [line for line in healthy().out.splitlines() if line.startswith("warn")]
    assert "of_lead of calls" in line
