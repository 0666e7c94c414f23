"""How a command fails: one line that says what is wrong and how to mend it, and exit code 1."""

import click


class Failure(click.ClickException):
    """Ends the command with exit code 1; `message` is the one line that the operator sees."""
