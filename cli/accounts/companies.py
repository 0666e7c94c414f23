"""`leadsweep companies`."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click
from leadsweep.terminal import options
from leadsweep.terminal.output import moment, remark, show, show_list

from cli.options import name, on_data_dir

if TYPE_CHECKING:
    from leadsweep.terminal.output import Columns

_COLUMNS: "Columns" = {"ID": lambda row: row["id"], "NAME": lambda row: row["name"]}


@click.group()
def companies() -> None:
    """Companies, which own campaigns and API keys."""


@companies.command()
@click.argument("company_id", metavar="ID", type=options.Word())
@name
@on_data_dir
@options.as_json
def create(company_id: str, name: str, data_dir: Path | None, *, as_json: bool) -> None:
    """Create a company."""
    from cli.accounts import registry
    from cli.connection import changing, find_settings, open_vault

    vault = open_vault(find_settings(data_dir))
    with changing(data_dir, "leadsweep companies list") as connection:
        registry.create_company(connection, company_id, name, vault=vault)
    show({"id": company_id, "name": name}, f"created company {company_id}", as_json=as_json)


@companies.command("list")
@on_data_dir
@options.as_json
def list_(data_dir: Path | None, *, as_json: bool) -> None:
    """List companies, sorted by id."""
    from cli.accounts import registry
    from cli.connection import connected

    with connected(data_dir) as connection:
        rows = registry.list_companies(connection)
    if_none = "no companies; make one: leadsweep companies create ID"
    show_list(rows, dict, _COLUMNS, if_none, as_json=as_json)


@companies.command("webhook-secret")
@click.argument("company_id", metavar="ID", type=options.Word())
@click.option(
    "--rotate",
    is_flag=True,
    help="Make a new secret; the old one goes on signing too for 24 hours.",
)
@on_data_dir
@options.as_json
def webhook_secret(company_id: str, data_dir: Path | None, *, rotate: bool, as_json: bool) -> None:
    """Show or change the secret that signs what is sent to a job's callbackUrl.

    Receivers verify with this secret; see `leadsweep webhooks listen`. Webhooks that were created
    with the API have secrets of their own.
    """
    from cli.accounts import registry
    from cli.connection import changing, find_settings, open_vault

    vault = open_vault(find_settings(data_dir))
    with changing(
        data_dir, f"leadsweep companies webhook-secret {quote(company_id)}"
    ) as connection:
        secret, old_until = registry.webhook_secret(connection, company_id, vault, rotate=rotate)
    if rotate and old_until:
        remark(f"the old secret signs too until {moment(old_until)}")
    show(
        {"id": company_id, "webhookSecret": secret, "oldSecretUntil": moment(old_until)},
        secret,
        as_json=as_json,
    )
