"""Whose turn it is: what a session remembers between its claims, so that none of it is written down
at every claim.

Written down, it would be dead rows that nobody can remove while an old snapshot is open, and each
claim would walk past them. For the same reason what is done with is passed over: of a company the
jobs before its first that is open, of a job the chunks before its first that is pending. Sessions
need not agree: each serves all companies in turn. A new session begins with nothing.
"""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from shared.states import ACTIVE_STATES, quoted

LIST_EVERY = 0.1  # seconds: so long a company that is new may be overlooked
# Seconds: so long a job that was committed late may be overlooked, where it stands among those that
# are passed over.
FORGET_EVERY = 5.0
COMMITTED = "2 s"  # what was queued longer ago is committed by now, but for accidents
LOOK_EVERY = 8  # chunks that a claim walks past
WRITE_EVERY = 50  # chunks that a claim of another session walks past
JOBS_REMEMBERED = 32  # of several chunks, whose first one that is pending is known

_IS_ACTIVE = f"state IN ({quoted(ACTIVE_STATES)})"

# From company to company along jobs_active_idx, without reading all their jobs: of one that is
# known, on from where there was anything the last time; between two of them, whoever is new. An id
# may be empty: that is where the walk begins.
_LIST = text(f"""
    WITH RECURSIVE known AS MATERIALIZED (
        SELECT company_id, since FROM json_to_recordset(CAST(:companies AS json)) AS known (
            company_id text, since timestamptz
        )
    ),
    walk (company_id, first) AS (
        SELECT '', (
            SELECT queued_at FROM jobs WHERE queue = :queue AND {_IS_ACTIVE} AND company_id = ''
            ORDER BY queued_at, id LIMIT 1
        )
        UNION ALL
        SELECT step.* FROM walk CROSS JOIN LATERAL (
            SELECT min(company_id) AS company_id FROM known WHERE known.company_id > walk.company_id
        ) AS following CROSS JOIN LATERAL (
            (
                SELECT company_id, queued_at FROM jobs
                WHERE queue = :queue AND {_IS_ACTIVE}
                    AND company_id > walk.company_id AND company_id < following.company_id
                ORDER BY company_id, queued_at, id LIMIT 1
            )
            UNION ALL
            SELECT following.company_id, (
                SELECT queued_at FROM jobs
                WHERE queue = :queue AND {_IS_ACTIVE}
                    AND company_id = following.company_id
                    AND queued_at >= (
                        SELECT since FROM known WHERE known.company_id = following.company_id
                    )
                ORDER BY queued_at, id LIMIT 1
            ) WHERE following.company_id IS NOT NULL
            UNION ALL
            (
                SELECT company_id, queued_at FROM jobs
                WHERE queue = :queue AND {_IS_ACTIVE}
                    AND company_id > walk.company_id AND following.company_id IS NULL
                ORDER BY company_id, queued_at, id LIMIT 1
            )
            LIMIT 1
        ) AS step
    )
    SELECT company_id, first IS NOT NULL AS is_busy,
        least(first, clock_timestamp() - CAST(:committed AS interval)) AS since
    FROM walk
""")

# The chunk may be in somebody's hands. A chunk that is done stays done.
_FIRST_PENDING = text("""
    WITH first AS MATERIALIZED (
        SELECT number FROM chunks WHERE job_id = :job_id AND state = 'pending' AND number >= :first
        ORDER BY number LIMIT 1
    ),
    written AS (
        UPDATE jobs SET first_pending = number FROM first
        WHERE id = :job_id AND number - first_pending >= :write_every
    )
    SELECT (SELECT number FROM first)
""")


_encode = json.JSONEncoder().encode


@dataclass
class Turn:
    """Of a company: whether it has open jobs; since when the first of them is queued, at the least;
    and the round of its jobs, of which each has one chunk claimed: it ends with those that were
    queued when it began, `served` came last.
    """

    is_busy: bool
    since: str
    round_ends: str = "-infinity"
    served_at: str = "-infinity"
    served_id: str = str(UUID(int=0))


@dataclass
class Turns:
    """Of the companies of a queue, the least recently served first."""

    queue: str
    companies: dict[str, Turn] = field(default_factory=dict)
    first_pending: dict[UUID, int] = field(default_factory=dict)
    _listed: float = float("-inf")  # by the monotonic clock
    _forgotten: float = float("-inf")

    @property
    def are_stale(self) -> bool:
        """Whether there may be a company without a turn."""
        return time.monotonic() - self._listed > LIST_EVERY

    def in_turn(self, at_once: int) -> Iterator[dict[str, str]]:
        """The values of a claim: the companies that have open jobs, up to `at_once`, and what
        is known of their jobs.

        Where no company has an open job, those served last: new jobs are mostly theirs, and to try
        costs less than to list.
        """
        all_turns = list(self.companies.items())
        busy = [(company_id, turn) for company_id, turn in all_turns if turn.is_busy]
        companies = [
            {
                "company_id": company_id,
                "since": turn.since,
                "round_ends": turn.round_ends,
                "served_at": turn.served_at,
                "served_id": turn.served_id,
            }
            for company_id, turn in busy or all_turns[-at_once:]
        ]
        known = self.first_pending.items()
        jobs = _encode([{"job_id": str(job_id), "number": number} for job_id, number in known])
        for start in range(0, len(companies), at_once):
            yield {
                "queue": self.queue,
                "jobs": jobs,
                "companies": _encode(companies[start : start + at_once]),
            }

    def list(self, connection: Connection) -> bool:
        """Looks which companies have open jobs; returns whether any has. Companies that are new
        come first, shuffled: else all sessions would serve the same one.
        """
        self._listed = time.monotonic()
        known = self.companies
        if self._listed - self._forgotten > FORGET_EVERY:
            self._forgotten = self._listed
            known = {}
        companies = _encode(
            [{"company_id": company_id, "since": turn.since} for company_id, turn in known.items()]
        )
        values = {"companies": companies, "queue": self.queue, "committed": COMMITTED}
        listed = connection.execute(_LIST, values).all()
        new = []
        for row in listed:
            if turn := self.companies.get(row.company_id):
                turn.is_busy, turn.since = row.is_busy, row.since.isoformat()
            elif row.is_busy:
                new.append((row.company_id, Turn(row.is_busy, row.since.isoformat())))
        random.shuffle(new)
        still = {row.company_id for row in listed}
        self.companies = dict(new) | {
            company_id: turn for company_id, turn in self.companies.items() if company_id in still
        }
        return any(turn.is_busy for turn in self.companies.values())

    def served(self, row: Any, moment: datetime) -> None:
        """Notes which company was served, by a row of the claim, and when. Those that stood before
        it had nothing to be claimed: they are not looked at again before the next list.
        """
        for company_id, turn in self.companies.items():
            if company_id == row.company_id:
                break
            turn.is_busy = False
        turn = self.companies.pop(row.company_id)
        self.companies[row.company_id] = turn
        turn.served_at, turn.served_id = row.queued_at.isoformat(), str(row.job_id)
        if row.new_round:
            turn.round_ends = moment.isoformat()

    def look_ahead(self, connection: Connection, row: Any) -> None:
        """Looks where the job's first pending chunk is by now, if the claim has walked past
        many.
        """
        if row.number - row.first_pending >= LOOK_EVERY:
            values = {"job_id": row.job_id, "first": row.first_pending, "write_every": WRITE_EVERY}
            self.first_pending.pop(row.job_id, None)
            self.first_pending[row.job_id] = connection.execute(_FIRST_PENDING, values).scalar_one()
            if len(self.first_pending) > JOBS_REMEMBERED:
                del self.first_pending[next(iter(self.first_pending))]


def turns_of(connection: Connection, queue: str) -> Turns:
    """What the session of `connection` remembers; it ends with the session."""
    turns: Turns = connection.info.setdefault(("turns", queue), Turns(queue))
    return turns
