"""The settings of a command, read from the environment. This module loads nothing else, since every
command waits for it.
"""

from leadsweep.terminal.failure import Failure
from pydantic import ValidationError

from shared.settings import Settings, variable


def read_settings() -> Settings:
    """The settings. Raises Failure, which names the variables that are wrong."""
    try:
        return Settings()
    except ValidationError as error:
        flaws = [f"{variable(flaw['loc'][0])}: {_plain(flaw['msg'])}" for flaw in error.errors()]
        raise Failure(", ".join(flaws), "correct the environment") from None


def _plain(message: str) -> str:
    """pydantic's message without its label."""
    return message.removeprefix("Value error, ").removeprefix("Input ")
