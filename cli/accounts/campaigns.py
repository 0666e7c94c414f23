"""`leadsweep campaigns`."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click
from leadsweep.terminal import options
from leadsweep.terminal.output import show, show_list

from cli.options import checked_region, company, name, on_data_dir

if TYPE_CHECKING:
    from leadsweep.terminal.output import Columns
    from sqlalchemy import RowMapping

_COLUMNS: "Columns" = {
    "ID": lambda row: row["id"],
    "COMPANY": lambda row: row["company_id"],
    "OFF-PEAK": lambda row: row["off_peak"] or "the server's",
    "PHONE REGION": lambda row: row["phone_region"] or "none",
    "NAME": lambda row: row["name"],
}


@click.group()
def campaigns() -> None:
    """Campaigns, which hold leads."""


@campaigns.command()
@click.argument("campaign_id", metavar="ID", type=options.Word())
@company("The company that owns it.", required=True)
@name
@on_data_dir
@options.as_json
def create(
    campaign_id: str, company_id: str, name: str, data_dir: Path | None, *, as_json: bool
) -> None:
    """Create a campaign."""
    from cli.accounts import registry
    from cli.connection import changing

    with changing(
        data_dir, f"leadsweep campaigns list --company {quote(company_id)}"
    ) as connection:
        registry.create_campaign(connection, campaign_id, company_id, name)
    result = {"id": campaign_id, "companyId": company_id, "name": name}
    show(result, f"created campaign {campaign_id} of company {company_id}", as_json=as_json)


@campaigns.command("list")
@company("Only the campaigns of this company.", required=False)
@on_data_dir
@options.as_json
def list_(company_id: str | None, data_dir: Path | None, *, as_json: bool) -> None:
    """List campaigns, sorted by company and id."""
    from cli.accounts import registry
    from cli.connection import connected

    with connected(data_dir) as connection:
        rows = registry.list_campaigns(connection, company_id)
    if_none = "no campaigns; make one: leadsweep campaigns create ID --company ID"
    show_list(rows, _described, _COLUMNS, if_none, as_json=as_json)


def _described(row: "RowMapping") -> dict[str, object]:
    return {
        "id": row["id"],
        "companyId": row["company_id"],
        "name": row["name"],
        "offPeak": row["off_peak"],
        "phoneRegion": row["phone_region"],
    }


@campaigns.command("off-peak")
@click.argument("campaign_id", metavar="ID", type=options.Word())
@click.argument("window", required=False, callback=options.checked_window)
@click.option("--clear", is_flag=True, help="Back to the server's window.")
@on_data_dir
@options.as_json
def off_peak(
    campaign_id: str, window: str | None, data_dir: Path | None, *, clear: bool, as_json: bool
) -> None:
    """Show or set when the off-peak jobs of a campaign run.

    WINDOW is written as '22:00-06:00 mon-sun Europe/Berlin'. Without WINDOW, the campaign's is
    shown. Jobs that were submitted before keep the window that they got then.
    """
    from cli.accounts import registry
    from cli.connection import changing

    if window and clear:
        raise click.UsageError("give a WINDOW or --clear, not both")
    with changing(data_dir, f"leadsweep campaigns off-peak {quote(campaign_id)}") as connection:
        if window or clear:
            registry.set_off_peak(connection, campaign_id, window)
        current = registry.off_peak(connection, campaign_id)
    result = {"id": campaign_id, "offPeak": current}
    show(
        result,
        f"off-peak jobs of campaign {campaign_id} run {current or 'in the window of the server'}",
        as_json=as_json,
    )


@campaigns.command("phone-region")
@click.argument("campaign_id", metavar="ID", type=options.Word())
@click.argument("country", required=False, callback=checked_region)
@click.option("--clear", is_flag=True, help="Back to no country.")
@on_data_dir
@options.as_json
def phone_region(
    campaign_id: str, country: str | None, data_dir: Path | None, *, clear: bool, as_json: bool
) -> None:
    """Show or set the country in which phone numbers without a + are read.

    It holds for submissions to this campaign that name no country themselves. COUNTRY is an ISO
    3166 code, such as DE: 030 123456 is then read as +49 30 123456. Without COUNTRY, the campaign's
    is shown.
    """
    from cli.accounts import registry
    from cli.connection import changing

    if country and clear:
        raise click.UsageError("give a COUNTRY or --clear, not both")
    with changing(data_dir, f"leadsweep campaigns phone-region {quote(campaign_id)}") as connection:
        if country or clear:
            registry.set_phone_region(connection, campaign_id, country)
        region = registry.phone_region(connection, campaign_id)
    result = {"id": campaign_id, "phoneRegion": region}
    reading = f"are read as in {region}" if region else "stand for themselves"
    show(result, f"numbers without a + of campaign {campaign_id} {reading}", as_json=as_json)
