"""A broker that answers and does not work is named, by what it says to who writes, and in good
time.
"""

import re
import time
from contextlib import contextmanager

import pytest
import redis
from structlog.testing import capture_logs

from shared.broker.health import CLUSTER, TRACE, broker_flaw, is_cluster
from shared.broker.sender import Sender
from tests.support.brokers import rabbitmq, redis_server, tls_before
from tests.support.certificates import make_certificate
from tests.support.stack import free_port, listens, wait_for

SECONDS = 2.0
NAMED_WITHIN = 10


@contextmanager
def configured(redis_url, **settings):
    """A Redis that is told so, for a while."""
    with redis.Redis.from_url(redis_url) as client:
        before = {name: client.config_get(name)[name] for name in settings}
        for name, value in settings.items():
            client.config_set(name, value)
        try:
            yield client
        finally:
            for name, value in before.items():
                client.config_set(name, value)


@contextmanager
def replica(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        client.replicaof("127.0.0.1", "1")
        try:
            yield client
        finally:
            client.replicaof("NO", "ONE")


SICK = {
    "maxmemory": (
        lambda url: configured(url, maxmemory="1"),
        "refuses writes: its memory is full (maxmemory)",
    ),
    "min-replicas": (
        lambda url: configured(url, **{"min-replicas-to-write": "1"}),
        "refuses writes: it has too few replicas (min-replicas-to-write)",
    ),
    "replica": (replica, "refuses writes: it is a replica"),
}


@pytest.fixture(params=SICK)
def refusing(request, redis_url):
    """The URL of a Redis that answers and refuses writes, and what is to be said of it."""
    sickness, finding = SICK[request.param]
    with sickness(redis_url):
        yield redis_url, finding


def test_a_redis_that_refuses_writes_is_named_though_it_answers(refusing):
    url, finding = refusing
    with redis.Redis.from_url(url) as client:
        assert client.ping()
    began = time.monotonic()
    assert broker_flaw(url, SECONDS).finding == finding
    assert time.monotonic() - began < NAMED_WITHIN


def test_a_redis_that_works_is_well_and_nothing_is_left_in_it(redis_url):
    assert broker_flaw(redis_url, SECONDS) is None
    with redis.Redis.from_url(redis_url) as client:
        assert 0 <= client.pttl(TRACE) <= 1000
        wait_for(lambda: client.dbsize() == 0, seconds=5)


def test_a_redis_that_cannot_save_is_named(tmp_path):
    nowhere = tmp_path / "gone"
    nowhere.mkdir()
    with (
        redis_server(nowhere, stop_writes_on_bgsave_error="yes") as url,
        redis.Redis.from_url(url) as client,
    ):
        client.config_set("save", "900 1")  # only what saves at all refuses
        nowhere.rmdir()
        client.set("key", "value")
        client.bgsave()
        wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        assert (
            broker_flaw(url, SECONDS).finding
            == "refuses writes: it cannot save to its disk (MISCONF)"
        )


def test_wrong_passwords_and_users_who_may_not_write_are_named(redis_url):
    assert (
        broker_flaw(re.sub(":[^:@]*@", ":wrong@", redis_url), SECONDS).finding
        == "refuses user and password"
    )
    assert broker_flaw(re.sub(":[^:@/]*@", "", redis_url), SECONDS).finding == "asks for a password"
    with redis.Redis.from_url(redis_url) as client:
        client.acl_setuser(
            "reader",
            enabled=True,
            passwords=["+sesame"],
            commands=["+@read", "+@connection"],
            keys=["*"],
        )
        flaw = broker_flaw(re.sub("//:[^:@]*@", "//reader:sesame@", redis_url), SECONDS)
        client.acl_deluser("reader")
    assert flaw.finding == "does not let its user write"


def test_a_sender_that_is_closed_leaves_no_connection(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        before = len(client.client_list())
        sender = Sender(redis_url)
        sender.send()
        wait_for(lambda: client.llen("leadsweep:jobs") == 1)
        assert len(client.client_list()) > before
        sender.close()
        wait_for(lambda: len(client.client_list()) == before, seconds=5)


def test_a_redis_cluster_is_named_for_what_it_is(tmp_path, redis_url):
    with redis_server(tmp_path, cluster_enabled="yes") as url:
        assert broker_flaw(url, SECONDS) == CLUSTER
        assert is_cluster(url, SECONDS)
    assert not is_cluster(redis_url, SECONDS)
    assert not is_cluster(f"redis://127.0.0.1:{free_port()}/0", SECONDS)


def test_a_certificate_of_an_unknown_authority_is_named(tmp_path, redis_url):
    with tls_before(redis_url, make_certificate(tmp_path / "pem", "localhost")) as url:
        verifying = f"{url}?ssl_cert_reqs=required&ssl_check_hostname=true"
        assert broker_flaw(verifying, SECONDS).finding == "has a certificate that is not trusted"


def test_a_rabbitmq_that_blocks_publishers_is_named_and_one_that_confirms_is_well():
    with rabbitmq() as url:
        assert broker_flaw(url, SECONDS) is None
    with rabbitmq(blocks=True) as url:
        began = time.monotonic()
        assert (
            broker_flaw(url, SECONDS).finding
            == "blocks publishers: an alarm for its memory or disk"
        )
        assert time.monotonic() - began < NAMED_WITHIN


def test_a_sender_that_rabbitmq_blocks_says_so_again_and_again_rather_than_to_hang():
    with rabbitmq(blocks=True) as url, capture_logs() as logged:
        sender = Sender(url)

        def said_so():
            sender.send("jobs")
            return sum(line["event"] == "messages not sent" for line in logged) > 1

        wait_for(said_so)
        sender.close()
    assert "blocked" in logged[0]["error"]


def test_what_is_not_there_is_named_at_once():
    for url in (f"redis://127.0.0.1:{free_port()}/0", f"amqp://127.0.0.1:{free_port()}"):
        began = time.monotonic()
        assert broker_flaw(url, SECONDS).finding.startswith("does not answer: ")
        assert time.monotonic() - began < 1, "a refused connection is not waited for"
    assert not listens(free_port())
