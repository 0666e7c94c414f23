"""How a command fails: one line that says what is wrong and how to mend it, and exit code 1. And
what is said of one that was cut off, when nobody knows whether it was done.
"""

import click

from leadsweep.terminal.signals import stop_by_signals

_CUT_OFF = "leadsweep.cut_off"


class Failure(click.ClickException):
    """Ends the command with exit code 1; the operator sees `wrong; mend` in one line."""

    def __init__(self, wrong: str, mend: str = "") -> None:
        """What is wrong, and what to do about it where that is not plain."""
        super().__init__(f"{wrong}; {mend}" if mend else wrong)
        self.wrong = wrong
        self.mend = mend


class NoAnswer(Failure):
    """Who was asked does not answer: what was asked for may have been done."""


def if_cut_off(told: str) -> None:
    """What is said from now on where the command is interrupted, or gets no answer: it may have
    been done, and how to find out.

    A signal to end interrupts it from now on.
    """
    stop_by_signals()
    click.get_current_context().meta[_CUT_OFF] = told


def cut_off(context: click.Context) -> str | None:
    """What `if_cut_off` was told last."""
    told: str | None = context.meta.get(_CUT_OFF)
    return told
