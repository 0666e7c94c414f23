"""Finds out whether a broker does its work, by writing to it: one that answers a ping may still
refuse every message.

Nobody reads what is written, and it is gone within a second.
"""

from typing import Any, NamedTuple, NoReturn

import amqp
from kombu import Connection
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from shared.broker.urls import celery_options, is_redis

# A key that lives for a moment; with RabbitMQ a queue that does not exist.
TRACE = "leadsweep:health"


class Flaw(NamedTuple):
    """What keeps a broker from its work, and what to do about it. `{url}` stands for the variable
    that holds its URL.
    """

    finding: str
    hint: str


CLUSTER = Flaw(
    "is a Redis Cluster, which is not supported",
    "use a Redis or Valkey without cluster mode, or RabbitMQ",
)

# By the word with which Redis begins its refusal.
_REFUSALS = {
    "OOM": Flaw(
        "refuses writes: its memory is full (maxmemory)",
        "raise its maxmemory, or remove what else is in it",
    ),
    "READONLY": Flaw("refuses writes: it is a replica", "point {url} at the primary"),
    "NOREPLICAS": Flaw(
        "refuses writes: it has too few replicas (min-replicas-to-write)",
        "bring its replicas back, or lower min-replicas-to-write",
    ),
    "MISCONF": Flaw(
        "refuses writes: it cannot save to its disk (MISCONF)",
        "read its log; often the disk is full",
    ),
    "LOADING": Flaw("is loading its data", "wait until it has"),
    "WRONGPASS": Flaw("refuses user and password", "mend them in {url}"),
    "NOAUTH": Flaw("asks for a password", "put it into {url}, as in redis://:password@host:6379/0"),
    "NOPERM": Flaw(
        "does not let its user write", "allow the user all commands and the keys leadsweep:*"
    ),
    "MASTERDOWN": Flaw(
        "refuses all: it is a replica without its primary", "point {url} at the primary"
    ),
    "MOVED": CLUSTER,
    "CROSSSLOT": CLUSTER,
    "CLUSTERDOWN": CLUSTER,
}

_BLOCKED = Flaw(
    "blocks publishers: an alarm for its memory or disk",
    "free them; see rabbitmq-diagnostics alarms",
)


class Blocked(ConnectionError):
    """RabbitMQ takes no messages for now, and reads nothing more from a publisher."""


def refuse_to_wait(reason: str) -> NoReturn:
    """For `on_blocked` of a connection: raises Blocked. Without it a publisher would wait for as
    long as the alarm lasts.
    """
    raise Blocked(reason)


def broker_flaw(url: str, seconds: float, variable: str = "BROKER_URL") -> Flaw | None:
    """What is wrong with the broker at `url`, the value of `variable`; None if nothing is. Each
    answer of the broker may take `seconds`. Never raises.
    """
    flaw = _flaw(url, seconds)
    return flaw and flaw._replace(hint=flaw.hint.format(url=variable))


def is_cluster(url: str, seconds: float) -> bool:
    """Whether a Redis Cluster answers there."""
    return is_redis(url) and broker_flaw(url, seconds) == CLUSTER


def _flaw(url: str, seconds: float) -> Flaw | None:
    try:
        if is_redis(url):
            return _redis_flaw(url, seconds)
        _try_amqp(url, seconds)
    except Exception as error:  # noqa: BLE001 - each transport raises errors of its own
        return _flaw_of(error)
    return None


def _redis_flaw(url: str, seconds: float) -> Flaw | None:
    options = {
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    with Redis.from_url(url, **options) as client:
        # Two commands are sent at once, and either may be refused.
        about, written = (
            client.pipeline(transaction=False)
            .info("cluster")
            .set(TRACE, "", px=1000)
            .execute(raise_on_error=False)
        )
    if isinstance(about, dict) and about.get("cluster_enabled"):
        return CLUSTER
    return _flaw_of(written) if isinstance(written, Exception) else None


def _try_amqp(url: str, seconds: float) -> None:
    """Publishes to no queue, and waits for RabbitMQ to confirm it. Raises what kombu raises, and
    Blocked.
    """
    options = celery_options(url)
    timeouts = {"read_timeout": seconds, "write_timeout": seconds}
    connection = Connection(
        options["broker_url"],
        ssl=options.get("broker_use_ssl", False),
        connect_timeout=seconds,
        transport_options={"confirm_publish": True, "on_blocked": refuse_to_wait} | timeouts,
    )
    try:
        others = options["broker_url"].count(";")
        connection.ensure_connection(
            max_retries=others, interval_start=0, interval_step=0, reraise_as_library_errors=False
        )
        channel: Any = connection.channel()
        channel.basic_publish(
            channel.prepare_message(b""), exchange="", routing_key=TRACE, confirm_timeout=seconds
        )
    finally:
        connection.collect()  # without a farewell, which one that is blocked would not answer


def _flaw_of(error: Exception) -> Flaw:
    message = " ".join(str(error).split())
    code = message.partition(" ")[0]
    if isinstance(error, RedisError):
        code = getattr(error, "status_code", None) or code
    if code in _REFUSALS:
        return _REFUSALS[code]
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return Flaw(
            "has a certificate that is not trusted",
            "name its authority: ?ssl_ca_certs=FILE; or ?ssl_cert_reqs=none",
        )
    if isinstance(error, Blocked):
        return _BLOCKED
    if isinstance(error, amqp.AccessRefused | amqp.NotAllowed):
        return Flaw(
            "refuses the user",
            "mend user, password and virtual host in {url}, and what the user may do",
        )
    if isinstance(error, ResponseError):
        return Flaw(f"refuses writes: {message}", "read its log")
    return Flaw(f"does not answer: {message or type(error).__name__}", "start it, or mend {url}")
