"""Files of millions of leads: entries that are invalid, jobs that are paced, and leads that are
listed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_OLD_SUM = "deleted + would_delete + restored + conflict + not_found + unprocessed"
_SUM = f"{_OLD_SUM} + invalid"
_PACED_AT = "of a job with max_leads_per_second: when the next may be claimed"


_FINAL = "state IN ('completed', 'failed', 'cancelled')"


def _replace_checks(counts: str) -> None:
    finished = (
        f"CASE WHEN {_FINAL} THEN finished_at IS NOT NULL AND wanted IS NULL AND coalesce({counts} "
        "= total, false)"
        f" ELSE finished_at IS NULL AND coalesce({counts.replace(' +', ',')}) IS NULL END"
    )
    decided = (
        f"{counts} <= cardinality(outcomes)"
        f" AND (state = 'done') = ({counts} = cardinality(outcomes)"
        " AND array_position(outcomes, 0::smallint) IS NULL)"
    )
    for table, name, condition in (
        ("jobs", "counts_when_finished", finished),
        ("chunks", "one_outcome_each_when_done", decided),
    ):
        op.drop_constraint(op.f(f"{table}_{name}"), table)
        op.create_check_constraint(op.f(f"{table}_{name}"), table, condition)


def upgrade() -> None:
    """Adds columns, which takes no time however many jobs there are; finished jobs have 0 invalid
    entries. Adds an index of the leads without an external id, while nothing can change leads.

    Stop older workers first: they cannot finish a job, since they leave `invalid` empty.
    """
    op.add_column(
        "jobs", sa.Column("max_leads_per_second", sa.Integer(), comment="null: as fast as it goes")
    )
    op.add_column("jobs", sa.Column("paced_at", sa.DateTime(timezone=True), comment=_PACED_AT))
    op.create_check_constraint(
        op.f("jobs_max_leads_per_second"), "jobs", "max_leads_per_second > 0"
    )
    op.create_index(
        "jobs_paced_idx",
        "jobs",
        ["paced_at"],
        postgresql_where=sa.text("paced_at IS NOT NULL AND state IN ('queued', 'running')"),
    )
    op.add_column("jobs", sa.Column("invalid", sa.Integer(), server_default="0"))
    op.alter_column("jobs", "invalid", server_default=None)
    op.alter_column("jobs", "deleted", comment="frozen when the job finishes, as the next six")
    op.add_column("chunks", sa.Column("invalid", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE jobs SET invalid = NULL WHERE finished_at IS NULL")
    _replace_checks(_SUM)
    op.create_index(
        "leads_lone_number_idx",
        "leads",
        ["campaign_id", "phone_number"],
        postgresql_where=sa.text("external_id IS NULL"),
    )


def downgrade() -> None:
    """Counts invalid entries as not found, and pauses what must not run as fast as it goes."""
    op.drop_index("leads_lone_number_idx", "leads")
    op.execute("""
        UPDATE jobs SET state = 'paused'
        WHERE max_leads_per_second IS NOT NULL AND state IN ('scheduled', 'queued', 'running')
    """)
    op.execute("""
        UPDATE chunks SET not_found = not_found + invalid, invalid = 0, outcomes = (
            SELECT array_agg(CASE WHEN outcome > 15 THEN 3 ELSE outcome END ORDER BY position)
            FROM unnest(outcomes) WITH ORDINALITY AS entry (outcome, position)
        ) WHERE invalid > 0
    """)
    op.execute("UPDATE jobs SET not_found = not_found + invalid, invalid = 0 WHERE invalid > 0")
    _replace_checks(_OLD_SUM)
    op.drop_column("jobs", "invalid")
    op.drop_column("chunks", "invalid")
    op.drop_constraint(op.f("jobs_max_leads_per_second"), "jobs")
    op.drop_index("jobs_paced_idx", "jobs")
    op.drop_column("jobs", "paced_at")
    op.drop_column("jobs", "max_leads_per_second")
    op.alter_column("jobs", "deleted", comment="frozen when the job finishes, as the next five")
