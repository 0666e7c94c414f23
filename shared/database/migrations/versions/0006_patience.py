"""Work by time, waiting for what is locked or sick, and what refused an entry; turns that nobody
writes down.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"

_TIME = sa.DateTime(timezone=True)

# What it does is done while a statement that names it is planned: its answer is known by then, as
# it never changes.
_BY_INDEX = """
CREATE FUNCTION leadsweep_by_index() RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT set_config('enable_seqscan', 'off', true) = 'off'
        AND set_config('enable_bitmapscan', 'off', true) = 'off'
        AND set_config('enable_sort', 'off', true) = 'off'
        AND set_config('enable_hashjoin', 'off', true) = 'off'
        AND set_config('enable_mergejoin', 'off', true) = 'off'
$$
"""
_PLACE = "its place in its queue: since when it stands there"
_FORMER_PLACE = "when a worker last claimed a chunk of it"


def _columns() -> dict[str, list[sa.Column[Any]]]:
    return {
        "jobs": [
            sa.Column(
                "part_size",
                sa.Integer(),
                comment="entries of a chunk that are worked on at once, as they take long; null: "
                "all",
            ),
            sa.Column(
                "waiting_for", JSONB(), comment="why nothing goes on: reason, detail, sqlstate"
            ),
            sa.Column("waiting_since", _TIME, comment="the first failure since something was done"),
            sa.Column(
                "recovered_at",
                _TIME,
                comment="when something of it could be changed again, after the database had not "
                "been well",
            ),
            sa.Column(
                "waiting_until", _TIME, comment="when one chunk is tried again; null: all are"
            ),
            sa.Column(
                "first_pending",
                sa.Integer(),
                nullable=False,
                server_default="0",
                comment="all chunks before this one are done; written down now and then",
            ),
        ],
        "chunks": [
            sa.Column("part_size", sa.Integer(), comment="as that of jobs, of this chunk alone"),
            sa.Column(
                "part_seconds",
                sa.SmallInteger(),
                comment="that its next entry gets, alone, as it took longer than a part may",
            ),
            sa.Column(
                "locked",
                sa.Integer(),
                nullable=False,
                server_default="0",
                comment="entries that wait for a lock of somebody else",
            ),
            sa.Column(
                "locked_since",
                _TIME,
                comment="since when there are only such entries left, less the time in which "
                "nothing was tried",
            ),
            sa.Column(
                "held_since",
                _TIME,
                comment="since when the database has not been well whenever it was tried",
            ),
            sa.Column("details", JSONB(), comment="what refused an entry, by its position from 0"),
        ],
        "heartbeats": [
            sa.Column(
                "processes",
                sa.SmallInteger(),
                nullable=False,
                server_default="1",
                comment="of a worker: those of its pool",
            ),
        ],
    }


def upgrade() -> None:
    """Adds columns, builds two indexes and clears the references of purged jobs: seconds for a
    million jobs.

    A worker of before can claim nothing any more, as it misses `served_at`: it would take new
    numbers of outcomes for others. An API of before accepts, but shows no jobs, for the same
    reason.
    """
    op.execute("""
        UPDATE jobs SET client_reference = NULL
        WHERE identifiers_purged_at IS NOT NULL AND client_reference IS NOT NULL
    """)
    op.execute(_BY_INDEX)
    op.alter_column(
        "jobs",
        "served_at",
        new_column_name="queued_at",
        comment=_PLACE,
        existing_comment=_FORMER_PLACE,
    )
    op.drop_table("served_companies")
    op.create_index(
        "jobs_running_idx", "jobs", ["id"], postgresql_where=sa.text("state = 'running'")
    )
    op.create_index("jobs_by_state_idx", "jobs", ["company_id", "state", "created_at", "id"])
    for table, columns in _columns().items():
        for column in columns:
            op.add_column(table, column)
    op.create_check_constraint(
        op.f("jobs_waiting_until"), "jobs", "(waiting_since IS NULL) = (waiting_until IS NULL)"
    )
    op.create_check_constraint(
        op.f("jobs_waiting_for"), "jobs", "(waiting_since IS NULL) = (waiting_for IS NULL)"
    )
    op.drop_constraint(op.f("jobs_wanted"), "jobs")
    op.create_check_constraint(
        op.f("jobs_wanted"), "jobs", "wanted IN ('pause', 'cancel', 'close', 'fail')"
    )


def downgrade() -> None:
    """Drops what it added; the references do not come back. What waits for a lock is undecided, as
    before; what was too slow or locked was refused.
    """
    op.execute("""
        UPDATE chunks SET outcomes = (
            SELECT array_agg(
                CASE WHEN outcome = 31 THEN 0 WHEN outcome > 31 THEN 5 ELSE outcome END
                ORDER BY position
            )
            FROM unnest(outcomes) WITH ORDINALITY AS entry (outcome, position)
        ) WHERE outcomes && ARRAY[31, 32, 33]::smallint[]
    """)
    op.create_table(
        "served_companies",
        sa.Column("company_id", sa.Text(), primary_key=True),
        sa.Column("served_at", _TIME, nullable=False),
    )
    op.alter_column(
        "jobs",
        "queued_at",
        new_column_name="served_at",
        comment=_FORMER_PLACE,
        existing_comment=_PLACE,
    )
    op.drop_index("jobs_by_state_idx", "jobs")
    op.drop_index("jobs_running_idx", "jobs")
    op.execute("DROP FUNCTION leadsweep_by_index")
    op.execute("UPDATE jobs SET wanted = NULL, wanted_by = NULL WHERE wanted = 'fail'")
    op.drop_constraint(op.f("jobs_wanted"), "jobs")
    op.create_check_constraint(
        op.f("jobs_wanted"), "jobs", "wanted IN ('pause', 'cancel', 'close')"
    )
    op.drop_constraint(op.f("jobs_waiting_for"), "jobs")
    op.drop_constraint(op.f("jobs_waiting_until"), "jobs")
    for table, columns in _columns().items():
        for column in columns:
            op.drop_column(table, column.name)
