"""The options that several of the operators' commands share, besides those of leadsweep.terminal.

Kept free of heavy imports: every command module reads this one at start-up.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from leadsweep.terminal import options

Command = Callable[..., Any]


def on_data_dir(command: Command) -> Command:
    """Adds `--data-dir`: the folder of the running stack on which the command works."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Use the stack that runs in this folder."
        "  [default: DATABASE_URL, else the stack in LEADSWEEP_DATA_DIR or .leadsweep]",
    )(command)


def company(help_text: str, *, required: bool) -> Callable[[Command], Command]:
    """Adds `--company`, as `company_id`."""
    return click.option(
        "--company",
        "company_id",
        required=required,
        metavar="ID",
        type=options.Word(),
        help=help_text,
    )


def name(command: Command) -> Command:
    """Adds `--name`."""
    return click.option(
        "--name",
        default="",
        type=options.Word(may_be_empty=True),
        help="A name for people to read; may be anything.",
    )(command)


def checked_rate(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """The callback of an option that takes a rate such as `1000/hour`."""
    from shared.settings import parse_rate

    if value is not None:
        try:
            parse_rate(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return value


def checked_region(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """The callback of an option that takes a country, such as `DE`."""
    from shared.identifiers.phone_regions import is_region

    if value is not None and not is_region(value):
        raise click.BadParameter("write an ISO 3166 country code, such as DE")
    return value


def phone_region(command: Command) -> Command:
    """Adds `--phone-region`, which is checked against the list of countries here."""
    return click.option(
        "--phone-region",
        metavar="CODE",
        callback=checked_region,
        help="Read phone numbers without a + as those of this country, such as DE."
        "  [default: the campaign's]",
    )(command)
