"""`leadsweep companies`."""

from pathlib import Path

import click

from cli import options
from cli.output import show


@click.group()
def companies() -> None:
    """Companies, which own campaigns and API keys."""


@companies.command()
@click.argument("company_id", metavar="ID", type=options.Word())
@click.option("--name", default="", type=options.Word(may_be_empty=True), help="For people; may be anything.")
@options.data_dir
@options.as_json
def create(company_id: str, name: str, data_dir: Path | None, *, as_json: bool) -> None:
    """Create a company."""
    from cli import registry
    from cli.connection import connected

    with connected(data_dir) as connection, connection.begin():
        registry.create_company(connection, company_id, name)
    show({"id": company_id, "name": name}, f"created company {company_id}", as_json=as_json)
