"""A deletion against an archive job, and against a restoration: each is stopped before and after
each of its statements while the other goes on as far as it can. Whoever comes first, nothing of the
person is left, and nobody is told otherwise.
"""

import threading
import time
from contextlib import contextmanager
from functools import partial
from itertools import count

import pytest
from sqlalchemy import event, text

from shared.database.engines import create_sync_engine
from shared.settings import Settings
from shared.states import Action
from tests.support.jobs import add_campaign, let_leases_expire, work_off
from tests.support.oracle import Lead
from tests.worker.lives.test_properties import World
from worker.claimer import claim
from worker.runner import run_chunk

PERSON = Lead("cmp", "a", "+101")
SOMEBODY = Lead("cmp", "z", "+109")
NAMED = {"by id": ("a", None), "by phone": (None, "+101"), "by another's id": ("x", "+101")}
BLOCKED = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND wait_event_type = 'Lock'"
)


@pytest.fixture
def world(engine, database_url):
    """A world with an engine for each who races."""
    with engine.begin() as connection:
        add_campaign(connection)
    world = World(engine, database_url)
    world.racing, world.opposing = (
        create_sync_engine(Settings(database_url=database_url), "racing") for _ in range(2)
    )
    yield world
    world.racing.dispose()
    world.opposing.dispose()
    world.close()


class Stop:
    """Calls `meanwhile` before, or after, the n-th statement of an engine; a commit counts. `came`
    says whether it came to it.
    """

    def __init__(self, number, *, after, meanwhile):
        self._left, self._after, self._meanwhile = number, after, meanwhile
        self.came = False

    @contextmanager
    def on(self, engine):
        watched = {
            "before_cursor_execute": partial(self._pass, counts=not self._after),
            "after_cursor_execute": partial(self._pass, counts=self._after),
            "commit": partial(self._pass, counts=not self._after),
        }
        watchers = [
            (name, lambda *arguments, watcher=watcher: watcher(arguments))
            for name, watcher in watched.items()
        ]
        for name, watcher in watchers:
            event.listen(engine, name, watcher)
        try:
            yield self
        finally:
            for name, watcher in watchers:
                event.remove(engine, name, watcher)

    def _pass(self, _arguments, *, counts):
        if not counts or self.came:
            return
        if self._left == 0:
            self.came = True
            self._meanwhile()
        self._left -= 1


def begun(world, run):
    """The thread of `run`, which is over or waits for a lock."""
    thread = threading.Thread(target=run)
    thread.start()
    with world.engine.connect() as connection:
        while thread.is_alive() and not connection.execute(BLOCKED).scalar_one():
            connection.rollback()
            time.sleep(0.002)
    return thread


def claims(world):
    """The chunks of all jobs, by job."""
    with world.engine.begin() as connection:
        return {
            claimed.job_id: claimed for claimed in iter(lambda: claim(connection, "jobs"), None)
        }


def archiving(world, others):
    """The person is in the campaign, and an archive job is about to archive them."""
    world.put({PERSON}, others)
    return world.submit([("a", None)], mode="archive")


def restoring(world, others):
    """The person is in the archive, and a job is about to restore them."""
    world.put({PERSON}, others)
    archive = world.submit([("a", None)], mode="archive")
    world.work()
    return world.follow(archive, Action.RESTORE)


def race(world, set_up, others, entry, stop):
    """One round; what became of the deletion and of its opponent, None where there was no such
    statement any more.
    """
    number, after, deletion_stops, by_call = stop
    opponent = set_up(world, others)
    deletion = None if by_call else world.submit([entry])
    chunks, told = claims(world), []
    if by_call:
        engine, delete = (
            world.api_engine.sync_engine,
            lambda: told.append(world.delete("cmp", *entry)),
        )
    else:
        engine, delete = world.racing, partial(run_chunk, world.racing, chunks[deletion])
    oppose = partial(run_chunk, world.opposing, chunks[opponent])
    threads = []
    if deletion_stops:
        stop_at = Stop(number, after=after, meanwhile=lambda: threads.append(begun(world, oppose)))
        with stop_at.on(engine):
            delete()
    else:
        stop_at = Stop(number, after=after, meanwhile=lambda: threads.append(begun(world, delete)))
        with stop_at.on(world.opposing):
            oppose()
    for thread in threads:
        thread.join()
    if not stop_at.came:
        return None
    with world.engine.begin() as connection:
        let_leases_expire(connection)
    work_off(world.engine)
    (outcome,) = world.outcomes(opponent)
    return (told if by_call else world.outcomes(deletion)), outcome


@pytest.mark.parametrize("by_call", [False, True], ids=["job", "call"])
@pytest.mark.parametrize("deletion_stops", [True, False], ids=["deletion stops", "opponent stops"])
@pytest.mark.parametrize("entry", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize(
    ("set_up", "others"),
    [(archiving, []), (archiving, [SOMEBODY]), (restoring, [])],
    ids=["archive job, no archive yet", "archive job", "restoration"],
)
def test_whoever_comes_first_nothing_of_the_person_is_left(
    world, set_up, others, entry, deletion_stops, by_call
):
    ends = set()
    for after in (False, True):
        for number in count():
            ended = race(world, set_up, others, entry, (number, after, deletion_stops, by_call))
            if ended is None:
                assert number >= 2, "each has some statements"
                break
            where = f"{'after' if after else 'before'} statement {number}: {ended}"
            assert world.leads() == set(), where
            assert [copy for copy in world.archive().values() if copy] == others, where
            (deleted,), (word, _, reason) = ended
            ends.add((word, reason))
            if not by_call:
                assert deleted[0] == "deleted", where
            else:
                assert deleted is not None, where
    assert ends <= {
        ("archived", None),
        ("notFound", "noSuchLead"),
        ("restored", None),
        ("notFound", "erased"),
    }
    assert len(ends) == 2, "either was first at times"
