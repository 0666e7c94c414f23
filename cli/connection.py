"""Connects a command to its database, or says in one line what is wrong with it.

The database is that of the running stack in `--data-dir`; without that option it is DATABASE_URL;
without either, that of the stack in LEADSWEEP_DATA_DIR (by default .leadsweep). Passwords are never
printed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from leadsweep.commands.runtime import running_stack
from leadsweep.terminal.failure import Failure, NoAnswer, if_cut_off
from leadsweep.terminal.output import told_if_slow
from sqlalchemy import URL, Connection, NullPool, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from cli.settings import read_settings
from shared.credentials import Vault
from shared.database.engines import create_sync_engine, database_url, reason_of
from shared.database.our_tables import WAY_OUT, strangers
from shared.settings import Settings

# Seconds for each address. It is the least that psycopg takes, as somebody sits at the terminal.
CONNECT_TIMEOUT = 2
_SILENT_SECONDS = 2.3  # without a connection, before that is told


@contextmanager
def connected(data_dir: Path | None, *, any_schema: bool = False) -> Iterator[Connection]:
    """A connection outside of any transaction. Raises Failure if the database cannot be used, or
    has not the schema that this code needs.
    """
    with connected_to(find_settings(data_dir)) as connection:
        if not any_schema:
            check_schema(connection)
            connection.rollback()  # the check began a transaction; the command begins its own
        yield connection


@contextmanager
def connected_to(settings: Settings) -> Iterator[Connection]:
    """A connection to the database of `settings`. Errors of the database, also later ones, are
    raised as Failure.
    """
    check_database_url(settings)
    engine = create_sync_engine(
        settings, "cli", connect_timeout=CONNECT_TIMEOUT, poolclass=NullPool
    )
    try:
        text = f"the database at {address(settings.database_url)} does not answer yet; still trying"
        with told_if_slow(text, _SILENT_SECONDS):
            connection = engine.connect()
        with connection:
            yield connection
    except DBAPIError as error:
        raise _failure(error, settings) from None


@contextmanager
def changing(data_dir: Path | None, found_by: str) -> Iterator[Connection]:
    """A connection in a transaction that is committed at the end. Raises Failure.

    If the command is cut off during the commit, the change may have been made all the same:
    `found_by` is the command that shows it.
    """
    with connected(data_dir) as connection, connection.begin() as transaction:
        yield connection
        if_cut_off(f"it may have been done; to find out: {found_by}")
        transaction.commit()


def find_settings(data_dir: Path | None) -> Settings:
    """The settings, with the addresses of the running stack where that is to be used. Raises
    Failure where no stack runs.
    """
    settings = read_settings()
    if settings.database_url and data_dir is None:
        check_database_url(settings)
        return settings
    folder = data_dir or settings.data_dir
    stack = running_stack(folder)
    if stack is None:
        if data_dir:
            wrong, mend = "", f" --data-dir {folder}"
        else:
            wrong, mend = ", and DATABASE_URL is not set", ", or set DATABASE_URL"
        raise Failure(f"no stack is running in {folder}{wrong}", f"start one: leadsweep up{mend}")
    return settings.model_copy(update=stack)


def open_vault(settings: Settings) -> Vault:
    """The vault that encrypts secrets. Raises Failure where no key is set."""
    if not settings.secrets_key:
        raise Failure(
            "LEADSWEEP_SECRETS_KEY is not set",
            "set the key that the API has; to make a new one: openssl rand -base64 32",
        )
    return Vault(settings.secrets_key)


def check_database_url(settings: Settings) -> None:
    """Raises Failure, which says what to write, unless DATABASE_URL is that of a PostgreSQL."""
    try:
        database_url(settings.database_url)
    except ValueError as error:
        raise Failure(*str(error).split("; ")) from None


def check_tables(connection: Connection) -> None:
    """Raises Failure, before anything is changed, where another application has tables with the
    names of ours.
    """
    if wrong := strangers(connection):
        raise Failure(wrong, WAY_OUT)


def check_schema(connection: Connection) -> None:
    """Raises Failure unless the schema is the one that this code needs."""
    from shared.database.migrations import current_version, newest_version  # brings Alembic

    check_tables(connection)
    version, needed = current_version(connection), newest_version()
    if version is None:
        raise Failure("the database has no tables of Leadsweep yet", "run: leadsweep migrate")
    if version < needed:
        raise Failure(
            f"the database's schema is {version}, this Leadsweep needs {needed}",
            "run: leadsweep migrate",
        )
    if version > needed:
        raise Failure(
            f"the database's schema is {version}, newer than this Leadsweep knows ({needed})",
            "upgrade Leadsweep",
        )


def address(url: str) -> str:
    """The `url` without user, password and options, which may be secret."""
    try:
        parts = make_url(url.partition(";")[0])
    except (ArgumentError, ValueError):
        return "an address that is not a URL"
    return URL.create(
        parts.get_backend_name(), host=parts.host, port=parts.port, database=parts.database
    ).render_as_string()


def _failure(error: DBAPIError, settings: Settings) -> Failure:
    """The error of psycopg, in one line and without the password."""
    reason = reason_of(error, settings)
    kind = NoAnswer if error.connection_invalidated else Failure
    if isinstance(error.orig, psycopg.OperationalError) and error.orig.diag.message_primary is None:
        where = address(settings.database_url)
        return kind(
            f"cannot use the database at {where}: {reason}",
            "start it, create it, or mend DATABASE_URL",
        )
    if isinstance(error.orig, psycopg.errors.LockNotAvailable):
        return kind(
            "another session holds a table or a row; nothing was changed",
            "end its transaction, and run this again",
        )
    return kind(f"the database refused: {reason}")
