"""How the API, a worker and a ticker begin: with settings that name their servers, or with one line that says what to mend."""

import sys

from pydantic import ValidationError

from shared.database import database_url
from shared.settings import Settings, settings


def process_settings(*, secrets: bool = False) -> Settings:
    """The settings of this process, one that needs `secrets` of webhooks or not.

    Ends it with exit code 1 and one line on stderr where they cannot be used.
    """
    try:
        chosen = settings()
    except ValidationError as error:
        flaws = (
            f"LEADSWEEP_{flaw['loc'][0]}".upper() + f": {flaw['msg'].removeprefix('Value error, ')}" for flaw in error.errors()
        )
        sys.exit("; ".join(flaws))
    for name, url in (("DATABASE_URL", chosen.database_url), ("BROKER_URL", chosen.broker_url)):
        if not url:
            sys.exit(f"{name} is not set; set it, or run everything with: leadsweep up")
    if secrets and not chosen.secrets_key:
        sys.exit("LEADSWEEP_SECRETS_KEY is not set; make it once with: openssl rand -base64 32")
    try:
        database_url(chosen.database_url)
    except ValueError as error:
        sys.exit(str(error))
    return chosen
