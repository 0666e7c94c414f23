"""Engines for one `postgresql://` URL: the worker and the command line use a sync one, the API
async ones.

All time is the database's: statements say `clock_timestamp()`, never a parameter. Behind a pooler
that does not keep prepared statements nothing is prepared.
"""

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import Conninfo
from sqlalchemy import URL, Engine, ExceptionContext, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from shared.database import prepared_statements
from shared.database.plans import SETTINGS
from shared.printable import brief
from shared.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_WRITE = "write postgresql://user:password@host:port/name"
_DRIVERS = {"postgresql", "postgres", "postgresql+psycopg"}
_LAST_PORT = 65535

CONNECT_TIMEOUT = 3  # seconds; a caller who waits longer has given up
LOCK_TIMEOUT = "2s"

_BEGIN = "; ".join(
    [
        "BEGIN",
        f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'",
        *(f"SET LOCAL {name} = off" for name in SETTINGS),
    ]
)


def database_url(text: str) -> URL:
    """`text` with psycopg as its driver. Raises ValueError, with what to write, where it is not the
    URL of a PostgreSQL.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise ValueError(f"DATABASE_URL is not a URL; {_WRITE}") from None
    except ValueError:
        raise ValueError(f"DATABASE_URL has a port that is not a number; {_WRITE}") from None
    if url.drivername not in _DRIVERS:
        raise ValueError(
            f"DATABASE_URL must begin with postgresql://, not {brief(url.drivername)}://; {_WRITE}"
        )
    if url.port is not None and not 0 < url.port <= _LAST_PORT:
        raise ValueError(
            f"DATABASE_URL has a port that is not between 1 and {_LAST_PORT}; {_WRITE}"
        )
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    if unknown := sorted(url.query.keys() - known):
        name = brief(unknown[0])
        raise ValueError(
            f"DATABASE_URL has an option that PostgreSQL does not know, {name}; "
            "leave it out, or write it as libpq does"
        )
    return url.set(drivername="postgresql+psycopg")


def reason_of(error: DBAPIError, settings: Settings) -> str:
    """What the database says, or what failed on the way to it: one line, without the password."""
    cause = error.orig
    primary = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
    reason = primary or str(cause).rpartition("failed: ")[2].partition("\n")[0]
    password = make_url(settings.database_url).password
    return reason.replace(str(password), "***") if password else reason


def _options(application: str, connect_timeout: int = CONNECT_TIMEOUT) -> dict[str, Any]:
    connect: dict[str, Any] = {
        "connect_timeout": connect_timeout,
        "application_name": f"leadsweep-{application}",
        # A host that vanished without a word is noticed within 15 s, not hours.
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        # Milliseconds; the same while something that was sent is not acknowledged.
        "tcp_user_timeout": 15_000,
    }
    return {
        "connect_args": connect,
        "hide_parameters": True,
        "pool_pre_ping": False,
        "pool_recycle": 1800,
    }


def create_sync_engine(
    settings: Settings, application: str, *, connect_timeout: int = CONNECT_TIMEOUT, **options: Any
) -> Engine:
    """An engine for the worker, the ticker and the command line; `application` shows in
    pg_stat_activity.
    """
    engine = create_engine(
        database_url(settings.database_url), **_options(application, connect_timeout), **options
    )
    _prepare_where_kept(engine, settings, prepared_statements.TRIAL_TIMEOUT)
    return engine


def create_worker_engine(settings: Settings, application: str, **options: Any) -> Engine:
    """An engine for processes that must never stand still: its transactions give up on a lock after
    LOCK_TIMEOUT, also on that of a table, and its statements go by their indexes.

    A statement cannot set this itself: its tables are locked, and it is planned, before anything of
    it runs. Nor can a session, behind a pooler. So it is set along with BEGIN, which costs no round
    trip of its own.
    """
    engine = create_sync_engine(settings, application, isolation_level="AUTOCOMMIT", **options)
    # Not by an event: an error in it would not count as one of the database, and any listener makes
    # each statement a twentieth slower.
    engine.dialect.do_begin = _begin  # type: ignore[method-assign]
    return engine


def _begin(dbapi_connection: Any) -> None:
    dbapi_connection.execute(_BEGIN, prepare=False)


def create_api_engine(settings: Settings, application: str, **options: Any) -> "AsyncEngine":
    """An engine for the API."""
    # Imported here, as it brings the whole ORM, for which other processes should not wait.
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415

    engine = create_async_engine(
        database_url(settings.database_url), **_options(application), **options
    )
    # An event loop cannot wait for the trial.
    _prepare_where_kept(engine.sync_engine, settings, trial_timeout=0)
    return engine


def try_preparing(settings: Settings) -> None:
    """Finds out whether statements may be prepared, before a process opens connections or forks.
    Takes seconds at most.
    """
    if settings.prepare_statements:
        prepared_statements.may_be_used(database_url(settings.database_url))


def _prepare_where_kept(engine: Engine, settings: Settings, trial_timeout: float) -> None:
    @event.listens_for(engine, "do_connect")
    def choose(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
        # A statement is prepared at its sixth use, which a connection that is used once never sees.
        is_used_once = isinstance(engine.pool, NullPool)
        may_prepare = settings.prepare_statements and not is_used_once
        if not may_prepare or not prepared_statements.may_be_used(engine.url, trial_timeout):
            options["prepare_threshold"] = None

    @event.listens_for(engine, "handle_error")
    def drop(context: ExceptionContext) -> None:
        error = context.original_exception
        # An error of the same kind that a trigger has raised has a context.
        if isinstance(error, prepared_statements.LOST) and not error.diag.context:
            context.is_disconnect = True
            prepared_statements.note(engine.url, context.original_exception)
