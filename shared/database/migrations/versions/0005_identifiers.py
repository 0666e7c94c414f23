"""Identifiers as people have them: canonical forms by one table, regions of phone numbers, an
archive that can be searched.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from shared.identifiers.canonical import sql_functions

revision = "0005"
down_revision = "0004"

_NOTED = ("erased", "lacks_plus", "other_external_id")

# Form 1, as migration 0001 had it.
_FORMER_FUNCTIONS = r"""
CREATE OR REPLACE FUNCTION leadsweep_canonical_external_id(written text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    nullif(btrim(written, E' \t\n\r\f\x0B\u00A0'), '');

CREATE OR REPLACE FUNCTION leadsweep_canonical_phone_number(written text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    nullif(regexp_replace(translate(written, E' \t\n\r\f\x0B\u00A0.-()', ''), '^00', '+'), '');

DROP FUNCTION leadsweep_is_phone_number;
"""

_ARCHIVE_INDEXES = {
    "archived_leads_external_id_idx": "leadsweep_canonical_external_id(lead ->> 'external_id')",
    "archived_leads_phone_number_idx": "leadsweep_canonical_phone_number(lead ->> 'phone_number')",
}


def _job_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column(
            "phone_fallback_rule",
            sa.Text(),
            nullable=False,
            server_default="always",
            comment="shared.states.PhoneFallback",
        ),
        sa.Column(
            "phone_region",
            sa.Text(),
            comment="ISO 3166: whose numbers are meant that begin without a +",
        ),
        sa.Column(
            "form",
            sa.SmallInteger(),
            nullable=False,
            server_default="1",
            comment="shared.identifiers.FORM of its entries",
        ),
    ]


def upgrade() -> None:
    """Adds columns, which takes no time however many jobs there are. No lead is changed: `leadsweep
    leads recanonicalise` does that, and until it has, look-ups try both forms.

    What is older can do nothing any more, as it misses a column of `jobs`: it would read the new
    rules as none. The archive is indexed, while nothing can archive.
    """
    op.execute(sql_functions())
    op.create_table(
        "canonical_forms",
        sa.Column(
            "form",
            sa.SmallInteger(),
            nullable=False,
            comment="shared.identifiers.FORM that all leads have at least",
        ),
    )
    op.execute(
        "INSERT INTO canonical_forms SELECT CASE WHEN EXISTS (SELECT FROM leads) THEN 1 ELSE 2 END"
    )
    op.add_column(
        "campaigns",
        sa.Column("phone_region", sa.Text(), comment="of submissions that name none, ISO 3166"),
    )
    for column in _job_columns():
        op.add_column("jobs", column)
    op.alter_column("jobs", "form", server_default="2")  # those that there are keep 1
    op.execute("UPDATE jobs SET phone_fallback_rule = 'never' WHERE NOT phone_fallback")
    op.drop_column("jobs", "phone_fallback")
    op.create_check_constraint(
        op.f("jobs_phone_fallback_rule"),
        "jobs",
        "phone_fallback_rule IN ('always', 'never', 'onlyIfUnidentified')",
    )
    for name in _NOTED:
        op.add_column("jobs", sa.Column(name, sa.Integer(), server_default="0"))
        op.alter_column("jobs", name, server_default=None)
        op.add_column("chunks", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    op.alter_column("jobs", "deleted", comment="frozen when the job finishes, as all counts")
    # What is unfinished has no counts yet. A ticker of before that ends a job leaves them empty:
    # the API then sums them up.
    op.execute(
        f"UPDATE jobs SET {', '.join(f'{name} = NULL' for name in _NOTED)} WHERE finished_at IS "
        "NULL"
    )
    for name, expression in _ARCHIVE_INDEXES.items():
        op.create_index(
            name,
            "archived_leads",
            [sa.text("(lead ->> 'campaign_id')"), sa.text(f"({expression})")],
        )
    op.create_index("archived_leads_archived_at_idx", "archived_leads", ["archived_at"])
    op.alter_column(
        "archived_leads",
        "lead",
        nullable=True,
        comment="the whole row, an operator's own columns too; null: erased",
    )


def downgrade() -> None:
    """Drops what it added; jobs whose rules the older code does not know are paused, their outcomes
    told by older words.
    """
    op.execute("DELETE FROM archived_leads WHERE lead IS NULL")
    op.alter_column(
        "archived_leads",
        "lead",
        nullable=False,
        comment="the whole row, an operator's own columns too",
    )
    for name in ("archived_leads_archived_at_idx", *_ARCHIVE_INDEXES):
        op.drop_index(name, "archived_leads")
    # It has no number for what is new: not found, deleted, would be deleted, invalid.
    op.execute("""
        UPDATE chunks SET outcomes = (
            SELECT array_agg(CASE
                WHEN outcome BETWEEN 20 AND 25 THEN 3
                WHEN outcome = 26 THEN 1 WHEN outcome = 27 THEN 2
                WHEN outcome = 28 THEN 8 WHEN outcome > 28 THEN 17
                ELSE outcome END ORDER BY position)
            FROM unnest(outcomes) WITH ORDINALITY AS entry (outcome, position)
        ) WHERE outcomes && ARRAY[20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30]::smallint[]
    """)
    op.add_column(
        "jobs",
        sa.Column("phone_fallback", sa.Boolean(), nullable=False, server_default=sa.text("true")),
    )
    op.execute("UPDATE jobs SET phone_fallback = false WHERE phone_fallback_rule <> 'always'")
    op.execute("""
        UPDATE jobs SET state = 'paused'
        WHERE state IN ('scheduled', 'queued', 'running')
            AND (phone_fallback_rule = 'onlyIfUnidentified' OR phone_region IS NOT NULL)
    """)
    op.alter_column("jobs", "deleted", comment="frozen when the job finishes, as the next six")
    for name in _NOTED:
        op.drop_column("chunks", name)
        op.drop_column("jobs", name)
    op.drop_constraint(op.f("jobs_phone_fallback_rule"), "jobs")
    for column in _job_columns():
        op.drop_column("jobs", column.name)
    op.drop_column("campaigns", "phone_region")
    op.drop_table("canonical_forms")
    op.execute(_FORMER_FUNCTIONS)
