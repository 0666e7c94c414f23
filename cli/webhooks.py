"""`leadsweep webhooks`."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from leadsweep.terminal import options
from leadsweep.terminal.failure import Failure
from leadsweep.terminal.output import moment, remark, show, show_list

from cli.options import on_data_dir
from shared.printable import printable, printable_json

if TYPE_CHECKING:
    from leadsweep.commands.listener import Listener, Received
    from leadsweep.terminal.output import Columns
    from sqlalchemy import RowMapping


@click.group()
def webhooks() -> None:
    """Webhooks, which tell of the ends of jobs."""


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
@click.option(
    "--company",
    "company_id",
    metavar="ID",
    type=options.Word(),
    help="Only the webhooks of this company.",
)
@on_data_dir
@options.as_json
def list_(company_id: str | None, data_dir: Path | None, *, as_json: bool) -> None:
    """List webhooks, oldest first, without their secrets.

    They are made and changed with the API: POST /api/v1/webhooks.
    """
    from cli.accounts import registry
    from cli.connection import connected

    with connected(data_dir) as connection:
        rows = registry.list_webhooks(connection, company_id)
    if rows or as_json:
        show_list(rows, _described, _COLUMNS, as_json=as_json)
    else:
        remark("no webhooks; make one: POST /api/v1/webhooks")


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


def _checked_url(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    from shared.destinations import parse_destination

    if value is not None:
        try:
            parse_destination(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return value


@webhooks.command()
@click.option(
    "--port", required=True, type=click.IntRange(0, 65535), help="Port to listen on; 0 is any."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    envvar="LEADSWEEP_WEBHOOK_SECRET",
    required=True,
    metavar="whsec_…",
    help="To verify with; of several any will do.  [env: LEADSWEEP_WEBHOOK_SECRET]",
)
@click.option(
    "--forward",
    metavar="URL",
    callback=_checked_url,
    help="Pass on what is verified, and answer as it answers.",
)
@on_data_dir
@options.as_json
def listen(
    port: int,
    host: str,
    secrets: tuple[str, ...],
    forward: str | None,
    data_dir: Path | None,
    *,
    as_json: bool,
) -> None:
    """Receive webhooks: verify them and print each as it comes, until Ctrl-C.

    The secret of a job's callbackUrl is its company's, which `leadsweep companies webhook-secret
    ID` prints; a webhook that was created with the API has its own. Where the database can be
    reached, what none of the secrets signed is told with whose secret would have fitted. With
    --json the events are printed as they were sent, one a line.
    """
    from contextlib import suppress

    from leadsweep.terminal.signals import stop_by_signals

    unread: list[BrokenPipeError] = []

    def tell(received: "Received") -> None:
        try:
            _print(received, as_json=as_json)
        except BrokenPipeError as error:  # nobody reads what is printed any more
            unread.append(error)
            listener.shutdown()

    if data_dir:
        from cli.connection import find_settings

        find_settings(data_dir)
    stop_by_signals()
    with (
        _listening((host, port), secrets, tell, forward, partial(_known, data_dir)) as listener,
        suppress(KeyboardInterrupt),
    ):
        written = f"[{host}]" if ":" in host else host
        remark(f"listening on http://{written}:{listener.server_address[1]}/")
        listener.serve_forever()
    if unread:
        raise unread[0]


def _known(data_dir: Path | None) -> list[tuple[str, str]]:
    """Whose each secret is, and the secret, by the operator's database. Raises Failure where there
    is none.
    """
    from cli.accounts import registry
    from cli.connection import connected, find_settings, open_vault

    vault = open_vault(find_settings(data_dir))
    with connected(data_dir) as connection:
        return list(registry.signing_secrets(connection, vault))


def _listening(
    address: tuple[str, int],
    secrets: tuple[str, ...],
    tell: Callable[["Received"], object],
    forward: str | None,
    known: Callable[[], list[tuple[str, str]]],
) -> "Listener":
    from leadsweep.commands.listener import Listener

    try:
        return Listener(address, secrets, tell, forward, known)
    except ValueError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(
            f"cannot listen on {address[0]}, port {address[1]}: {error.strerror}"
        ) from None


def _print(received: "Received", *, as_json: bool) -> None:
    if received.event is None:
        remark(f"refused {_word(received.webhook_id) or 'a request'}: {received.wrong}")
        return
    passed_on = f", forwarded: {received.forwarded}" if received.forwarded else ""
    show(received.event, _line(received.event) + passed_on, as_json=as_json)


def _line(event: dict[str, object]) -> str:
    """`2026-01-01T02:00:00.000Z job.completed jobId=… deleted=3 …`: what is one value of an event,
    in one line.
    """
    content = event.get("data")
    facts = content.items() if isinstance(content, dict) else ()
    words = [
        f"{name}={_word(value)}"
        for name, value in facts
        if value is not None and not isinstance(value, list)
    ]
    return " ".join([_word(event.get("timestamp")), _word(event.get("type")), *words])


def _word(value: object) -> str:
    """`value` as one word, else in quotes: what a caller wrote must not pass for further words or
    lines, nor move the cursor.
    """
    if isinstance(value, str) and value == printable(value) and not {" ", '"'} & set(value):
        return value
    return printable_json(json.dumps(value, ensure_ascii=False))
