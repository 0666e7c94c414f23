"""`leadsweep up`: runs the whole stack until Ctrl-C or SIGTERM.

A database without companies gets a company, a campaign, a few leads and a key, so that a newcomer's
first request deletes something.
"""

import json
from contextlib import suppress
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click
from leadsweep.terminal.output import say

if TYPE_CHECKING:
    from sqlalchemy import Connection

_DEMO = "demo"  # the company's id, and the campaign's
_LEADS = 5
# Seconds to wait, once, for a slow reader of stdout: the first key is printed only this once.
_SLOW_READER_SECONDS = 5


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 is any.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the stack; the first start makes it."
    "  [default: LEADSWEEP_DATA_DIR or .leadsweep]",
)
@click.option(
    "--workers",
    default=2,
    show_default=True,
    type=click.IntRange(1, 64),
    help="How many processes work on jobs; best one for each core.",
)
def up(host: str, port: int, data_dir: Path | None, workers: int) -> None:
    """Keep the whole stack running.

    That is the API, a worker, the deliverer of webhooks and the ticker, with PostgreSQL unless
    DATABASE_URL is set, and with Redis unless BROKER_URL is set. A process that dies is started
    again; Ctrl-C stops them all. The first start makes a campaign to try it on.
    """
    from leadsweep.terminal.signals import stop_by_signals

    from cli.settings import read_settings
    from cli.stack.address import Address
    from cli.stack.supervisor import Stack
    from shared.destinations import LOOPBACK, parse_networks
    from shared.process.streams import guard_streams

    # A reader that goes away, or does not read, does not stop the stack.
    guard_streams(reader_timeout=_SLOW_READER_SECONDS, stdout=True)
    settings = read_settings()
    if not settings.webhook_allow and _is_loopback(host):
        settings = settings.model_copy(update={"webhook_allow": parse_networks(LOOPBACK)})
    stop_by_signals()
    with (
        suppress(KeyboardInterrupt),
        Stack(settings, data_dir or settings.data_dir, Address(host, port), workers, _say) as stack,
    ):
        _say(f"logs: {stack.logs}")
        for server in stack.servers:
            _say(f"server: {server}")
        stack.start_servers()
        key = stack.migrate(partial(_prepare_first_start, stack.settings.secrets_key))
        try:
            stack.start_processes()
        finally:
            if key:  # it is printed only this once, whatever goes wrong
                _show_how_to_begin(stack.address.url, key)
        if allowed := ", ".join(map(str, stack.settings.webhook_allow)):
            _say(f"webhooks may go to {allowed} too, over HTTP: LEADSWEEP_WEBHOOK_ALLOW")
        else:
            _say(
                f"webhooks may not go to this machine, since others reach {host}: "
                f"LEADSWEEP_WEBHOOK_ALLOW={LOOPBACK} allows it"
            )
        _say(f"docs: {stack.address.url}/docs")
        guide = f"{stack.address.url}/guide" if _guide_is_built() else "not built: run `make docs`"
        _say(f"guide: {guide}")
        _say(f"ready: {stack.address.url}")
        stack.watch()


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there. If others did, they could have webhooks
    sent to services on this machine.
    """
    import socket
    from ipaddress import ip_address

    from shared.destinations import unmapped

    try:
        infos = socket.getaddrinfo(
            host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError:  # the API cannot listen on it either, which is reported then
        return False
    addresses = (ip_address(str(info[4][0]).partition("%")[0]) for info in infos)
    return all(unmapped(address).is_loopback for address in addresses)


def _guide_is_built() -> bool:
    """Whether the API has a guide to serve. In a wheel it always has."""
    return (files("api") / "description/static/guide/index.html").is_file()


def _say(text: str) -> None:
    """Prints the lines of `text`."""
    for line in text.splitlines():
        say(line)


def _prepare_first_start(secrets_key: str, connection: "Connection") -> str | None:
    """If there is no company yet, makes one with a campaign, a few leads and a key, and returns the
    key.
    """
    from sqlalchemy import exists, insert, select

    from shared.database.models import companies, leads

    if connection.scalar(select(exists().select_from(companies))):
        return None

    from cli.accounts.registry import KeyTerms, create_campaign, create_company, create_key
    from shared.credentials import Vault

    create_company(connection, _DEMO, vault=Vault(secrets_key))
    create_campaign(connection, _DEMO, _DEMO)
    numbers = range(1, _LEADS + 1)
    rows = [
        {"campaign_id": _DEMO, "external_id": f"CRM_{n:03}", "phone_number": f"+15555550{n:03}"}
        for n in numbers
    ]
    connection.execute(insert(leads), rows)
    return create_key(connection, KeyTerms(_DEMO, "write", name=_DEMO)).key


def _show_how_to_begin(url: str, key: str) -> None:
    body = {
        "campaignId": _DEMO,
        "leads": [
            {"externalId": "CRM_001"},
            {"phoneNumber": "+15555550002"},
            {"externalId": "nobody"},
        ],
    }
    headers = f"-H 'x-api-key: {key}'"
    made = f"company `{_DEMO}`, campaign `{_DEMO}` with {_LEADS} leads, and a write key"
    _say(f"""First start: made {made}, shown only now: {key}

Delete two of the leads, and keep the jobId of the answer:
JOB=$(curl -sS {url}/api/v1/leads/bulk-delete {headers} -H 'content-type: application/json' \\
  -d '{json.dumps(body)}' | tee /dev/stderr | sed -n 's/.*"jobId":"\\([^"]*\\)".*/\\1/p')

See what became of it:
curl -sS {url}/api/v1/jobs/$JOB {headers}
""")
