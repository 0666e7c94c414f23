"""`leadsweep webhooks listen`: receives webhooks at a terminal, until Ctrl-C."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from leadsweep.rules.printable import printable, printable_json
from leadsweep.terminal import options
from leadsweep.terminal.failure import Failure
from leadsweep.terminal.output import remark, show
from leadsweep.terminal.signals import stop_by_signals

if TYPE_CHECKING:
    from leadsweep.commands.listener import Listener, Received

Known = Callable[[], Iterable[tuple[str, str]]]  # secrets that may have signed: (owner, secret)


@click.group()
def webhooks() -> None:
    """Webhooks, which report the ends of jobs."""


def _checked_url(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        try:
            parts = urlsplit(value)
            is_url = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError:
            is_url = False
        if not is_url:
            raise click.BadParameter("must be a URL such as https://example.com/hook")
    return value


def listening(command: options.Command) -> options.Command:
    """Adds the options of `listen`, for `receive`."""
    for option in (
        click.option(
            "--forward",
            metavar="URL",
            callback=_checked_url,
            help="Pass verified webhooks on to this URL, and answer as it answers.",
        ),
        click.option(
            "--secret",
            "secrets",
            multiple=True,
            envvar="LEADSWEEP_WEBHOOK_SECRET",
            required=True,
            metavar="whsec_…",
            help="The secret to verify with; of several any will do."
            "  [env: LEADSWEEP_WEBHOOK_SECRET]",
        ),
        click.option(
            "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
        ),
        click.option(
            "--port",
            required=True,
            type=click.IntRange(0, 65535),
            help="Port to listen on; 0 is any.",
        ),
    ):
        command = option(command)
    return command


@webhooks.command()
@listening
@options.as_json
def listen(**given: Any) -> None:
    """Receive webhooks, verify them and print each as it comes, until Ctrl-C.

    What goes to a job's callbackUrl is signed with the secret of its company, which your operator
    can tell you; a webhook that was created with the API has its own. With --json the events are
    printed as they were sent, one on each line.
    """
    receive(**given)


def receive(
    port: int,
    host: str,
    secrets: tuple[str, ...],
    forward: str | None,
    known: Known = tuple,
    *,
    as_json: bool,
) -> None:
    """Prints webhooks as they come, until it is interrupted. Raises Failure, and BrokenPipeError
    where nobody reads what is printed.

    `known` is for saying whose secret would have fitted.
    """
    broken_pipes: list[BrokenPipeError] = []

    def tell(received: "Received") -> None:
        try:
            _print(received, as_json=as_json)
        except BrokenPipeError as error:  # nobody reads what is printed any more
            broken_pipes.append(error)
            listener.shutdown()

    stop_by_signals()
    with (
        _listening((host, port), secrets, tell, forward, known) as listener,
        suppress(KeyboardInterrupt),
    ):
        host_in_url = f"[{host}]" if ":" in host else host
        remark(f"listening on http://{host_in_url}:{listener.server_address[1]}/")
        listener.serve_forever()
    if broken_pipes:
        raise broken_pipes[0]


def _listening(
    address: tuple[str, int],
    secrets: tuple[str, ...],
    tell: Callable[["Received"], object],
    forward: str | None,
    known: Known,
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
    """The single values of an event in one line: `2026-01-01T02:00:00.000Z job.completed jobId=…
    deleted=3 …`.
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
    """`value` as one word, or in quotes: a text of a caller must not pass for further words or
    lines, nor move the cursor.
    """
    if isinstance(value, str) and value == printable(value) and not {" ", '"'} & set(value):
        return value
    return printable_json(json.dumps(value, ensure_ascii=False))
