"""BROKER_URL and REDIS_URL mean the same to every part, and what is not supported is refused by
name.
"""

import ssl

import pytest
from pydantic import ValidationError
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from structlog.testing import capture_logs

from api.http.rate_limits import Limiter, open_redis
from shared.broker.health import broker_flaw
from shared.broker.sender import JOBS_QUEUE, Sender, create_celery
from shared.broker.urls import celery_options, parse_broker_url
from shared.broker.wakeups import CHANNEL, Announcer
from shared.settings import Rate, Settings, parse_rate
from tests.support.brokers import rabbitmq, tls_before
from tests.support.certificates import make_certificate
from tests.support.stack import wait_for

REFUSED = {
    "sqs://key:sesame@": (
        "sqs:// is not supported; write one of redis://, rediss://, amqp://, amqps://, pyamqp://"
    ),
    "kafka://host": "kafka:// is not supported",
    "memory://": "memory:// is not supported",
    "sentinel://host:26379;sentinel://other:26379": "sentinel:// is not supported",
    "redis+cluster://host": "redis+cluster:// is not supported",
    "redis+socket:///tmp/redis.sock": "redis+socket:// is not supported",
    "redis+sentinel://host": "redis+sentinel:// is not supported",
    "unix:///tmp/redis.sock": "unix:// is not supported",
    "valkey://host": "valkey:// is not supported",
    "REDIS://host": "REDIS:// is not supported",
    "sqla+postgresql://u:sesame@host/x": "sqla+postgresql:// is not s",
    "localhost:6379": "is not a URL",
    "redis:/sesame": "is not a URL",
    "redis://:ses/ame@host/0": "is not a URL; in a password, write %2F for /",
    "redis://:ses#ame@host/0": "is not a URL; in a password, write %2F for /",
    "redis://host:port/0": "is not a URL",
    "redis://host/leads": "the path of a Redis URL must be the number of a database",
    "redis://one/0;redis://other/0": "the path of a Redis URL must be the number of a database",
    "redis://host/0?db=3": "unknown parameter db; redis:// takes none",
    "redis://host/0?ssl_cert_reqs=none": "ssl_cert_reqs needs rediss://",
    "amqp://host?ssl_ca_certs=x": "ssl_ca_certs needs amqps://",
    "rediss://host/0?ssl_cert_req=none": (
        "unknown parameter ssl_cert_req; known are ssl_cert_reqs, "
    ),
    "rediss://host/0?ssl_cert_reqs=never": "ssl_cert_reqs must be one of none, optional, required",
    "rediss://host/0?ssl_check_hostname=perhaps": "ssl_check_hostname must be true or false",
    "rediss://host/0?ssl_ca_certs=/none": "ssl_ca_certs must be the path of a file",
    "amqps://one;amqps://other?ssl_cert_reqs=none": (
        "all nodes must have one scheme and the same parameters"
    ),
    "amqps://one;amqps://other": "several nodes of amqps:// need ssl_check_hostname=false",
    "amqp://one;redis://other": "all nodes must have one scheme",
}


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_not_supported_is_refused_by_name_and_without_secrets(url, monkeypatch):
    monkeypatch.setenv("BROKER_URL", url)
    with pytest.raises(ValidationError) as refusal:
        Settings()
    [flaw] = refusal.value.errors()
    assert flaw["loc"] == ("BROKER_URL",)
    assert REFUSED[url] in flaw["msg"]
    assert "sesame" not in str(refusal.value)


def test_rate_limits_are_kept_by_a_redis_only():
    with pytest.raises(
        ValidationError, match="amqp:// is not supported; write one of redis://, rediss://"
    ):
        Settings(redis_url="amqp://host")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis://host",
        "redis://:p%2Fw@host:6379/3",
        "redis://[::1]:6379/0",
        "amqp://u:p@one//;amqp://u:p@other//",
        "pyamqp://h",
    ],
)
def test_what_is_plain_stays_as_it_is(url):
    assert parse_broker_url(url) == url


def test_what_is_said_of_tls_is_written_out():
    assert (
        parse_broker_url("rediss://h:1/0")
        == "rediss://h:1/0?ssl_cert_reqs=required&ssl_check_hostname=true"
    )
    unverified = "rediss://h:1/0?ssl_cert_reqs=none&ssl_check_hostname=false"
    assert parse_broker_url("rediss://h:1/0?ssl_cert_reqs=CERT_NONE") == unverified
    assert parse_broker_url(unverified) == unverified


def test_amqps_verifies_authority_and_name_unless_told_otherwise(tmp_path):
    verified = celery_options(parse_broker_url("amqps://u:p@one//"))
    assert verified == {
        "broker_url": "amqps://u:p@one//",
        "broker_use_ssl": {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "one"},
    }
    several = celery_options(
        parse_broker_url(
            ";".join(f"amqps://{host}?ssl_check_hostname=false" for host in ("one", "other"))
        )
    )
    assert several == {
        "broker_url": "amqps://one;amqps://other",
        "broker_use_ssl": {"cert_reqs": ssl.CERT_REQUIRED},
    }
    assert celery_options(parse_broker_url("amqps://one?ssl_cert_reqs=none"))["broker_use_ssl"] == {
        "cert_reqs": ssl.CERT_NONE
    }
    authority = make_certificate(tmp_path / "pem", "one")
    own = celery_options(
        parse_broker_url(f"amqps://one?ssl_ca_certs={authority}&ssl_check_hostname=false")
    )["broker_use_ssl"]
    assert own == {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": str(authority)}


@pytest.fixture
def secure(tmp_path, redis_url):
    """A Redis behind TLS, and the certificate that is its authority."""
    certificate = make_certificate(tmp_path / "pem", "localhost")
    with tls_before(redis_url, certificate) as url:
        yield url, certificate, redis_url


async def parts_that_reach(url, plain_url):
    """The parts of which what they say through `url` comes to the Redis at `plain_url`."""
    reached = set()
    with Redis.from_url(plain_url) as plain:
        plain.flushall()
        sender = Sender(url)
        sender.send(JOBS_QUEUE)
        sender.close()
        if plain.llen(f"leadsweep:{JOBS_QUEUE}"):
            reached.add("sender")
        with plain.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe(CHANNEL)
            wait_for(lambda: plain.pubsub_numsub(CHANNEL)[0][1] == 1)
            announcer = Announcer(url)
            announcer._redis.connection_pool.connection_kwargs |= {
                "socket_timeout": 5,
                "socket_connect_timeout": 5,
            }
            announcer.announce("3f0c4a52-0000-4000-8000-000000000000")
            if channel.get_message(timeout=0.2) or channel.get_message(timeout=0.2):
                reached.add("announcer")
            announcer._redis.close()
        redis = open_redis(url)
        if (
            await Limiter(redis, timeout=5).count("x", Rate(5, parse_rate("5/minute").period))
        ).remaining == 4:
            reached.add("limiter")
        await redis.aclose()
        async with AsyncRedis.from_url(
            url, socket_connect_timeout=1
        ) as client:  # as the waiter opens it
            try:
                await client.ping()
                reached.add("waiter")
            except Exception as error:
                if "CERTIFICATE" not in str(error):
                    raise
    try:
        with create_celery(url).connection_for_read() as connection:
            connection.ensure_connection(max_retries=0)
            connection.default_channel.client.ping()
        reached.add("worker")
    except Exception as error:
        if "CERTIFICATE" not in str(error):
            raise
    if broker_flaw(url, 5) is None:
        reached.add("health")
    return reached


EVERY_PART = {"sender", "announcer", "limiter", "waiter", "worker", "health"}


async def test_a_redis_behind_tls_is_verified_by_every_part_unless_told_otherwise(secure, tmp_path):
    url, certificate, plain = secure
    with capture_logs():
        assert await parts_that_reach(Settings(broker_url=url).broker_url, plain) == set()
        trusted = Settings(broker_url=f"{url}?ssl_ca_certs={certificate}").broker_url
        assert await parts_that_reach(trusted, plain) == EVERY_PART
        unverified = Settings(broker_url=f"{url}?ssl_cert_reqs=none").broker_url
        assert await parts_that_reach(unverified, plain) == EVERY_PART
        other_name = trusted.replace("localhost", "127.0.0.1")
        assert await parts_that_reach(other_name, plain) == set(), (
            "the certificate is another host's"
        )
        nameless = Settings(
            broker_url=f"{other_name.partition('?')[0]}?ssl_ca_certs={certificate}&ssl_check_hostname=false"
        )
        assert await parts_that_reach(nameless.broker_url, plain) == EVERY_PART


def test_a_rabbitmq_behind_tls_is_verified_unless_told_otherwise(tmp_path):
    certificate = make_certificate(tmp_path / "pem", "localhost")
    untrusted = "has a certificate that is not trusted"
    with rabbitmq() as plain, tls_before(plain, certificate) as url:
        for query, other_name, finding in (
            ("", False, untrusted),
            (f"?ssl_ca_certs={certificate}", False, None),
            (f"?ssl_ca_certs={certificate}", True, untrusted),
            (f"?ssl_ca_certs={certificate}&ssl_check_hostname=false", True, None),
            ("?ssl_cert_reqs=none", True, None),
        ):
            called = Settings(
                broker_url=(url.replace("localhost", "127.0.0.1") if other_name else url) + query
            ).broker_url
            flaw = broker_flaw(called, 5)
            assert (flaw and flaw.finding) == finding, called
            with create_celery(called).connection_for_read() as worker:
                try:
                    worker.ensure_connection(max_retries=0)
                except Exception as error:
                    assert finding is not None, called
                    if "CERTIFICATE" not in str(error):
                        raise
                else:
                    assert finding is None, called
            with capture_logs() as logged:
                sender = Sender(called)
                sender.send(JOBS_QUEUE)
                sender.close()
            assert ["CERTIFICATE" in line["error"] for line in logged] == [True] * (
                finding is not None
            ), called
