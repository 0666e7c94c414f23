"""The server that a caller's command speaks to, and the exit codes for the ways in which that may
fail.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leadsweep.commands.runtime import running_stack
from leadsweep.terminal.failure import Failure, NoAnswer

if TYPE_CHECKING:
    from leadsweep import Job
    from leadsweep.commands.caller import Caller

DEFAULT_URL = "http://127.0.0.1:8000"
UNREACHED = 3.0  # seconds without a connection, after which the command gives up

NOT_FOUND, NOT_DONE, REFUSED_KEY, NOT_REACHED, TIMED_OUT, INTERRUPTED = 3, 4, 5, 7, 124, 130


class KeyFailure(Failure):
    """The server does not take the key."""

    exit_code = REFUSED_KEY


class NotConnected(Failure):
    """No connection to the server can be made, so nothing was sent."""

    exit_code = NOT_REACHED


class ServerFailure(NoAnswer):
    """The server does not answer, or not as it should."""

    exit_code = NOT_REACHED


class WaitFailure(Failure):
    """The time for waiting is over."""

    exit_code = TIMED_OUT


EXIT_CODES = """\b
Exit codes: 0 done; 1 refused, or not possible; 2 used wrongly;
3 done, with leads not found (--fail-on-not-found); 4 the job failed or was cancelled;
5 key refused; 7 server not reached; 124 wait timed out; 130 interrupted.
LEADSWEEP_URL says where the server is (else: the stack that runs in this folder);
LEADSWEEP_API_KEY is the API key.
"""


@contextmanager
def server(attempts: int = 4) -> Iterator["Caller"]:
    """A client of the server, which gives up where no connection is made in time. Errors of the
    client become Failures, which have their exit codes.
    """
    import leadsweep
    from leadsweep.commands.caller import Caller

    url, key = server_url(), os.environ.get("LEADSWEEP_API_KEY", "").strip()
    if not key:
        raise KeyFailure(
            "LEADSWEEP_API_KEY is not set",
            "set it to your API key, which the operator makes: "
            "leadsweep keys create --company ID --scope write",
        )
    if not (key.isascii() and key.isprintable()):
        raise KeyFailure(
            "LEADSWEEP_API_KEY is not a valid key", "expected one line of printable ASCII"
        )
    try:
        with Caller(url, key, retries=leadsweep.Retries(attempts, unreached=UNREACHED)) as caller:
            yield caller
    except leadsweep.KeyRefused as error:
        raise KeyFailure(
            str(error), "check LEADSWEEP_API_KEY, its scope, and the campaign"
        ) from None
    except leadsweep.ServerNotReached as error:
        kind = NotConnected if isinstance(error, leadsweep.NotConnected) else ServerFailure
        raise kind(
            f"no answer from {url}: {error}", "check LEADSWEEP_URL and that the server runs"
        ) from None
    except leadsweep.ServerFailed as error:
        raise ServerFailure(f"{url} answers: {error}", "try again later") from None
    except leadsweep.LeadsweepError as error:
        raise Failure(str(error)) from None


def server_url() -> str:
    """LEADSWEEP_URL; else the URL of the stack that runs in LEADSWEEP_DATA_DIR or .leadsweep; else
    DEFAULT_URL.
    """
    if url := os.environ.get("LEADSWEEP_URL"):
        if not url.startswith(("http://", "https://")):
            raise Failure("LEADSWEEP_URL is not a URL", f"write it as {DEFAULT_URL}")
        return url
    stack = running_stack(Path(os.environ.get("LEADSWEEP_DATA_DIR", ".leadsweep")))
    return (stack or {}).get("url") or DEFAULT_URL


def leave(job: "Job", *, fail_on_not_found: bool) -> None:
    """Ends the command with the exit code that says how the job ended."""
    if job.status in {"failed", "cancelled"}:
        raise click.exceptions.Exit(NOT_DONE)
    if fail_on_not_found and job.not_found:
        raise click.exceptions.Exit(NOT_FOUND)
