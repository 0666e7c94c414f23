"""`leadsweep migrate`: moves the schema to the version that this code needs, or to any other."""

import sys
from pathlib import Path

import click
from leadsweep.terminal import options
from leadsweep.terminal.failure import Failure, if_cut_off
from leadsweep.terminal.output import remark, show

from cli.options import on_data_dir
from shared.printable import printable


@click.command()
@click.option(
    "--to",
    "target",
    default="head",
    show_default=True,
    metavar="REVISION",
    help="Version to move to, up or down; `base` removes all of Leadsweep's tables.",
)
@click.option("--yes", is_flag=True, help="Go down without asking for confirmation.")
@on_data_dir
@options.as_json
def migrate(target: str, data_dir: Path | None, *, yes: bool, as_json: bool) -> None:
    """Bring the database's schema up to date.

    Safe to run at any time and twice at once: it is one transaction, and a second run waits for the
    first. Going down drops tables and columns with all that is in them.
    """
    from cli.connection import check_tables, connected
    from shared.database.migrations import current_version, downgrade, upgrade

    with connected(data_dir, any_schema=True) as connection:
        with connection.begin():
            check_tables(connection)
            before = current_version(connection)
        steps = _steps(before, target)
        goes_down = steps < 0
        if goes_down and not yes:
            _confirm(before, target)
        if steps:
            change = f"changing the schema from {before or 'empty'} to {target}"
            remark(f"{change}; with many leads that may take minutes")
        with connection.begin():
            (downgrade if goes_down else upgrade)(connection, target)
            if_cut_off("it may have been done; to find out: leadsweep doctor")
        after = current_version(connection)
    text = f"the schema is {after or 'empty'}" + (
        ", as it was" if before == after else f", it was {before or 'empty'}"
    )
    show({"from": before, "to": after}, text, as_json=as_json)


def _steps(before: str | None, target: str) -> int:
    """How many versions `target` lies above `before`; negative where it lies below. Raises Failure
    where this code does not know one of them.
    """
    from alembic.script import ScriptDirectory

    from shared.database.migrations import config

    known = [
        None,
        *reversed(
            [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()]
        ),
    ]
    chosen = {"base": None, "head": known[-1]}.get(target, target)
    for version in (before, chosen):
        if version not in known:
            versions = ", ".join(filter(None, known))
            raise Failure(
                f"this Leadsweep knows no schema {version}, only base, {versions}",
                "upgrade Leadsweep, or name another schema",
            )
    return known.index(chosen) - known.index(before)


def _confirm(before: str | None, target: str) -> None:
    if not (sys.stdin and sys.stdin.isatty()):
        raise Failure(
            f"going down from {before} to {target} drops tables with all that is in them",
            "add --yes if you mean it",
        )
    question = f"Going down from {before} to {target} drops tables with all that is in them. Go on?"
    click.confirm(printable(question), abort=True, err=True)
