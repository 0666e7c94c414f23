"""`leadsweep webhooks`, where the server is installed: `listen` can look up whose secret fits."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from leadsweep.commands.webhooks import listening, receive
from leadsweep.terminal import options
from leadsweep.terminal.output import moment, show_list

from cli.options import company, on_data_dir

if TYPE_CHECKING:
    from leadsweep.terminal.output import Columns
    from sqlalchemy import RowMapping


@click.group()
def webhooks() -> None:
    """Webhooks, which report the ends of jobs."""


_COLUMNS: "Columns" = {
    "ID": lambda row: row["id"],
    "COMPANY": lambda row: row["company_id"],
    "URL": lambda row: row["url"],
    "EVENTS": lambda row: ", ".join(row["events"]),
    "STATE": lambda row: (
        "enabled" if row["enabled"] else f"disabled: {row['disabled_reason'] or 'by its owner'}"
    ),
    "DESCRIPTION": lambda row: row["description"],
}


@webhooks.command("list")
@company("Only the webhooks of this company.", required=False)
@on_data_dir
@options.as_json
def list_(company_id: str | None, data_dir: Path | None, *, as_json: bool) -> None:
    """List webhooks, oldest first, without their secrets.

    Webhooks are made and changed with the API: POST /api/v1/webhooks.
    """
    from cli.accounts import registry
    from cli.connection import connected

    with connected(data_dir) as connection:
        rows = registry.list_webhooks(connection, company_id)
    if_none = "no webhooks; make one: POST /api/v1/webhooks"
    show_list(rows, _described, _COLUMNS, if_none, as_json=as_json)


def _described(row: "RowMapping") -> dict[str, object]:
    return {
        "id": str(row["id"]),
        "companyId": row["company_id"],
        "url": row["url"],
        "events": row["events"],
        "description": row["description"],
        "enabled": row["enabled"],
        "disabledReason": row["disabled_reason"],
        "createdAt": moment(row["created_at"]),
    }


@webhooks.command()
@listening
@on_data_dir
@options.as_json
def listen(data_dir: Path | None, **given: Any) -> None:
    """Receive webhooks, verify them and print each as it comes, until Ctrl-C.

    What goes to a job's callbackUrl is signed with the secret of its company, which `leadsweep
    companies webhook-secret ID` prints; a webhook that was created with the API has its own. Where
    none of the secrets fits and the database can be reached, the command says whose secret would
    have fitted. With --json the events are printed as they were sent, one on each line.
    """
    if data_dir:
        from cli.connection import find_settings

        find_settings(data_dir)
    receive(**given, known=partial(_known, data_dir))


def _known(data_dir: Path | None) -> list[tuple[str, str]]:
    """The owner of each secret, and the secret, from the operator's database. Raises Failure where
    that cannot be reached.
    """
    from cli.accounts import registry
    from cli.connection import connected, find_settings, open_vault

    vault = open_vault(find_settings(data_dir))
    with connected(data_dir) as connection:
        return list(registry.signing_secrets(connection, vault))
