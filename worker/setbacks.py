"""Gives back a chunk that could not be worked on, and writes down with it, or with its job, what
happened.

Only a lease that runs out without a word counts as an attempt: that is a chunk which kills its
workers. Each word here takes the attempt of its claim back, in whatever order they come; but only
the last claim may say when the chunk is claimable again.

A chunk whose job waited for the database was claimed as a probe: nothing else of its job is claimed
while its lease lasts. So whatever ends it sooner says when the next one may begin.
"""

import json
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Integer, bindparam, text

from shared.states import ACTIVE_STATES, quoted
from worker.claimer import Claim

NOT_WAITING = "waiting_for = NULL, waiting_since = NULL, waiting_until = NULL"
"""Of a job."""
GROWN = (
    "part_size = CASE WHEN :quick THEN nullif(least(part_size * 2, 1000), 1000) ELSE part_size END"
)
"""Of a job or chunk: the next parts are bigger; null is all of a chunk, which has 1000 entries at
most.
"""

# Locks are taken as everywhere, chunk before job.
_MINE = "WHERE job_id = :job_id AND number = :number AND state = 'pending'"
_IS_LAST = "retry_at = :lease_end"
# It may have been taken back before, for a pause.
_NOT_COUNTED = "attempts = greatest(attempts - 1, 0)"


def _next_probe(pause: str) -> str:
    """The next probe of the job may begin after the `pause`, an interval, unless it has begun
    already: then the job waits until after the end of this one's lease.
    """
    return f"""
        waiting_until = CASE
            WHEN :waited AND waiting_until <= :lease_end
            THEN least(waiting_until, clock_timestamp() + interval '{pause}')
            ELSE waiting_until
        END
    """


_PUT_OFF = text(f"""
    WITH put_off AS (
        UPDATE chunks SET {_NOT_COUNTED},
            retry_at = CASE
                WHEN {_IS_LAST} THEN clock_timestamp() + CAST(:seconds AS float) * interval '1 s'
                ELSE retry_at
            END
        {_MINE} RETURNING job_id
    )
    UPDATE jobs SET {_next_probe("1 s")} FROM put_off WHERE id = put_off.job_id AND :waited
""")

# The next part is smaller; where leads take long, so are those of the job's other chunks.
_CUT = text(f"""
    WITH cut AS (
        UPDATE chunks SET {_NOT_COUNTED},
            retry_at = CASE WHEN {_IS_LAST} THEN '-infinity' ELSE retry_at END,
            part_size = :part_size, part_seconds = :part_seconds
        {_MINE} RETURNING job_id
    )
    UPDATE jobs SET
        part_size = CASE WHEN :of_job THEN least(part_size, :part_size) ELSE part_size END,
        {_next_probe("0")}
    FROM cut WHERE id = cut.job_id AND (:of_job OR :waited)
""").bindparams(bindparam("part_size", type_=Integer), bindparam("part_seconds", type_=Integer))

# `pause`: it is as long as the job has waited already, within limits; then one chunk is tried.
#
# `held`: another chunk than this one is tried where there is any, and than those that were held
# before, though the pauses double: it may be these alone that fail.
#
# `wanted`: a day counts whether or not the job's window was open, but a job is given up only when
# it has been tried again in a window that has been open for some time.
_HOLD = text(f"""
    WITH pause AS (
        SELECT least(
            interval '30 s', greatest(interval '1 s', clock_timestamp() - waiting_since)
        ) AS length
        FROM jobs WHERE id = :job_id
    ),
    others AS (
        SELECT count(held_since) AS held, count(*) > count(held_since) AS are_untried FROM (
            SELECT held_since FROM chunks
            WHERE job_id = :job_id AND state = 'pending' AND number <> :number
            ORDER BY number LIMIT 1000
        ) AS other
    ),
    held AS (
        UPDATE chunks SET {_NOT_COUNTED},
            held_since = CASE
                WHEN :is_doubtful THEN coalesce(held_since, clock_timestamp()) ELSE held_since
            END,
            retry_at = CASE
                WHEN {_IS_LAST} THEN clock_timestamp() + pause.length
                    + CASE WHEN are_untried THEN 2 * (held + 1) * pause.length ELSE interval '0' END
                ELSE retry_at
            END
        FROM pause, others {_MINE} RETURNING job_id
    )
    UPDATE jobs SET waiting_for = CAST(:waiting_for AS jsonb),
        waiting_since = coalesce(waiting_since, clock_timestamp()),
        waiting_until = clock_timestamp() + pause.length,
        wanted = CASE
            WHEN wanted IS NULL AND waiting_since < clock_timestamp() - interval '24 h' AND (
                closes_at IS NULL
                OR run_at + least(interval '10 min', (closes_at - run_at) / 2) < clock_timestamp()
            )
            THEN 'fail'
            ELSE wanted
        END
    FROM held, pause WHERE id = held.job_id AND jobs.state IN ({quoted(ACTIVE_STATES)})
""")

# A part that went well shows that the database is well, whatever was asked meanwhile because it was
# not; and a quick one shows that the next may be bigger.
#
# `locked`: a chunk that somebody has in hand is being tried now, and is passed over.
#
# `waited`: while the job waited, no lock was tried. That time does not count for entries that wait
# for one.
_GO_ON = text(f"""
    WITH locked AS (
        SELECT job_id, number, waiting_since FROM jobs JOIN chunks ON job_id = id
        WHERE id = :job_id AND waiting_since IS NOT NULL AND chunks.state = 'pending'
            AND locked_since IS NOT NULL
        FOR NO KEY UPDATE OF chunks SKIP LOCKED
    ),
    waited AS (
        UPDATE chunks SET
            locked_since = least(
                clock_timestamp(), locked_since + (clock_timestamp() - waiting_since)
            ),
            held_since = CASE WHEN :went AND chunks.number = :number THEN NULL ELSE held_since END
        FROM locked WHERE chunks.job_id = locked.job_id AND chunks.number = locked.number
    ),
    went AS (
        UPDATE chunks SET held_since = NULL
        WHERE job_id = :job_id AND number = :number AND :went AND held_since IS NOT NULL
            AND NOT EXISTS (SELECT FROM locked WHERE number = :number)
    )
    UPDATE jobs SET {NOT_WAITING}, wanted = nullif(wanted, 'fail'),
        recovered_at = CASE
            WHEN :went AND waiting_since IS NOT NULL THEN clock_timestamp() ELSE recovered_at
        END,
        {GROWN}
    WHERE id = :job_id AND (waiting_since IS NOT NULL OR :quick AND part_size IS NOT NULL)
""")

# A chunk that was in hand when another one failed went all the same.
_RECOVER = text(f"""
    UPDATE jobs SET {NOT_WAITING}, wanted = nullif(wanted, 'fail'), recovered_at = clock_timestamp()
    WHERE id = :job_id AND waiting_since IS NOT NULL
""")


def put_off(connection: Connection, claim: Claim, seconds: float) -> None:
    """Gives the chunk back for so long. The caller commits."""
    connection.execute(_PUT_OFF, _place(claim) | {"seconds": seconds})


def cut(
    connection: Connection,
    claim: Claim,
    size: int,
    *,
    seconds: int | None = None,
    of_job: bool = False,
) -> None:
    """Gives the chunk back at once, for a part of `size` entries, or of one that gets so many
    `seconds`. The caller commits.
    """
    connection.execute(
        _CUT, _place(claim) | {"part_size": size, "part_seconds": seconds, "of_job": of_job}
    )


def hold(
    connection: Connection, claim: Claim, reason: str, detail: str, sqlstate: str | None = None
) -> None:
    """Gives the chunk back and has its job wait: `reason` is a word of the contract, `detail` in
    words. The caller commits.
    """
    waiting_for = json.dumps({"reason": reason, "detail": detail, "sqlstate": sqlstate})
    connection.execute(
        _HOLD, _place(claim) | {"waiting_for": waiting_for, "is_doubtful": reason == "database"}
    )


def go_on(connection: Connection, claim: Claim, *, quick: bool, went: bool) -> None:
    """A part was done: the job waits for nothing, and its next parts are bigger if this one was
    `quick`. `went`: something was changed, which shows that it can be. The caller commits.
    """
    connection.execute(
        _GO_ON, {"job_id": claim.job_id, "number": claim.number, "quick": quick, "went": went}
    )


def recover(connection: Connection, job_id: UUID) -> None:
    """Something of the job was changed, though another chunk has failed since it was claimed. The
    caller commits.
    """
    connection.execute(_RECOVER, {"job_id": job_id})


def _place(claim: Claim) -> dict[str, Any]:
    return {
        "job_id": claim.job_id,
        "number": claim.number,
        "lease_end": claim.lease_end,
        "waited": claim.waited,
    }
