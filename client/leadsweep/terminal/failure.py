"""How a command fails: with one line that says what is wrong and how to mend it, and exit code 1.
Also what a command says that was cut off, when nobody knows whether its work was done.
"""

import click

from leadsweep.terminal.signals import stop_by_signals

_CUT_OFF = "leadsweep.cut_off"


class Failure(click.ClickException):
    """Ends the command with exit code 1; the operator sees `wrong; mend` in one line."""

    def __init__(self, wrong: str, mend: str = "") -> None:
        """`mend` says what to do about it, where that does not go without saying."""
        super().__init__(f"{wrong}; {mend}" if mend else wrong)
        self.wrong = wrong
        self.mend = mend


class NoAnswer(Failure):
    """The server or database does not answer: it may have done the work all the same."""


def if_cut_off(text: str) -> None:
    """Sets what the command says if it is interrupted from now on, or gets no answer: that its work
    may have been done, and how to find out.

    Signals to end interrupt it from now on.
    """
    stop_by_signals()
    click.get_current_context().meta[_CUT_OFF] = text


def cut_off(context: click.Context) -> str | None:
    """The text that `if_cut_off` was given last."""
    text: str | None = context.meta.get(_CUT_OFF)
    return text
