"""`leadsweep keys`: a key is shown once, when it is made; later only its id and what it may do."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click
from leadsweep.terminal import options
from leadsweep.terminal.output import minute, moment, remark, show, show_list

from cli.options import checked_rate, company, name, on_data_dir

if TYPE_CHECKING:
    from leadsweep.terminal.output import Columns
    from sqlalchemy import RowMapping


@click.group()
def keys() -> None:
    """API keys, as sent in the x-api-key header."""


@keys.command()
@company("The company that the key belongs to.", required=True)
@click.option(
    "--scope",
    required=True,
    type=click.Choice(["read", "write"]),
    help="read lets the key look things up; write lets it submit and change them too.",
)
@options.campaign("Limit the key to this campaign.", required=False)
@click.option(
    "--expires",
    type=options.Expiry(),
    help="When the key ends: 2030-01-31T12:00:00Z, or 30m, 12h, 90d, 4w from now."
    "  [default: never]",
)
@name
@click.option(
    "--rate-limit-submit",
    metavar="RATE",
    callback=checked_rate,
    help="How many submissions it may make, such as 5000/hour.  [default: the server's limit]",
)
@click.option(
    "--rate-limit-read",
    metavar="RATE",
    callback=checked_rate,
    help="How many other calls it may make, such as 90000/hour.  [default: the server's limit]",
)
@on_data_dir
@options.as_json
def create(data_dir: Path | None, *, as_json: bool, **terms: Any) -> None:
    """Make an API key and print it.

    It is printed only this once, as the server stores nothing but its hash.
    """
    from cli.accounts import registry
    from cli.connection import changing

    with changing(
        data_dir, f"leadsweep keys list --company {quote(terms['company_id'])}"
    ) as connection:
        made = registry.create_key(connection, registry.KeyTerms(**terms))
    result = {
        "id": str(made.id),
        "key": made.key,
        "companyId": terms["company_id"],
        "campaignId": terms["campaign_id"],
        "scope": terms["scope"],
        "name": terms["name"],
        "createdAt": moment(made.created_at),
        "expiresAt": moment(made.expires_at),
        "rateLimitSubmit": terms["rate_limit_submit"],
        "rateLimitRead": terms["rate_limit_read"],
    }
    show(result, made.key, as_json=as_json)
    if not as_json:
        remark(f"Keep it safe: it is not shown again. Its id is {made.id}.")


@keys.command("list")
@company("Only the keys of this company.", required=False)
@on_data_dir
@options.as_json
def list_(company_id: str | None, data_dir: Path | None, *, as_json: bool) -> None:
    """List keys, oldest first, with their last use.

    The list has their ids and what they may do, never the keys themselves.
    """
    from cli.accounts import registry
    from cli.connection import connected

    with connected(data_dir) as connection:
        rows = registry.list_keys(connection, company_id)
    if_none = "no keys; make one: leadsweep keys create --company ID --scope write"
    show_list(rows, _described, _COLUMNS, if_none, as_json=as_json)


@keys.command()
@click.argument("key_id", metavar="ID", type=click.UUID)
@on_data_dir
@options.as_json
def revoke(key_id: UUID, data_dir: Path | None, *, as_json: bool) -> None:
    """End a key for ever.

    ID is the key's id, which `leadsweep keys list` shows. The API refuses the key within 5 seconds.
    Revoking it again does no harm.
    """
    from cli.accounts import registry
    from cli.connection import changing

    with changing(data_dir, "leadsweep keys list") as connection:
        revoked_at, is_new = registry.revoke_key(connection, key_id)
    text = f"revoked key {key_id}"
    if not is_new:
        text = f"key {key_id} was already revoked, at {moment(revoked_at)}"
    show({"id": str(key_id), "revokedAt": moment(revoked_at)}, text, as_json=as_json)


def _described(row: "RowMapping") -> dict[str, object]:
    return {
        "id": str(row["id"]),
        "companyId": row["company_id"],
        "campaignId": row["campaign_id"],
        "scope": row["scope"],
        "name": row["name"],
        "state": row["state"],
        "createdAt": moment(row["created_at"]),
        "expiresAt": moment(row["expires_at"]),
        "revokedAt": moment(row["revoked_at"]),
        "lastUsedAt": moment(row["last_used_at"]),
        "rateLimitSubmit": row["rate_limit_submit"],
        "rateLimitRead": row["rate_limit_read"],
    }


_COLUMNS: "Columns" = {
    "ID": lambda row: row["id"],
    "COMPANY": lambda row: row["company_id"],
    "CAMPAIGN": lambda row: row["campaign_id"] or "all",
    "SCOPE": lambda row: row["scope"],
    "STATE": lambda row: row["state"],
    "LAST USED": lambda row: minute(row["last_used_at"]),
    "EXPIRES": lambda row: minute(row["expires_at"]),
    "NAME": lambda row: row["name"],
}
