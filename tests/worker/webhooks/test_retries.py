"""What a cancelled job has left undone, of whatever kind it is, a retry takes up: that, and nothing
else.
"""

import pytest

from shared.states import Action
from tests.support.jobs import work_off
from tests.worker.test_steering import FOUR, world  # noqa: F401 - a fixture
from worker.runner import run_chunk


def half_cancelled(world, job_id):  # noqa: F811
    """The job, once a worker has done its first chunk, and the rest is cancelled."""
    run_chunk(world.engine, world.claim())
    world.act(job_id, Action.CANCEL)
    world.carry_out()
    job = world.job(job_id)
    assert (job.state, job.unprocessed, job.total) == ("cancelled", 2, 4)
    return job_id


def retried(world, job_id):  # noqa: F811
    """The new job, worked off."""
    accepted = world.act(job_id, Action.RETRY)
    assert world.act(job_id, Action.RETRY).job_id == accepted.job_id, "it is made once"
    work_off(world.engine)
    job = world.job(accepted.job_id)
    assert (job.state, job.total, job.source_job_id) == ("completed", 2, job_id)
    return job


def executed(world, **options):  # noqa: F811
    """The id of a job that executes a preview of all four, not yet begun."""
    preview = world.submit(FOUR, chunk_size=2, dryRun=True, **options)
    work_off(world.engine)
    return world.act(preview, Action.EXECUTE).job_id


@pytest.mark.parametrize("mode", ["delete", "archive"])
def test_a_cancelled_job_is_retried_in_its_own_mode(world, mode):  # noqa: F811
    job_id = half_cancelled(world, world.submit(FOUR, chunk_size=2, mode=mode))
    assert world.left() == {"c", "d"}
    job = retried(world, job_id)
    assert (job.mode, job.dry_run, job.deleted, world.left()) == (mode, False, 2, set())


def test_a_cancelled_preview_is_retried_as_a_preview_and_that_is_executed(world):  # noqa: F811
    job_id = half_cancelled(world, world.submit(FOUR, chunk_size=2, dryRun=True))
    job = retried(world, job_id)
    assert (job.dry_run, job.would_delete, job.deleted, world.left()) == (
        True,
        2,
        0,
        {"a", "b", "c", "d"},
    )
    world.act(job.id, Action.EXECUTE)
    work_off(world.engine)
    assert world.left() == {"a", "b"}, "what the first half of the preview found is not executed"


def test_a_cancelled_restoration_is_retried_from_the_same_archive(world):  # noqa: F811
    archive = world.submit(FOUR, mode="archive")
    work_off(world.engine)
    restoration = world.act(archive, Action.RESTORE, chunk_size=2).job_id
    job = retried(world, half_cancelled(world, restoration))
    assert (job.mode, job.restored, world.left()) == ("restore", 2, {"a", "b", "c", "d"})


def test_the_retry_of_an_execution_takes_no_other_lead_than_was_found(world):  # noqa: F811
    job_id = half_cancelled(world, executed(world))
    world.execute("UPDATE leads SET external_id = 'd-before' WHERE external_id = 'd'")
    world.execute("INSERT INTO leads (campaign_id, external_id) VALUES ('cmp', 'd')")
    job = retried(world, job_id)
    assert (job.deleted, job.not_found, world.left()) == (1, 1, {"d-before", "d"})


def test_a_scheduled_execution_that_is_cancelled_can_be_retried_whole(world):  # noqa: F811
    job_id = executed(world)
    world.execute(
        (
            "UPDATE jobs SET state = 'scheduled', run_at = clock_timestamp() + interval '1 h'"
            " WHERE id = :id"
        ),
        id=job_id,
    )
    world.act(job_id, Action.CANCEL)
    world.carry_out()
    assert world.act(job_id, Action.RETRY).total == 4
    work_off(world.engine)
    assert world.left() == set()


def test_what_has_nothing_left_undone_is_not_retried(world):  # noqa: F811
    done = world.submit(FOUR)
    work_off(world.engine)
    assert world.refusal(done, Action.RETRY) == (409, "Cannot retry a job that is completed")
    world.execute("UPDATE jobs SET state = 'cancelled' WHERE id = :id", id=done)
    assert world.refusal(done, Action.RETRY) == (
        409,
        "Cannot retry this job: it has no leads to retry",
    )
    job_id = world.submit(FOUR)
    world.claim()
    world.act(job_id, Action.CANCEL)
    assert world.refusal(job_id, Action.RETRY) == (409, "Cannot retry a job that is running"), (
        "a worker has it in hand still"
    )
