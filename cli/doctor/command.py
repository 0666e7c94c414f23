"""`leadsweep doctor`: what an operator runs first when something does not work."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from leadsweep.terminal import options
from leadsweep.terminal.output import say, show

from cli.options import on_data_dir

if TYPE_CHECKING:
    from cli.doctor.check import Check


@click.command()
@on_data_dir
@options.as_json
def doctor(data_dir: Path | None, *, as_json: bool) -> None:
    """Check every part, and say how to mend what is wrong.

    Exit code 0 if all is well, else 1.
    """
    from cli.doctor.checks import run_checks

    checks = []
    for check in run_checks(data_dir):
        checks.append(check)
        if not as_json:
            mend = f" -> {check.mend}" if check.mend else ""
            say(f"{check.name:<12} {check.finding}{mend}", head=f"{_mark(check)} ")
    all_well = all(check.ok for check in checks)
    if as_json:
        show({"ok": all_well, "checks": [check._asdict() for check in checks]}, "", as_json=True)
    if not all_well:
        raise click.exceptions.Exit(1)


def _mark(check: "Check") -> str:
    if not check.ok:
        return click.style("WRONG", fg="red")
    return click.style("warn ", fg="yellow") if check.mend else click.style("ok   ", fg="green")
