"""Jobs that callers can steer: modes, previews, schedules, requests, history; archived leads;
idempotency keys.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

_TIME = sa.DateTime(timezone=True)
_OLD_SUM = "deleted + not_found + unprocessed"
_SUM = "deleted + would_delete + restored + conflict + not_found + unprocessed"
_NEW_COUNTS = ("would_delete", "restored", "conflict")


def _job_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("mode", sa.Text(), nullable=False, server_default="delete"),
        sa.Column(
            "dry_run",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="a preview: changes no lead",
        ),
        sa.Column(
            "source_job_id",
            sa.Uuid(),
            comment="the finished job that this one follows: retry, execute or restore",
        ),
        sa.Column("schedule", postgresql.JSONB(), comment="as the caller wrote it"),
        sa.Column(
            "run_window",
            sa.Text(),
            comment="runs only within, e.g. 22:00-06:00 mon-sun Europe/Berlin; null: at any time",
        ),
        sa.Column(
            "closes_at",
            _TIME,
            comment="when the window that opens at run_at shuts: nothing is claimed from then on",
        ),
        sa.Column(
            "wanted",
            sa.Text(),
            comment="an action asked for, in force once no chunk is in hand; nothing is claimed "
            "meanwhile",
        ),
        sa.Column("wanted_by", sa.Text(), comment="name of the key that asked"),
        sa.Column(
            "awaited",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="somebody waits: tell when it ends",
        ),
        sa.Column(
            "history",
            postgresql.JSONB(),
            nullable=False,
            server_default=sa.text("'[]'"),
            comment="each change of state: status, at, by",
        ),
        sa.Column("identifiers_purged_at", _TIME),
        sa.Column("archive_purged_at", _TIME),
    ]


def _chunk_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column(
            "lead_ids",
            postgresql.ARRAY(sa.BigInteger()),
            comment="of a preview: the leads found; of what follows one: those to take, no other",
        ),
        sa.Column("lead_external_ids", postgresql.ARRAY(sa.Text()), comment="as they were then"),
        sa.Column("lead_phone_numbers", postgresql.ARRAY(sa.Text()), comment="as they were then"),
    ]


_JOB_CHECKS = {
    "mode": "mode IN ('delete', 'archive', 'restore')",
    "wanted": "wanted IN ('pause', 'cancel', 'close')",
    "scheduled_for_some_time": "state <> 'scheduled' OR run_at IS NOT NULL",
    "window_closes": "(run_window IS NULL) = (closes_at IS NULL)",
}

_FINAL = "state IN ('completed', 'failed', 'cancelled')"
_COUNTS_WHEN_FINISHED = (
    f"CASE WHEN {_FINAL} THEN finished_at IS NOT NULL AND wanted IS NULL AND "
    f"coalesce({_SUM} = total, false)"
    f" ELSE finished_at IS NULL AND coalesce({_SUM.replace(' +', ',')}) IS NULL END"
)
_OLD_COUNTS_WHEN_FINISHED = (
    f"CASE WHEN {_FINAL} THEN finished_at IS NOT NULL AND coalesce({_OLD_SUM} = total, false)"
    " ELSE finished_at IS NULL AND deleted IS NULL AND not_found IS NULL "
    "AND unprocessed IS NULL END"
)

_JOB_INDEXES = {
    "jobs_due_idx": (["run_at"], "state = 'scheduled'"),
    "jobs_closing_idx": (["closes_at"], "closes_at IS NOT NULL AND state IN ('queued', 'running')"),
    "jobs_wanted_idx": (["id"], "wanted IS NOT NULL"),
    "jobs_to_purge_idx": (
        ["finished_at"],
        "identifiers_purged_at IS NULL AND finished_at IS NOT NULL",
    ),
    "jobs_archive_to_purge_idx": (
        ["finished_at"],
        "mode = 'archive' AND archive_purged_at IS NULL AND finished_at IS NOT NULL",
    ),
}


def upgrade() -> None:
    """Adds columns, which takes no time however many jobs there are; the new counts of finished
    jobs are 0.

    An older worker must not touch the new kinds of jobs: it would delete what a preview only looks
    at. It finds no table of the name that it claims by, and so can do nothing any more.
    """
    op.rename_table("company_turns", "served_companies")
    op.execute("ALTER INDEX company_turns_pkey RENAME TO served_companies_pkey")
    op.add_column(
        "campaigns",
        sa.Column(
            "off_peak",
            sa.Text(),
            comment="its window for off-peak jobs, e.g. 22:00-06:00 mon-sun Europe/Berlin; null: "
            "the server's",
        ),
    )
    for column in _job_columns():
        op.add_column("jobs", column)
    op.alter_column("jobs", "run_at", comment="with a window: its next or current opening")
    op.alter_column("jobs", "deleted", comment="frozen when the job finishes, as the next five")
    for name in _NEW_COUNTS:
        op.add_column("jobs", sa.Column(name, sa.Integer(), server_default="0"))
        op.alter_column("jobs", name, server_default=None)
        op.add_column("chunks", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    op.execute(
        "UPDATE jobs SET would_delete = NULL, restored = NULL, conflict = NULL "
        "WHERE finished_at IS NULL"
    )
    # A job that waits for a time which it does not name could never become due.
    op.execute("UPDATE jobs SET run_at = created_at WHERE state = 'scheduled' AND run_at IS NULL")
    for column in _chunk_columns():
        op.add_column("chunks", column)
    _replace_check("jobs", "counts_when_finished", _COUNTS_WHEN_FINISHED)
    _replace_check("chunks", "one_outcome_each_when_done", _each_decided(_SUM))
    for name, condition in _JOB_CHECKS.items():
        op.create_check_constraint(op.f(f"jobs_{name}"), "jobs", condition)
    for name, (columns, condition) in _JOB_INDEXES.items():
        op.create_index(name, "jobs", columns, postgresql_where=sa.text(condition))
    op.create_index(
        "jobs_source_key",
        "jobs",
        ["source_job_id", "mode"],
        unique=True,
        postgresql_where=sa.text("source_job_id IS NOT NULL"),
    )
    op.create_table(
        "archived_leads",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("lead_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column(
            "lead",
            postgresql.JSON(),
            nullable=False,
            comment="the whole row, an operator's own columns too",
        ),
        sa.Column("archived_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "lead_id", name=op.f("archived_leads_pkey")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("company_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column(
            "request_hash",
            sa.LargeBinary(),
            nullable=False,
            comment="SHA-256 of path, query and body",
        ),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="of the job, as it was answered"),
        sa.Column("run_at", _TIME, comment="as it was answered"),
        sa.Column(
            "wait",
            sa.SmallInteger(),
            nullable=False,
            comment="seconds that the caller was ready to wait",
        ),
        sa.Column("created_at", _TIME, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("idempotency_keys_job_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("company_id", "key", name=op.f("idempotency_keys_pkey")),
    )
    op.create_index(op.f("idempotency_keys_job_id_idx"), "idempotency_keys", ["job_id"])
    op.create_index(op.f("idempotency_keys_created_at_idx"), "idempotency_keys", ["created_at"])


def downgrade() -> None:
    """Drops previews, archive and restore jobs with what they recorded, and all archived leads: the
    older code knows none.
    """
    op.rename_table("served_companies", "company_turns")
    op.execute("ALTER INDEX served_companies_pkey RENAME TO company_turns_pkey")
    op.execute("DELETE FROM jobs WHERE dry_run OR mode <> 'delete'")
    # The older code would look their leads up anew. It leaves scheduled and paused jobs alone, for
    # ever: none runs that must not.
    op.execute("DELETE FROM jobs WHERE finished_at IS NULL AND source_job_id IS NOT NULL")
    op.execute(
        "UPDATE jobs SET state = 'paused' "
        "WHERE wanted IN ('pause', 'cancel') OR run_window IS NOT NULL AND finished_at IS NULL"
    )
    # It has no number for 11, changed, which is not found, nor for 15, cancelled, which is not
    # processed.
    op.execute(
        "UPDATE chunks SET outcomes = array_replace(outcomes, 11::smallint, 3::smallint) "
        "WHERE 11 = ANY(outcomes)"
    )
    op.execute(
        "UPDATE chunks SET outcomes = array_replace(outcomes, 15::smallint, 6::smallint) "
        "WHERE 15 = ANY(outcomes)"
    )
    op.drop_table("idempotency_keys")
    op.drop_table("archived_leads")
    for name in (*_JOB_INDEXES, "jobs_source_key"):
        op.drop_index(name, "jobs")
    for name in _JOB_CHECKS:
        op.drop_constraint(op.f(f"jobs_{name}"), "jobs")
    _replace_check("chunks", "one_outcome_each_when_done", _each_decided(_OLD_SUM))
    _replace_check("jobs", "counts_when_finished", _OLD_COUNTS_WHEN_FINISHED)
    for column in _chunk_columns():
        op.drop_column("chunks", column.name)
    for name in _NEW_COUNTS:
        op.drop_column("chunks", name)
        op.drop_column("jobs", name)
    for column in _job_columns():
        op.drop_column("jobs", column.name)
    op.drop_column("campaigns", "off_peak")
    op.alter_column("jobs", "run_at", comment=None)
    op.alter_column("jobs", "deleted", comment="frozen when the job finishes, as the next two")


def _each_decided(total: str) -> str:
    return (
        f"{total} <= cardinality(outcomes) AND (state = 'done') = ({total} = cardinality(outcomes)"
        " AND array_position(outcomes, 0::smallint) IS NULL)"
    )


def _replace_check(table: str, name: str, condition: str) -> None:
    op.drop_constraint(op.f(f"{table}_{name}"), table)
    op.create_check_constraint(op.f(f"{table}_{name}"), table, condition)
