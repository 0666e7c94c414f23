"""`leadsweep campaigns`."""

from pathlib import Path

import click

from cli import options
from cli.output import show


@click.group()
def campaigns() -> None:
    """Campaigns, which hold leads."""


@campaigns.command()
@click.argument("campaign_id", metavar="ID", type=options.Word())
@click.option("--company", "company_id", required=True, metavar="ID", type=options.Word(), help="The company that owns it.")
@click.option("--name", default="", type=options.Word(may_be_empty=True), help="For people; may be anything.")
@options.data_dir
@options.as_json
def create(campaign_id: str, company_id: str, name: str, data_dir: Path | None, *, as_json: bool) -> None:
    """Create a campaign."""
    from cli import registry
    from cli.connection import connected

    with connected(data_dir) as connection, connection.begin():
        registry.create_campaign(connection, campaign_id, company_id, name)
    result = {"id": campaign_id, "companyId": company_id, "name": name}
    show(result, f"created campaign {campaign_id} of company {company_id}", as_json=as_json)
