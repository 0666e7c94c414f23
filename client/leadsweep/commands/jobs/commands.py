"""`leadsweep jobs`, and the two commands for one job that are used most: `status` and `watch`."""

import itertools
from collections.abc import Callable
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from leadsweep.commands.server import EXIT_CODES, leave, server
from leadsweep.commands.submit import confirm
from leadsweep.terminal import options
from leadsweep.terminal.failure import Failure, if_cut_off
from leadsweep.terminal.output import remark, show

if TYPE_CHECKING:
    from leadsweep import Job

_JOB = click.argument("job_id", metavar="JOB", type=options.Word())

_STATES = ("scheduled", "queued", "running", "paused", "completed", "failed", "cancelled")


@click.command(epilog=EXIT_CODES)
@_JOB
@options.as_json
def status(job_id: str, *, as_json: bool) -> None:
    """Show a job as it stands now."""
    from leadsweep.commands.jobs.view import show_job

    with server() as leadsweep:
        show_job(leadsweep.job(job_id), as_json=as_json)


@click.command(epilog=EXIT_CODES)
@_JOB
@options.waiting
@options.as_json
def watch(job_id: str, timeout: float | None, *, fail_on_not_found: bool, as_json: bool) -> None:
    """Watch a job until it ends: what is done, how fast, how long it will take.

    It keeps watching while the server restarts. Ctrl-C ends the watching, not the job.
    """
    from leadsweep.commands.jobs.view import show_job
    from leadsweep.commands.jobs.watcher import watch as watch_job

    with server() as leadsweep:
        job = watch_job(leadsweep, job_id, timeout)
    show_job(job, as_json=as_json)
    leave(job, fail_on_not_found=fail_on_not_found)


@click.group()
def jobs() -> None:
    """List jobs, and control them: pause, cancel, retry and so on."""


@jobs.command("list", epilog=EXIT_CODES)
@click.option("--status", type=click.Choice(_STATES), help="Only jobs in this state.")
@click.option("--campaign", "campaign_id", metavar="ID", help="Only jobs of this campaign.")
@click.option("--reference", "client_reference", help="Only jobs with this reference.")
@click.option(
    "--since",
    "created_after",
    metavar="TIME|DURATION",
    type=options.Past(),
    help="Only jobs made at this time or later, such as 2030-01-31T12:00:00Z, or within the last"
    " 30m, 12h, 7d or 4w.",
)
@click.option(
    "--until",
    "created_before",
    metavar="TIME|DURATION",
    type=options.Past(),
    help="Only jobs made before this time.",
)
@options.limit
@options.as_json
def list_(limit: int, *, as_json: bool, **filters: Any) -> None:
    """List jobs, newest first.

    MODE is delete, archive or restore; preview is the preview of a deletion, preview-arch that of
    an archiving. DONE is how many leads were deleted, archived or restored, or would be by a
    preview. A line has at most 100 characters: long campaigns and references are cut, and millions
    are shortened. `leadsweep status` and --json have them in full.
    """
    from leadsweep.commands.jobs.view import show_jobs

    with server() as leadsweep:
        first_jobs = list(itertools.islice(leadsweep.jobs(**filters), limit))
    if first_jobs or as_json:
        show_jobs(first_jobs, as_json=as_json)
    elif any(filters.values()):
        remark("no job fits these options")
    else:
        remark("no jobs; make one: leadsweep submit FILE --campaign ID")


@jobs.command(epilog=EXIT_CODES)
@_JOB
@click.argument("leads_per_second", metavar="LEADS_PER_SECOND|none")
@options.as_json
def pace(job_id: str, leads_per_second: str, *, as_json: bool) -> None:
    """Change how many leads a second a job works on; `none` lifts the limit.

    It holds from now on, for a job that has not ended.
    """
    from leadsweep.commands.jobs.view import show_job

    if leads_per_second != "none" and not leads_per_second.isdecimal():
        raise click.BadParameter("write a whole number or none", param_hint="LEADS_PER_SECOND")
    if_cut_off(f"it may have been accepted; to find out: leadsweep status {quote(job_id)}")
    with server() as leadsweep:
        rate = None if leads_per_second == "none" else int(leads_per_second)
        show_job(leadsweep.change_pace(job_id, rate), as_json=as_json)


def _steer(action: str, does: str) -> None:
    @jobs.command(action, help=does, epilog=EXIT_CODES)
    @_JOB
    @options.as_json
    def steer(job_id: str, *, as_json: bool) -> None:
        if_cut_off(f"it may have been accepted; to find out: leadsweep status {quote(job_id)}")
        with server() as leadsweep:
            job = leadsweep.act(job_id, action)
        show(
            {"jobId": job.job_id, "status": job.status},
            f"job {job.job_id} is {job.status}",
            as_json=as_json,
        )


def _follow(
    action: str,
    does: str,
    more_options: Callable[[options.Command], options.Command] = lambda command: command,
) -> None:
    @jobs.command(action, help=does, epilog=EXIT_CODES)
    @_JOB
    @more_options
    @click.option(
        "--wait",
        is_flag=True,
        help="Watch the new job until it ends; how it ends decides the exit code.",
    )
    @options.waiting
    @click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
    @options.as_json
    def follow(
        job_id: str,
        timeout: float | None,
        run_at: str | None = None,
        window: str | None = None,
        *,
        off_peak: bool = False,
        wait: bool,
        fail_on_not_found: bool,
        yes: bool,
        as_json: bool,
    ) -> None:
        from leadsweep.commands.jobs.view import show_job, show_new_job
        from leadsweep.commands.jobs.watcher import watch as watch_job

        schedule = options.schedule_of(run_at, window, off_peak=off_peak)
        options.check_waiting(timeout, wait=wait, fail_on_not_found=fail_on_not_found)
        with server() as leadsweep:
            source = leadsweep.job(job_id)
            if not yes and action != "restore" and not (source.dry_run and action == "retry"):
                confirm(_question(source, action))
            in_campaign = f"--campaign {quote(source.campaign_id)}"
            again = f"leadsweep jobs {action} {quote(job_id)} again"
            if schedule:
                again += " by the same schedule"
            if_cut_off(
                f"it may have been accepted: look for it with leadsweep jobs list {in_campaign}; "
                f"{again} makes no second job"
            )
            new_job = leadsweep.act(job_id, action, schedule=schedule)
            if_cut_off(f"it was accepted: leadsweep status {new_job.job_id}")
            if not wait:
                show_new_job(new_job, as_json=as_json)
                return
            job = watch_job(leadsweep, new_job.job_id, timeout, accepted=True)
        show_job(job, as_json=as_json)
        leave(job, fail_on_not_found=fail_on_not_found)


def _question(source: "Job", action: str) -> str:
    """Whether to go on from a job, with how many leads it is about, and how many of them may be
    somebody else's.
    """
    count = source.would_delete if action == "execute" else source.unprocessed
    question = f"{source.mode.capitalize()} up to {count:,} leads of campaign {source.campaign_id}"
    if others := source.other_external_id if action == "execute" else 0:
        question += f", {others:,} of them with another externalId than their entry"
        question += " (results say otherExternalId)"
    return f"{question}?"


_steer("pause", "Pause a job; what is done stays done.")
_steer("resume", "Let a paused job go on.")
_steer("cancel", "Cancel a job; what is done stays done.")
_follow("retry", "Make a new job of the leads that a failed or cancelled job left unprocessed.")
_follow(
    "execute",
    "Delete or archive exactly what a preview found, now or at a given time.",
    options.schedule,
)
_follow("restore", "Put back the leads that an archive job moved to the archive.")


@click.command(
    epilog='For bash, put  eval "$(leadsweep completion bash)"  into ~/.bashrc; likewise for zsh '
    "into ~/.zshrc. For fish: leadsweep completion fish | source"
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that lets the shell complete these commands."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    root = click.get_current_context().find_root()
    if kind is None:
        raise Failure(f"no completion for {shell}")
    click.echo(kind(root.command, {}, "leadsweep", "_LEADSWEEP_COMPLETE").source())
