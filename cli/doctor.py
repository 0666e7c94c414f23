"""`leadsweep doctor`: what an operator runs first when something does not work."""

from pathlib import Path

import click

from cli import options
from cli.output import show


@click.command()
@options.data_dir
@options.as_json
def doctor(data_dir: Path | None, *, as_json: bool) -> None:
    """Check every part, and say how to mend what is wrong.

    That is: settings, database, schema, worker, ticker, clock, broker and the Redis of the rate limits.

    Exit code 0 if all is well, else 1.
    """
    from cli.checks import run_checks

    found = []
    for check in run_checks(data_dir):
        found.append(check)
        if not as_json:
            mark = click.style("ok   ", fg="green") if check.ok else click.style("WRONG", fg="red")
            click.echo(f"{mark} {check.name:<12} {check.finding}{'' if check.ok else f' -> {check.mend}'}")
    well = all(check.ok for check in found)
    if as_json:
        show({"ok": well, "checks": [check._asdict() for check in found]}, "", as_json=True)
    if not well:
        raise click.exceptions.Exit(1)
