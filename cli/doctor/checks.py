"""What `leadsweep doctor` looks at. Each check says that all is well, or what is wrong and how to
mend it.

A check never raises: what it needs and cannot have is its finding.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from leadsweep.terminal.failure import Failure
from psycopg import errors
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import DBAPIError

from cli.connection import address, check_schema, connected_to, find_settings, open_vault
from shared.broker.health import broker_flaw
from shared.database import prepared_statements
from shared.database.engines import database_url
from shared.database.foreign_keys import without_index
from shared.database.migrations import current_version
from shared.database.prepared_statements import HINT, MISSING
from shared.identifiers.canonical import FORM
from shared.process.heartbeats import NEWEST_BEATS, STALE_SECONDS
from shared.settings import Settings

OLDEST_POSTGRESQL = 14  # the first with SQL function bodies, which the schema uses
CLOCK_SECONDS = 2.0  # how far this machine's clock may be off the database's
_TIMEOUT = 2  # seconds for one answer of the broker

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

_FORM = text("SELECT min(form) FROM canonical_forms")
_RECANONICALISE = "run: leadsweep leads recanonicalise"
_LOOK_SECONDS = 5  # for looking through all leads; who has more of them than that allows is told so
_SHOWN, _COUNTED = 5, 1000  # leads

# With the lead whose identifier it would have.
_STALE = text("""
    SELECT stale.id, (
        SELECT min(other.id) FROM leads AS other
        WHERE other.campaign_id = stale.campaign_id AND other.id <> stale.id AND (
            other.external_id = leadsweep_canonical_external_id(stale.external_id)
            OR other.phone_number = leadsweep_canonical_phone_number(stale.phone_number))
    ) AS holder
    FROM leads AS stale
    WHERE leadsweep_canonical_external_id(external_id) IS DISTINCT FROM external_id
        OR leadsweep_canonical_phone_number(phone_number) IS DISTINCT FROM phone_number
    LIMIT :shown
""")

_NO_NUMBERS = text(
    "SELECT id FROM leads WHERE NOT leadsweep_is_phone_number(phone_number) ORDER BY id LIMIT :most"
)

_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())::float")


class Check(NamedTuple):
    """One finding. `mend` is empty where there is nothing to mend; what is `ok` with one works, but
    could be better.
    """

    name: str
    ok: bool
    finding: str
    mend: str = ""


def run_checks(data_dir: Path | None) -> Iterator[Check]:
    """All checks, in an order in which the first that fails is the one to mend first."""
    try:
        settings = find_settings(data_dir)
    except Failure as failure:
        yield _failed("settings", failure)
        return
    yield Check("settings", ok=True, finding=f"the database is {address(settings.database_url)}")
    yield from _database_checks(settings)
    yield _broker("broker", "BROKER_URL", settings.broker_url)
    if settings.limiter_url != settings.broker_url:
        yield _limiter(settings.limiter_url)


def _failed(name: str, failure: Failure) -> Check:
    return Check(
        name, ok=False, finding=failure.wrong, mend=failure.mend or "read PostgreSQL's log"
    )


def _database_checks(settings: Settings) -> Iterator[Check]:
    """Those that need the database; where it cannot be had, they say so."""
    pending: dict[str, Callable[[Connection], Check]] = {
        "database": _database,
        "clock": _clock,
        "prepared": lambda _connection: _prepared(settings),
        "schema": _schema,
        "forms": _forms,
        "numbers": _numbers,
        "foreign keys": _foreign_keys,
        "secrets": partial(_secrets, settings),
        "worker": _worker,
        "deliverer": _deliverer,
        "ticker": _ticker,
    }
    try:
        with connected_to(settings) as connection:
            while pending:
                name = next(iter(pending))
                finding = pending[name](connection)
                del pending[name]
                yield finding
    except Failure as failure:
        first, *others = pending
        yield _failed(first, failure)
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


def _forms(connection: Connection) -> Check:
    """Whether all leads are stored in today's canonical form; until then, look-ups try both."""
    form = connection.execute(_FORM).scalar_one()
    if form >= FORM:
        return Check(
            "forms", ok=True, finding="identifiers of all leads are in their canonical form"
        )
    stale = _looked_for(connection, _STALE)
    if stale is None:
        return Check(
            "forms",
            ok=False,
            finding="identifiers of leads may be in a former form",
            mend=_RECANONICALISE,
        )
    if not stale:
        return Check(
            "forms",
            ok=False,
            finding="identifiers were not yet brought into today's form",
            mend=_RECANONICALISE,
        )
    if any(row.holder for row in stale):
        pairs = ", ".join(f"{row.id} (as {row.holder})" for row in stale if row.holder)
        mend = "delete one of each two, or change it, then run: leadsweep leads recanonicalise"
        return Check(
            "forms",
            ok=False,
            finding=f"leads whose form is another lead's, by id: {pairs}",
            mend=mend,
        )
    ids = ", ".join(str(row.id) for row in stale)
    return Check(
        "forms", ok=False, finding=f"leads in a former form, by id: {ids}", mend=_RECANONICALISE
    )


def _numbers(connection: Connection) -> Check:
    """Whether phone numbers are numbers: no job finds a lead by what is not a number."""
    wrong = _looked_for(connection, _NO_NUMBERS)
    if wrong is None:
        return Check(
            "numbers",
            ok=True,
            finding=f"too many leads to look at all phone numbers within {_LOOK_SECONDS} s",
        )
    if not wrong:
        return Check("numbers", ok=True, finding="all phone numbers of leads are numbers")
    shown = ", ".join(str(row.id) for row in wrong[:_SHOWN])
    many = f"{_COUNTED} or more" if len(wrong) == _COUNTED else str(len(wrong))
    find = "SELECT * FROM leads WHERE NOT leadsweep_is_phone_number(phone_number)"
    mend = f"set them to a number or to null: {find}"
    return Check(
        "numbers",
        ok=False,
        finding=f"{many} leads have a phone number that is none, by id: {shown}",
        mend=mend,
    )


def _foreign_keys(connection: Connection) -> Check:
    """Whether an index leads to the rows that refer to a lead: else each deletion reads their whole
    table.
    """
    keys = without_index(connection)
    if not keys:
        return Check(
            "foreign keys", ok=True, finding="those that refer to leads have their indexes"
        )
    names = ", ".join(f"{key.name} of {key.table}" for key in keys)
    mend = "; ".join(key.cure for key in keys)
    return Check(
        "foreign keys",
        ok=True,
        finding=f"deleting leads is slow, for want of an index: {names}",
        mend=mend,
    )


def _looked_for(connection: Connection, statement: TextClause) -> Sequence[Any] | None:
    """What it finds, or None where looking takes too long."""
    try:
        with connection.begin_nested():
            connection.execute(text(f"SET LOCAL statement_timeout = '{_LOOK_SECONDS}s'"))
            return connection.execute(statement, {"shown": _SHOWN, "most": _COUNTED}).all()
    except DBAPIError as error:
        if not isinstance(error.orig, errors.QueryCanceled):
            raise
        return None


def _secrets(settings: Settings, connection: Connection) -> Check:
    """Whether the key opens all secrets that sign: a delivery is not sent if one of its cannot be
    read.
    """
    try:
        vault = open_vault(settings)
        secrets = connection.execute(_SECRETS).scalars().all()
        for locked in secrets:
            vault.unlock(locked)
    except Failure as failure:
        return _failed("secrets", failure)
    except ValueError as error:
        return Check(
            "secrets",
            ok=False,
            finding=str(error),
            mend="set the key that it was; older keys after a comma",
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
            role, ok=False, finding="none has given a sign of life", mend=f"start one: {start}"
        )
    finding = f"last sign of life {max(0.0, ages[role]):.0f} s ago"
    if ages[role] > STALE_SECONDS:
        return Check(
            role, ok=False, finding=finding, mend=f"read its log, then start it again: {start}"
        )
    return Check(role, ok=True, finding=finding)


def _clock(connection: Connection) -> Check:
    """Leadsweep goes by the database's clock; callers go by theirs, to which this machine's is the
    nearest we know.
    """
    before = time.time()
    theirs = float(connection.execute(_CLOCK).scalar_one())
    ahead = (before + time.time()) / 2 - theirs
    side = "ahead of" if ahead > 0 else "behind"
    finding = f"this machine's is {abs(ahead):.1f} s {side} the database's"
    if abs(ahead) > CLOCK_SECONDS:
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
    if flaw := broker_flaw(url, _TIMEOUT, variable):
        return Check(name, ok=False, finding=f"{address(url)} {flaw.finding}", mend=flaw.hint)
    return Check(name, ok=True, finding=f"{address(url)} takes what is written")


def _limiter(url: str) -> Check:
    if not url:
        return Check("rate limits", ok=True, finding="none: REDIS_URL is not set")
    return _broker("rate limits", "REDIS_URL", url)


def _prepared(settings: Settings) -> Check:
    """Whether statements are prepared, which a pooler may not let them be; all works without."""
    if not settings.prepare_statements:
        return Check(
            "prepared", ok=True, finding="no statements: LEADSWEEP_PREPARE_STATEMENTS is false"
        )
    kept = prepared_statements.are_kept(database_url(settings.database_url))
    if kept is None:
        return Check(
            "prepared",
            ok=True,
            finding="no statements: it was not to be found out whether they are kept",
        )
    if not kept:
        return Check("prepared", ok=True, finding=f"no statements: {MISSING}", mend=HINT)
    return Check("prepared", ok=True, finding="statements are kept")
