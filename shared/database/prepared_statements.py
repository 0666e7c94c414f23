"""Finds out whether prepared statements are kept on the way to the database: by a trial, as a
setting for it would be forgotten.

A pooler in transaction mode (PgBouncer) gives each transaction any of the server's connections.
Unless it knows of prepared statements, as PgBouncer does from version 1.21 on, a statement may then
be missing, or be another client's of the same name. So nothing is prepared before a trial has
succeeded. Where the trial was wrong, one statement loses its connection, and nothing more is
prepared.
"""

from collections.abc import Mapping
from contextlib import closing
from threading import Thread
from typing import Any

import psycopg
import structlog
from psycopg import errors
from sqlalchemy import URL

# 26000: the statement is missing; 42P05: another client's has its name; 08P01: that one has other
# parameters. PgBouncer also uses 08P01 for whatever it cannot do itself, but then without the field
# in which PostgreSQL says how severe an error is.
LOST = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement, errors.ProtocolViolation)

MISSING = (
    "the pooler in front of the database (PgBouncer in transaction mode) "
    "does not keep prepared statements"
)
HINT = (
    "set LEADSWEEP_PREPARE_STATEMENTS=false, or max_prepared_statements in PgBouncer 1.21 or "
    "newer; all works without them, a little slower"
)

TRIAL_TIMEOUT = 2.0  # seconds; a trial takes about 0.03
_ROUNDS = 3

_kept: dict[URL, bool] = {}
_trials: dict[URL, Thread] = {}
_said: set[URL] = set()

log = structlog.get_logger()


def are_kept(url: URL, timeout: float = TRIAL_TIMEOUT) -> bool | None:
    """Whether statements that are prepared at `url` can be used; None while it is not known.

    The first call of a process begins a trial, and waits for it for `timeout` seconds; later ones
    begin another only while none has succeeded. Never raises.
    """
    if url not in _kept:
        trial = _trials.get(url)
        if trial is None or not trial.is_alive():
            trial = _trials[url] = Thread(
                target=_try, args=(url,), name="prepared-statements", daemon=True
            )
            trial.start()
        trial.join(timeout)
    return _kept.get(url)


def note(url: URL, error: BaseException) -> None:
    """Makes this process prepare nothing at `url` any more where `error`, one of LOST, says that
    statements are not kept.
    """
    if not isinstance(error, errors.ProtocolViolation) or error.diag.severity_nonlocalized:
        _kept[url] = False


def may_be_used(url: URL, timeout: float = TRIAL_TIMEOUT) -> bool:
    """Whether they are known to be kept. Says once in the log of a process that they are not."""
    kept = are_kept(url, timeout)
    if kept is False and url not in _said:
        _said.add(url)
        log.warning("prepared statements not used", error=MISSING, hint=HINT)
    return kept is True


def _try(url: URL) -> None:
    _arguments, options = url.get_dialect()().create_connect_args(url)
    try:
        with closing(_connect(options)) as one, closing(_connect(options)) as other:
            found_again = _are_found_again(one, other)
        _kept.setdefault(url, found_again)
    except LOST as error:
        note(url, error)
    except psycopg.Error:  # the database is away, or full: whoever connects next tries again
        return


def _connect(options: Mapping[str, Any]) -> psycopg.Connection:
    name = {"application_name": "leadsweep-trial", "connect_timeout": 2}
    return psycopg.connect(**{**options, **name}, autocommit=True)


def _are_found_again(one: psycopg.Connection, other: psycopg.Connection) -> bool:
    """Whether either finds its own statement, though psycopg gives both the same name. Raises
    psycopg.Error.
    """
    both = (one, "SELECT 'one'"), (other, "SELECT 'other'")
    for _ in range(_ROUNDS):
        answers = [_ask(*each) for each in (*both, *reversed(both))]
        for held, asking in (both, both[::-1]):
            # In its transaction `held` keeps the server's connection that `asking` may have had.
            with held[0].transaction():
                answers += [_ask(*held), _ask(*asking)]
        if answers != ["one", "other", "other", "one", "one", "other", "other", "one"]:
            return False
    return True


def _ask(connection: psycopg.Connection, statement: str) -> str:
    row = connection.execute(statement, prepare=True).fetchone()
    return str(row and row[0])
