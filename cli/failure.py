"""How a command fails: one line that says what is wrong and how to mend it, and exit code 1."""

import click


class Failure(click.ClickException):
    """Ends the command with exit code 1; the operator sees `wrong; mend` in one line."""

    def __init__(self, wrong: str, mend: str = "") -> None:
        """What is wrong, and what to do about it where that is not plain."""
        super().__init__(f"{wrong}; {mend}" if mend else wrong)
        self.wrong = wrong
        self.mend = mend
