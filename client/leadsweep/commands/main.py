"""The `leadsweep` command: its groups, and how errors are reported.

Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted; those of callers' commands are in
leadsweep.commands.server. An error is one line on stderr, never a traceback. Commands import what
is heavy (SQLAlchemy, httpx2, Alembic) when they run, so that `--help` answers at once.
"""

import os
import sys
import traceback
from importlib.metadata import version
from typing import Any

import click

from leadsweep.commands.jobs.commands import completion, jobs, status, watch
from leadsweep.commands.jobs.results import results
from leadsweep.commands.operators import CLIENT, SERVER, CommandTable, misfit, server_version
from leadsweep.commands.submit import submit
from leadsweep.commands.webhooks import webhooks
from leadsweep.rules.streams import guard_streams
from leadsweep.terminal.failure import NoAnswer, cut_off
from leadsweep.terminal.output import remark, say

FAILED, USAGE, INTERRUPTED = 1, 2, 130

_ORDER = (
    *("up", "demo", "submit", "status", "watch", "results", "jobs", "migrate", "doctor"),
    *("companies", "campaigns", "keys", "leads", "webhooks"),
    *("api", "worker", "deliverer", "ticker", "completion"),
)


class OneLineErrors(click.Group):
    """A group whose errors, of whatever kind, come out as one line and the right exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Runs the command that `args` name and leaves the process."""
        guard_streams(reader_timeout=None)
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
            if sys.stdout:  # None if the caller has closed it
                sys.stdout.flush()
        except BrokenPipeError:
            code = _give_up_stdout()
        except Exception as error:  # noqa: BLE001 - the promise is: never a traceback
            code = _explain(error)
            if isinstance(error, OSError):
                _give_up_stdout()
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command. If it is cut off and its work may have been done, says so, and how to
        find out.
        """
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, NoAnswer) as error:
            text = cut_off(ctx)
            if text and isinstance(error, KeyboardInterrupt):
                if sys.stderr.isatty():
                    remark("")  # after the terminal's ^C
                remark(f"interrupted, but {text}")
                raise click.exceptions.Exit(INTERRUPTED) from None
            if text:
                remark(text)
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click's signature
        """In the order of their importance to a newcomer."""
        return list(self.commands)


def _explain(error: Exception) -> int:
    """Prints to stderr what went wrong, and returns the exit code."""
    match error:
        case click.exceptions.NoArgsIsHelpError():
            error.show()
            return USAGE
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "leadsweep"
            message = error.format_message()
            end = "" if message.endswith((".", "?")) else "."
            return _one_line(f"{message}{end} Try '{command} --help'.", USAGE)
        case click.ClickException():
            return _one_line(error.format_message(), error.exit_code)
        case click.Abort():
            return _one_line(
                "stopped before it was done", INTERRUPTED if _is_interrupted(error) else FAILED
            )
        case OSError():
            return _one_line(
                f"{error.filename}: {error.strerror}" if error.filename else str(error), FAILED
            )
    return _unexpected(error)


def _unexpected(error: Exception) -> int:
    if os.environ.get("LEADSWEEP_LOG_LEVEL") != "DEBUG":
        return _one_line(
            f"unexpected {type(error).__name__}: {error} (LEADSWEEP_LOG_LEVEL=DEBUG shows where)",
            FAILED,
        )
    for line in "".join(traceback.format_exception(error)).splitlines():
        remark(line)
    return FAILED


def _is_interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C was pressed, rather than a question answered with no."""
    return isinstance(error.__cause__ or error.__context__, KeyboardInterrupt)


def _one_line(message: str, code: int) -> int:
    remark(" ".join(message.split()), head=f"{click.style('Error:', fg='red')} ")
    return code


def _give_up_stdout() -> int:
    """Leads stdout to nothing where nobody reads it any more (`| head`), or its disk is full: else
    the interpreter would try again at its exit.
    """
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


def _show_versions(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Prints the versions of the client and of an installed server; warns where they do not fit."""
    if not value or ctx.resilient_parsing:
        return
    client, server = version(CLIENT), server_version()
    say(f"{CLIENT} {client}")
    if server:
        say(f"{SERVER} {server}")
        if wrong := misfit(client, server):
            remark(f"warning: {wrong}")
    ctx.exit()


@click.group(
    cls=OneLineErrors,
    commands=CommandTable(_ORDER),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_versions,
    help="Show the versions of client and server, and exit.",
)
def main() -> None:
    """Delete leads in bulk, and see what became of each.

    To have leads deleted, use submit, status, watch, results and jobs. All other commands, except
    webhooks listen and completion, are for those who run the server.

    Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted. The commands for jobs have more,
    which their --help lists.
    """


for _command in (submit, status, watch, results, jobs, webhooks, completion):
    main.add_command(_command)
