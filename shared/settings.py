"""Every setting of Leadsweep, typed, with its unit and the reason for its default.

Read once per process from the environment; nothing else reads it. There are no default secrets: the
embedded stack makes its own and hands them to its children through these same variables.
"""

import base64
import binascii
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AliasChoices, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.broker.urls import is_redis, parse_broker_url, parse_redis_url
from shared.destinations import Network, parse_networks
from shared.windows import Window, parse_window

LOCK_WAIT = timedelta(minutes=10)
SECRETS_KEY_BYTES = 32

_PERIODS = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
}


class Rate(NamedTuple):
    """`limit` calls in each `period`, written `1000/hour`."""

    limit: int
    period: timedelta


def parse_rate(text: object) -> Rate:
    """Reads `1000/hour` (also `/minute`, `/second`). Raises ValueError with a message that says how
    to write it.
    """
    if isinstance(text, Rate):
        return text
    limit, _, period = str(text).partition("/")
    if not limit.isascii() or not limit.isdigit() or int(limit) < 1 or period not in _PERIODS:
        raise ValueError("write a rate as 1000/hour (or /minute, /second)")
    return Rate(int(limit), _PERIODS[period])


def parse_secrets_key(text: object) -> str:
    """`text`, one key or several with commas between. Raises ValueError that says how to make
    one.
    """
    for key in str(text).split(",") if text else ():
        try:
            decoded = base64.b64decode(key, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            decoded = b""
        if len(decoded) != SECRETS_KEY_BYTES:
            raise ValueError(
                "must be 32 random bytes in base64; make it with: openssl rand -base64 32"
            )
    return str(text)


# Not JSON: they are written 1000/hour, 22:00-06:00 mon-fri, 127.0.0.0/8.
RateSetting = Annotated[Rate, NoDecode, BeforeValidator(parse_rate)]
WindowSetting = Annotated[Window, NoDecode, BeforeValidator(parse_window)]
NetworksSetting = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(parse_networks)]


class Settings(BaseSettings):
    """The environment variables `DATABASE_URL`, `BROKER_URL`, `REDIS_URL` and those that begin with
    `LEADSWEEP_`.

    Raises pydantic.ValidationError, naming each wrong variable, when constructed from a bad
    environment.
    """

    model_config = SettingsConfigDict(
        env_prefix="LEADSWEEP_", extra="ignore", hide_input_in_errors=True
    )

    database_url: str = Field(
        "",
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        description="PostgreSQL, as `postgresql://user:password@host:port/name`; empty means the "
        "embedded one",
    )
    broker_url: Annotated[str, BeforeValidator(parse_broker_url)] = Field(
        "",
        validation_alias=AliasChoices("BROKER_URL", "broker_url"),
        description="Celery's broker, `redis://…`, `rediss://…`, `amqp://…` or `amqps://…`; empty "
        "means the embedded Redis",
    )
    redis_url: Annotated[str, BeforeValidator(parse_redis_url)] = Field(
        "",
        validation_alias=AliasChoices("REDIS_URL", "redis_url"),
        description="Redis for rate limits, and to wake calls that wait; empty means `BROKER_URL` "
        "if that is a Redis, else none",
    )
    data_dir: Path = Field(Path(".leadsweep"), description="Folder of the embedded stack")
    chunk_size: int = Field(
        1000,
        ge=1,
        le=1000,
        description="Entries decided in one transaction; smaller chunks hold locks for a shorter "
        "time",
    )
    max_file_entries: int = Field(
        5_000_000,
        ge=1,
        le=100_000_000,
        description="Entries that a file may have; one of 5 million takes some 10 seconds to "
        "arrive, and its job another 20",
    )
    lock_wait: int = Field(
        int(LOCK_WAIT.total_seconds()),
        ge=1,
        le=604_800,
        description="Seconds for which a lead that somebody else has locked is tried again, before "
        "it is given up as `locked`",
    )
    rate_limit_submit: RateSetting = Field(
        Rate(1000, timedelta(hours=1)), description="Submissions of one key, e.g. `1000/hour`"
    )
    rate_limit_read: RateSetting = Field(
        Rate(60000, timedelta(hours=1)), description="Other calls of one key, e.g. `60000/hour`"
    )
    rate_limit_health: RateSetting = Field(
        Rate(60, timedelta(minutes=1)),
        description="Calls of `/api/health` from one address, e.g. `60/minute`",
    )
    default_wait: int = Field(
        0,
        ge=0,
        le=60,
        description="Seconds that a submission waits for its job to end, unless it says `Prefer: "
        "wait=N`; above 0 for clients of the synchronous API",
    )
    off_peak: WindowSetting = Field(
        Window(22 * 60, 6 * 60, "UTC", frozenset(range(7))),
        description="Window of jobs with `offPeak`, e.g. `22:00-06:00 mon-sun Europe/Berlin`; a "
        "campaign may have its own",
    )
    retention_days: int = Field(
        30,
        ge=1,
        le=36500,
        description="Days after which the identifiers of a finished job are purged",
    )
    archive_days: int = Field(
        30,
        ge=1,
        le=36500,
        description="Days for which archived leads can be restored; then they are purged",
    )
    secrets_key: Annotated[str, BeforeValidator(parse_secrets_key)] = Field(
        "",
        description="Encrypts webhook secrets: 32 random bytes in base64 (`openssl rand -base64 "
        "32`). Older keys follow after a comma; the last of all makes the ids of leads. The "
        "embedded stack makes its own",
    )
    webhook_allow: NetworksSetting = Field(
        (),
        description="Networks to which webhooks may be sent though they are not public, over HTTP "
        "and to any port, e.g. `127.0.0.0/8,::1/128`; for development",
    )
    pool_size: int = Field(10, ge=1, le=100, description="Database connections of one API process")
    prepare_statements: bool = Field(
        default=True,
        description="Whether statements are prepared on the server, if a trial shows that they are "
        "kept there; `false` saves the trial where a pooler is known to lose them",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe level that is logged"
    )
    log_format: Literal["json", "text"] = Field(
        "json", description="`json` for collectors, `text` for people"
    )

    @property
    def limiter_url(self) -> str:
        """The Redis that keeps the rate limits, or an empty string where there is none."""
        return self.redis_url or (self.broker_url if is_redis(self.broker_url) else "")


@cache
def settings() -> Settings:
    """The settings of this process. Raises pydantic.ValidationError for a bad environment."""
    return Settings()


def variable(name: int | str) -> str:
    """The environment variable of a setting, by the name that pydantic gives it in an error."""
    return str(name) if str(name).isupper() else f"LEADSWEEP_{name}".upper()
