"""What `leadsweep doctor` looks at: settings, database, processes, broker. The checks of stored
leads are in lead_checks.

A check that needs something which it cannot have, such as the database, reports that. run_checks
raises nothing.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from leadsweep.terminal.failure import Failure
from sqlalchemy import Connection, text

from cli.connection import address, check_schema, connected_to, find_settings, open_vault
from cli.doctor import lead_checks
from cli.doctor.check import Check, failed
from shared.broker.health import broker_flaw
from shared.database import prepared_statements
from shared.database.engines import database_url
from shared.database.migrations import current_version
from shared.database.prepared_statements import HINT, MISSING
from shared.process.heartbeats import NEWEST_BEATS, STALE_SECONDS
from shared.settings import Settings

OLDEST_POSTGRESQL = 14  # the first with SQL function bodies, which the schema uses
MAX_CLOCK_DIFFERENCE = 2.0  # seconds, between this machine's clock and the database's
_BROKER_TIMEOUT = 2  # seconds for one answer

_SERVER = text("""
    SELECT current_setting('server_version') AS version,
        current_setting('server_version_num')::int / 10000 AS major,
        current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby
""")

_SECRETS = text("""
    SELECT secret FROM webhooks
    UNION ALL SELECT webhook_secret FROM companies WHERE webhook_secret IS NOT NULL
    UNION ALL
    SELECT convert_to(old ->> 'secret', 'UTF8') FROM (
        SELECT jsonb_array_elements(old_secrets) AS old FROM webhooks
        UNION ALL SELECT jsonb_array_elements(old_webhook_secrets) FROM companies
    ) AS before
    WHERE CAST(old ->> 'until' AS timestamptz) > clock_timestamp()
""")

_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())::float")


def run_checks(data_dir: Path | None) -> Iterator[Check]:
    """All checks. Where several fail, the first of them is the one to mend first."""
    try:
        settings = find_settings(data_dir)
    except Failure as failure:
        yield failed("settings", failure)
        return
    yield Check("settings", ok=True, finding=f"the database is {address(settings.database_url)}")
    yield from _database_checks(settings)
    yield _broker("broker", "BROKER_URL", settings.broker_url)
    if settings.limiter_url != settings.broker_url:
        yield _limiter(settings.limiter_url)


def _database_checks(settings: Settings) -> Iterator[Check]:
    """The checks that need the database. Where one cannot reach it, the rest are not made."""
    pending: dict[str, Callable[[Connection], Check]] = {
        "database": _database,
        "clock": _clock,
        "prepared": lambda _connection: _prepared(settings),
        "schema": _schema,
        "forms": lead_checks.forms,
        "numbers": lead_checks.numbers,
        "foreign keys": lead_checks.foreign_keys,
        "secrets": partial(_secrets, settings),
        "worker": _worker,
        "deliverer": _deliverer,
        "ticker": _ticker,
    }
    try:
        with connected_to(settings) as connection:
            while pending:
                name = next(iter(pending))
                check = pending[name](connection)
                del pending[name]
                yield check
    except Failure as failure:
        first, *others = pending
        yield failed(first, failure)
        for name in others:
            yield Check(name, ok=False, finding="not checked", mend=f"mend the {first} first")


def _database(connection: Connection) -> Check:
    began = time.monotonic()
    server = connection.execute(_SERVER).one()
    finding = f"PostgreSQL {server.version}, answers in {(time.monotonic() - began) * 1000:.0f} ms"
    if server.major < OLDEST_POSTGRESQL:
        return Check(
            "database",
            ok=False,
            finding=finding,
            mend=f"upgrade to PostgreSQL {OLDEST_POSTGRESQL} or newer",
        )
    if server.encoding != "UTF8":
        return Check(
            "database",
            ok=False,
            finding=f"{finding}, encoding {server.encoding}",
            mend="create it with ENCODING UTF8",
        )
    if server.standby:
        return Check(
            "database",
            ok=False,
            finding=f"{finding}, a read-only standby",
            mend="point DATABASE_URL at the primary",
        )
    return Check("database", ok=True, finding=finding)


def _schema(connection: Connection) -> Check:
    check_schema(connection)
    return Check(
        "schema", ok=True, finding=f"version {current_version(connection)}, as this Leadsweep needs"
    )


def _secrets(settings: Settings, connection: Connection) -> Check:
    """Whether the key decrypts all secrets that sign. A webhook is not sent while one of its
    secrets cannot be decrypted.
    """
    try:
        vault = open_vault(settings)
        secrets = connection.execute(_SECRETS).scalars().all()
        for locked in secrets:
            vault.unlock(locked)
    except Failure as failure:
        return failed("secrets", failure)
    except ValueError as error:
        return Check(
            "secrets",
            ok=False,
            finding=str(error),
            mend="set the key that was used then; older keys go after a comma",
        )
    return Check(
        "secrets",
        ok=True,
        finding="LEADSWEEP_SECRETS_KEY is set"
        + (" and opens what it encrypted" if secrets else ""),
    )


def _worker(connection: Connection) -> Check:
    return _sign_of_life(connection, "worker", "leadsweep worker")


def _deliverer(connection: Connection) -> Check:
    return _sign_of_life(connection, "deliverer", "leadsweep deliverer")


def _ticker(connection: Connection) -> Check:
    return _sign_of_life(connection, "ticker", "leadsweep ticker")


def _sign_of_life(connection: Connection, role: str, start: str) -> Check:
    ages = {row.role: row.age_seconds for row in connection.execute(NEWEST_BEATS)}
    if role not in ages:
        return Check(
            role,
            ok=False,
            finding=f"no {role} has given a sign of life",
            mend=f"start one: {start}",
        )
    finding = f"last sign of life {max(0.0, ages[role]):.0f} s ago"
    if ages[role] > STALE_SECONDS:
        return Check(
            role, ok=False, finding=finding, mend=f"read its log, then start it again: {start}"
        )
    return Check(role, ok=True, finding=finding)


def _clock(connection: Connection) -> Check:
    """Whether this machine's clock, which stands for those of callers, agrees with the database's,
    by which Leadsweep goes.
    """
    before = time.time()
    theirs = float(connection.execute(_CLOCK).scalar_one())
    ahead = (before + time.time()) / 2 - theirs
    side = "ahead of" if ahead > 0 else "behind"
    finding = f"this machine's is {abs(ahead):.1f} s {side} the database's"
    if abs(ahead) > MAX_CLOCK_DIFFERENCE:
        return Check("clock", ok=False, finding=finding, mend="set both by a time server (NTP)")
    return Check("clock", ok=True, finding=finding)


def _broker(name: str, variable: str, url: str) -> Check:
    if not url:
        return Check(
            name,
            ok=False,
            finding=f"{variable} is not set",
            mend=f"set it, e.g. {variable}=redis://host:6379/0",
        )
    if flaw := broker_flaw(url, _BROKER_TIMEOUT, variable):
        return Check(name, ok=False, finding=f"{address(url)} {flaw.finding}", mend=flaw.hint)
    return Check(name, ok=True, finding=f"{address(url)} accepts writes")


def _limiter(url: str) -> Check:
    if not url:
        return Check("rate limits", ok=True, finding="none: REDIS_URL is not set")
    return _broker("rate limits", "REDIS_URL", url)


def _prepared(settings: Settings) -> Check:
    """Whether statements can be prepared, which some poolers prevent; without, all is slower."""
    if not settings.prepare_statements:
        return Check(
            "prepared", ok=True, finding="no statements: LEADSWEEP_PREPARE_STATEMENTS is false"
        )
    kept = prepared_statements.are_kept(database_url(settings.database_url))
    if kept is None:
        return Check(
            "prepared",
            ok=True,
            finding="no statements: whether the server keeps them could not be found out",
        )
    if not kept:
        return Check("prepared", ok=True, finding=f"no statements: {MISSING}", mend=HINT)
    return Check("prepared", ok=True, finding="statements are kept")
