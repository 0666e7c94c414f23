"""Work by time, waiting for what is locked or sick, and what refused an entry."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"

_TIME = sa.DateTime(timezone=True)


def _columns() -> dict[str, list[sa.Column[Any]]]:
    return {
        "jobs": [
            sa.Column(
                "part_size", sa.Integer(), comment="entries of a chunk that are worked on at once, as they take long; null: all"
            ),
            sa.Column("waiting_for", JSONB(), comment="why nothing goes on: reason, detail, sqlstate"),
            sa.Column("waiting_since", _TIME, comment="the first failure since something was done"),
            sa.Column("waiting_until", _TIME, comment="when one chunk is tried again; null: all are"),
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
            sa.Column("locked_since", _TIME, comment="since when there are only such entries left"),
            sa.Column("details", JSONB(), comment="what refused an entry, by its position from 0"),
        ],
        "heartbeats": [
            sa.Column(
                "processes", sa.SmallInteger(), nullable=False, server_default="1", comment="of a worker: those of its pool"
            ),
        ],
    }


def upgrade() -> None:
    """Adds columns, which takes no time however many jobs there are."""
    for table, columns in _columns().items():
        for column in columns:
            op.add_column(table, column)
    op.create_check_constraint(op.f("jobs_waiting_until"), "jobs", "(waiting_since IS NULL) = (waiting_until IS NULL)")
    op.create_check_constraint(op.f("jobs_waiting_for"), "jobs", "(waiting_since IS NULL) = (waiting_for IS NULL)")
    op.drop_constraint(op.f("jobs_wanted"), "jobs")
    op.create_check_constraint(op.f("jobs_wanted"), "jobs", "wanted IN ('pause', 'cancel', 'close', 'fail')")


def downgrade() -> None:
    """Drops what it added. What waits for a lock is undecided, as before; what was too slow or locked was refused."""
    op.execute("""
        UPDATE chunks SET outcomes = (
            SELECT array_agg(CASE WHEN outcome = 31 THEN 0 WHEN outcome > 31 THEN 5 ELSE outcome END ORDER BY position)
            FROM unnest(outcomes) WITH ORDINALITY AS entry (outcome, position)
        ) WHERE outcomes && ARRAY[31, 32, 33]::smallint[]
    """)
    op.execute("UPDATE jobs SET wanted = NULL, wanted_by = NULL WHERE wanted = 'fail'")
    op.drop_constraint(op.f("jobs_wanted"), "jobs")
    op.create_check_constraint(op.f("jobs_wanted"), "jobs", "wanted IN ('pause', 'cancel', 'close')")
    op.drop_constraint(op.f("jobs_waiting_for"), "jobs")
    op.drop_constraint(op.f("jobs_waiting_until"), "jobs")
    for table, columns in _columns().items():
        for column in columns:
            op.drop_column(table, column.name)
