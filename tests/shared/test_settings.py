"""Settings come from the environment, are checked, and say how to write them right."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from shared.database.engines import database_url
from shared.settings import Rate, Settings, parse_rate


def test_the_three_urls_have_the_names_that_everybody_uses(monkeypatch):
    values = {"DATABASE_URL": "postgresql://d", "BROKER_URL": "redis://b", "REDIS_URL": "redis://r"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    chosen = Settings()
    assert (chosen.database_url, chosen.broker_url, chosen.redis_url) == tuple(values.values())


def test_all_others_begin_with_leadsweep(monkeypatch):
    monkeypatch.setenv("LEADSWEEP_CHUNK_SIZE", "7")
    monkeypatch.setenv("LEADSWEEP_RATE_LIMIT_SUBMIT", "5/minute")
    assert Settings().chunk_size == 7
    assert Settings().rate_limit_submit == Rate(5, timedelta(minutes=1))


@pytest.mark.parametrize(
    "wrong", ["", "1000", "0/hour", "-1/hour", "1000/fortnight", "many/hour", "٣/hour", "1000/"]
)
def test_a_rate_that_cannot_be_read_says_how_to_write_one(wrong):
    with pytest.raises(ValueError, match="write a rate as 1000/hour"):
        parse_rate(wrong)


@pytest.mark.parametrize("size", ["0", "1001", "many"])
def test_a_chunk_size_out_of_range_is_refused(monkeypatch, size):
    monkeypatch.setenv("LEADSWEEP_CHUNK_SIZE", size)
    with pytest.raises(ValidationError, match="chunk_size"):
        Settings()


def test_a_wrong_setting_is_refused_without_repeating_its_value(monkeypatch):
    monkeypatch.setenv("LEADSWEEP_LOG_LEVEL", "hunter2")
    with pytest.raises(ValidationError) as refusal:
        Settings()
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("redis_url", "broker_url", "limiter"),
    [
        ("", "redis://broker/0", "redis://broker/0"),
        ("redis://own/1", "redis://broker/0", "redis://own/1"),
        ("", "amqp://rabbit", ""),
    ],
)
def test_rate_limits_use_their_own_redis_or_the_brokers(redis_url, broker_url, limiter):
    assert Settings(redis_url=redis_url, broker_url=broker_url).limiter_url == limiter


@pytest.mark.parametrize("wrong", ["", "localhost", "mysql://x/y", "redis://x"])
def test_a_database_url_that_is_none_says_how_to_write_one(wrong):
    with pytest.raises(ValueError, match="postgresql://"):
        database_url(wrong)


def test_a_database_url_gets_the_driver_we_use():
    assert database_url("postgresql://u:p@h:1/n").drivername == "postgresql+psycopg"
    assert database_url("postgres://u:p@h:1/n").drivername == "postgresql+psycopg"
