"""`leadsweep webhooks`."""

import json
from typing import TYPE_CHECKING

import click

from cli import options
from cli.failure import Failure
from cli.output import remark

if TYPE_CHECKING:
    from cli.listener import Received


@click.group()
def webhooks() -> None:
    """Webhooks, which tell of the ends of jobs."""


@webhooks.command()
@click.option("--port", required=True, type=click.IntRange(0, 65535), help="Port to listen on; 0 is any.")
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
@click.option("--forward", metavar="URL", help="Pass on what is verified, and answer as it answers.")
@options.as_json
def listen(port: int, host: str, secrets: tuple[str, ...], forward: str | None, *, as_json: bool) -> None:
    """Receive webhooks: verify them and print each as it comes, until Ctrl-C.

    The secret of a job's callbackUrl is its company's: --secret "$(leadsweep companies webhook-secret ID)". A webhook that was
    created with the API has its own. With --json the events are printed as they were sent, one a line.
    """
    from contextlib import suppress

    from cli.listener import Listener
    from cli.signals import stop_by_signals

    def tell(received: "Received") -> None:
        if received.event is None:
            remark(f"refused {received.webhook_id or 'a request'}: {received.wrong}")
            return
        passed_on = f", forwarded: {received.forwarded}" if received.forwarded else ""
        click.echo(json.dumps(received.event, ensure_ascii=False) if as_json else _line(received.event) + passed_on)

    stop_by_signals()
    try:
        listener = Listener((host, port), secrets, tell, forward)
    except ValueError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    with listener, suppress(KeyboardInterrupt):
        remark(f"listening on http://{host}:{listener.server_address[1]}/")
        listener.serve_forever()


def _line(event: dict[str, object]) -> str:
    """`2026-01-01T02:00:00.000Z job.completed jobId=… deleted=3 …`: what is one word of an event, in one line."""
    content = event.get("data")
    facts = content.items() if isinstance(content, dict) else ()
    words = [f"{name}={_word(value)}" for name, value in facts if value is not None and not isinstance(value, list)]
    return " ".join([str(event.get("timestamp")), str(event.get("type")), *words])


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
