"""How the API, a worker, a deliverer and a ticker begin: with settings that name their servers, or
else they end with one line that says what to do.
"""

import sys

import structlog
from pydantic import ValidationError
from sqlalchemy import NullPool
from sqlalchemy.exc import DBAPIError

from shared.broker.health import CLUSTER, is_cluster
from shared.database.engines import create_sync_engine, database_url, reason_of, try_preparing
from shared.database.our_tables import WAY_OUT, strangers
from shared.printable import printable
from shared.settings import Settings, settings, variable

_ANSWER_TIMEOUT = 1.0  # seconds; a Redis that takes longer is taken as it is

log = structlog.get_logger()


def process_settings(*, secrets: bool = False) -> Settings:
    """The settings of this process; `secrets` says whether it needs those of webhooks.

    Where the settings cannot be used, ends the process with exit code 1 and one line on stderr.
    """
    try:
        chosen = settings()
    except ValidationError as error:
        flaws = (
            f"{variable(flaw['loc'][0])}: {flaw['msg'].removeprefix('Value error, ')}"
            for flaw in error.errors()
        )
        sys.exit(printable("; ".join(flaws)))
    for name, url in (("DATABASE_URL", chosen.database_url), ("BROKER_URL", chosen.broker_url)):
        if not url:
            sys.exit(f"{name} is not set; set it, or run everything with: leadsweep up")
    if secrets and not chosen.secrets_key:
        sys.exit("LEADSWEEP_SECRETS_KEY is not set; make it once with: openssl rand -base64 32")
    try:
        database_url(chosen.database_url)
    except ValueError as error:
        sys.exit(printable(str(error)))
    return chosen


def look_at_servers(settings: Settings) -> None:
    """Looks at what a process must know of its servers before it begins. Servers that are away are
    waited for later.

    Ends the process as process_settings does where a Redis cannot be used, or the database is
    another application's.
    """
    for name, url in (("BROKER_URL", settings.broker_url), ("REDIS_URL", settings.redis_url)):
        if is_cluster(url, _ANSWER_TIMEOUT):
            sys.exit(f"{name}: {CLUSTER.finding}; {CLUSTER.hint}")
    engine = create_sync_engine(settings, "start", poolclass=NullPool)
    try:
        with engine.connect() as connection:
            others = strangers(connection)
    except DBAPIError as error:
        log.warning(
            "database not usable",
            error=reason_of(error, settings),
            hint="start it, create it, or mend DATABASE_URL",
        )
        return
    if others:
        sys.exit(printable(f"{others}; {WAY_OUT}"))
    try_preparing(settings)
