"""The settings of a command, read from the environment. Nothing else is loaded for it, as all wait
for them.
"""

from leadsweep.terminal.failure import Failure
from pydantic import ValidationError

from shared.settings import Settings, variable


def read_settings() -> Settings:
    """The settings of the environment. Raises Failure, naming the variables that are wrong."""
    try:
        return Settings()
    except ValidationError as error:
        flaws = [f"{variable(flaw['loc'][0])}: {_plain(flaw['msg'])}" for flaw in error.errors()]
        raise Failure(", ".join(flaws), "mend the environment") from None


def _plain(message: str) -> str:
    """pydantic's words without its label."""
    return message.removeprefix("Value error, ").removeprefix("Input ")
