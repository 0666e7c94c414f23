"""`leadsweep submit`."""

import os
import re
import select
from contextlib import ExitStack
from http import HTTPStatus
from shlex import quote
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click

from leadsweep.commands.server import EXIT_CODES, leave, server
from leadsweep.rules.printable import printable
from leadsweep.terminal import options
from leadsweep.terminal.failure import Failure, if_cut_off
from leadsweep.terminal.output import remark
from leadsweep.terminal.progress import progress, watched

if TYPE_CHECKING:
    from leadsweep import Client, Submitted
    from leadsweep.commands.files import Format, Identifier, Prepared
    from leadsweep.rules.identifiers.columns import Naming

IDENTIFIERS = ("externalId", "phoneNumber")
ATTEMPTS = 6  # of sending a file, which may take as long as a restart of the server does
STDIN, STDERR = 0, 2
MAX_ANSWER = 1024  # bytes of the answer to a question
# What the server calls the options of this command, as a pattern.
_OPTION_OF = {
    r"\bonInvalid=": "--on-invalid ",
    r"\bcolumns=(\w+):": r"--column \1=",
    r"\bignore=": "--ignore ",
    r"\bphoneFallback=false\b|\bphoneFallback is false\b": "--no-phone-fallback",
}
# Seconds between two looks for an answer. In a read that blocks, a Ctrl-C just before it would be
# heeded only after it.
LOOK_EVERY = 0.1


@click.command(epilog=EXIT_CODES)
@click.argument("file", metavar="FILE|-", type=options.FILE)
@options.campaign("The campaign that the leads belong to.", required=True)
@options.form
@click.option(
    "--by",
    type=click.Choice(IDENTIFIERS),
    help="FILE is a list with one identifier of this kind on each line.",
)
@options.naming
@click.option(
    "--on-invalid",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="What to do about rows that do not name a lead: submit nothing, or skip them.",
)
@click.option(
    "--mode",
    type=click.Choice(["delete", "archive"]),
    default="delete",
    show_default=True,
    help="Delete the leads, or move them to an archive, which can be undone.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Make a preview: it says what would be deleted or archived, and changes nothing.",
)
@click.option(
    "--no-phone-fallback",
    is_flag=True,
    help="Where a row has an externalId, never look the lead up by its phone number.",
)
@click.option(
    "--only-if-unidentified",
    is_flag=True,
    help="Find by phone number only leads that have no externalId of their own.",
)
@options.phone_region
@click.option("--reference", "client_reference", help="Your own name for the job.")
@options.schedule
@click.option(
    "--max-leads-per-second",
    type=click.IntRange(1),
    metavar="N",
    help="Work on no more than N leads a second.",
)
@click.option("--callback-url", metavar="URL", help="Send a webhook to this URL when the job ends.")
@click.option(
    "--idempotency-key",
    metavar="KEY",
    type=options.Printable(),
    help="A key of your own: what is submitted again with the same key is done once.",
)
@click.option(
    "--wait", is_flag=True, help="Watch the job until it ends; how it ends decides the exit code."
)
@options.waiting
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@options.as_json
def submit(
    file: str,
    campaign_id: str,
    form: "Format | None",
    by: "Identifier | None",
    columns: dict[str, str],
    ignored: tuple[str, ...],
    timeout: float | None,
    *,
    wait: bool,
    fail_on_not_found: bool,
    yes: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """Delete or archive the leads that are named in FILE, as one job.

    FILE (- for stdin) is CSV or NDJSON, or with --by a list of identifiers; it may be gzipped.

    Prints the id of the job or, with --wait, the job once it has ended. If a person is at the
    terminal, it asks for confirmation first, except for a preview.
    """
    from leadsweep.commands.files import prepare
    from leadsweep.commands.jobs.view import show_job, show_new_job
    from leadsweep.commands.jobs.watcher import watch

    if by and (form or columns or ignored):
        raise click.UsageError("--by is for a plain list; leave out --format, --column, --ignore")
    job_options = _job_options(**choices)
    options.check_waiting(timeout, wait=wait, fail_on_not_found=fail_on_not_found)
    with ExitStack() as stack:
        naming = options.naming_of(columns, ignored)
        with progress() as show_progress:
            prepared = prepare(
                stack,
                file,
                form,
                by,
                naming,
                show_progress,
                needs_external_id=choices["no_phone_fallback"],
            )
        if prepared.leads == 0:
            raise Failure(f"{file} contains no leads")
        if not choices["dry_run"] and not yes:
            does = choices["mode"].capitalize()
            confirm(f"{does} up to {prepared.leads:,} leads of campaign {campaign_id}?")
        with server(ATTEMPTS) as leadsweep:
            submitted = _sent(leadsweep, campaign_id, prepared, naming, job_options)
            accepted = f"accepted: {submitted.total:,} leads, {submitted.status}"
            if not wait:
                remark(f"{accepted}. Watch it: leadsweep watch {submitted.job_id}")
                show_new_job(submitted, as_json=as_json)
                return
            remark(f"{accepted}, job {submitted.job_id}")
            job = watch(leadsweep, submitted.job_id, timeout, accepted=True)
    show_job(job, as_json=as_json)
    leave(job, fail_on_not_found=fail_on_not_found)


def _sent(
    leadsweep: "Client",
    campaign_id: str,
    prepared: "Prepared",
    naming: "Naming",
    job_options: dict[str, Any],
) -> "Submitted":
    """Sends the file, and returns the job."""
    from leadsweep import Refused

    key = job_options.pop("idempotency_key") or str(uuid4())
    reference = job_options["client_reference"]
    with_reference = f" --reference {quote(reference)}" if reference else ""
    look_for_it = f"leadsweep jobs list --campaign {quote(campaign_id)}{with_reference}"
    if_cut_off(
        f"it may have been accepted: look for it with {look_for_it}; "
        f"to have it done once, submit it again with --idempotency-key {quote(key)}"
    )
    try:
        with progress() as show_progress:
            file = watched(prepared.file, show_progress, "sending", "sent; waiting for the answer")
            submitted = leadsweep.submit_file(
                campaign_id,
                file,
                media_type=prepared.media_type,
                compressed=prepared.compressed,
                columns={identifier: name for name, identifier in naming.columns.items()},
                ignore=naming.ignored,
                idempotency_key=key,
                **job_options,
            )
    except Refused as error:
        if error.status != HTTPStatus.BAD_REQUEST:
            raise
        raise Failure(_as_said_here(str(error))) from None
    if_cut_off(f"it was accepted: leadsweep status {submitted.job_id}")
    return submitted


def _as_said_here(message: str) -> str:
    """The server's error with the options of this command in place of the API's names."""
    for pattern, option in _OPTION_OF.items():
        message = re.sub(pattern, option, message)
    return message


def confirm(question: str) -> None:
    """Asks the person at the terminal, if there is one. Raises Abort if the answer is not yes."""
    terminal = next(filter(os.isatty, (STDIN, STDERR)), None)  # either may be redirected
    if terminal is None:
        return
    os.write(terminal, f"{printable(question)} [y/N]: ".encode())
    while not select.select([terminal], [], [], LOOK_EVERY)[0]:
        pass
    if os.read(terminal, MAX_ANSWER).decode(errors="replace").strip().lower() not in {"y", "yes"}:
        raise click.Abort


def _job_options(
    *,
    no_phone_fallback: bool,
    only_if_unidentified: bool,
    run_at: str | None,
    off_peak: bool,
    window: str | None,
    **others: Any,
) -> dict[str, Any]:
    """The arguments of `submit_file`. Raises UsageError for options that contradict each other."""
    if no_phone_fallback and only_if_unidentified:
        raise click.UsageError("give only one of --no-phone-fallback and --only-if-unidentified")
    fallback = "onlyIfUnidentified" if only_if_unidentified else not no_phone_fallback
    return {
        "phone_fallback": fallback,
        "schedule": options.schedule_of(run_at, window, off_peak=off_peak),
    } | others
