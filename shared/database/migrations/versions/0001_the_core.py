"""The core: companies, campaigns, leads with canonical identifiers, keys, jobs and their chunks."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


# The same rule as shared.identifiers.canonical, which a property test holds against these two.
_CANONICAL = r"""
CREATE FUNCTION leadsweep_canonical_external_id(written text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    nullif(btrim(written, E' \t\n\r\f\x0B\u00A0'), '');

CREATE FUNCTION leadsweep_canonical_phone_number(written text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    nullif(regexp_replace(translate(written, E' \t\n\r\f\x0B\u00A0.-()', ''), '^00', '+'), '');

CREATE FUNCTION leadsweep_keep_canonical() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.external_id := leadsweep_canonical_external_id(NEW.external_id);
    NEW.phone_number := leadsweep_canonical_phone_number(NEW.phone_number);
    RETURN NEW;
END $$;

CREATE TRIGGER leads_keep_canonical BEFORE INSERT OR UPDATE OF external_id, phone_number ON leads
    FOR EACH ROW EXECUTE FUNCTION leadsweep_keep_canonical();
"""


def upgrade() -> None:
    """Creates everything."""
    op.create_table(
        "companies",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("companies_pkey")),
    )
    op.create_table(
        "company_turns",
        sa.Column("company_id", sa.Text(), nullable=False),
        sa.Column("served_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("company_id", name=op.f("company_turns_pkey")),
    )
    op.create_table(
        "heartbeats",
        sa.Column("role", sa.Text(), nullable=False, comment="worker or ticker"),
        sa.Column("process", sa.Text(), nullable=False, comment="host:pid"),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("role", "process", name=op.f("heartbeats_pkey")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("company_id", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=True, comment="who submitted it"),
        sa.Column("queue", sa.Text(), server_default="jobs", nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("client_reference", sa.Text(), nullable=True),
        sa.Column("phone_fallback", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("run_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "served_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="when a worker last claimed a chunk of it",
        ),
        sa.Column(
            "deleted",
            sa.Integer(),
            nullable=True,
            comment="frozen when the job finishes, as the next two",
        ),
        sa.Column("not_found", sa.Integer(), nullable=True),
        sa.Column("unprocessed", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(state = 'failed') = (error IS NOT NULL)", name=op.f("jobs_error_when_failed")
        ),
        sa.CheckConstraint(
            "CASE WHEN state IN ('completed', 'failed', 'cancelled') THEN finished_at IS NOT NULL "
            "AND coalesce(deleted + not_found + unprocessed = total, false) ELSE finished_at IS "
            "NULL "
            "AND deleted IS NULL AND not_found IS NULL AND unprocessed IS NULL END",
            name=op.f("jobs_counts_when_finished"),
        ),
        sa.CheckConstraint(
            "state IN ('scheduled', 'queued', 'running', 'paused', 'completed', 'failed', "
            "'cancelled')",
            name=op.f("jobs_state"),
        ),
        sa.CheckConstraint("total > 0", name=op.f("jobs_total")),
        sa.PrimaryKeyConstraint("id", name=op.f("jobs_pkey")),
    )
    op.create_index(
        "jobs_active_idx",
        "jobs",
        ["queue", "company_id", "served_at", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index("jobs_by_age_idx", "jobs", ["company_id", "created_at", "id"], unique=False)
    op.create_index(
        "jobs_by_campaign_idx",
        "jobs",
        ["company_id", "campaign_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "jobs_by_reference_idx",
        "jobs",
        ["company_id", "client_reference", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("client_reference IS NOT NULL"),
    )
    op.create_table(
        "campaigns",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("company_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["company_id"], ["companies.id"], name=op.f("campaigns_company_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("campaigns_pkey")),
    )
    op.create_index(op.f("campaigns_company_id_idx"), "campaigns", ["company_id"], unique=False)
    op.create_table(
        "chunks",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column(
            "number",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="from 0, in request order",
        ),
        sa.Column(
            "first_index",
            sa.Integer(),
            nullable=False,
            comment="index in the request of the first entry",
        ),
        sa.Column(
            "external_ids",
            postgresql.ARRAY(sa.Text()),
            nullable=False,
            comment="canonical; null elements where missing",
        ),
        sa.Column(
            "phone_numbers", postgresql.ARRAY(sa.Text()), nullable=False, comment="as external_ids"
        ),
        sa.Column(
            "written_external_ids",
            postgresql.ARRAY(sa.Text()),
            nullable=True,
            comment="as the caller wrote them; null: as external_ids",
        ),
        sa.Column(
            "written_phone_numbers",
            postgresql.ARRAY(sa.Text()),
            nullable=True,
            comment="as the caller wrote them; null: as phone_numbers",
        ),
        sa.Column(
            "outcomes",
            postgresql.ARRAY(sa.SmallInteger()),
            nullable=False,
            comment="shared.states.Outcome",
        ),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column(
            "retry_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("'-infinity'"),
            nullable=False,
            comment="claimable from then on",
        ),
        sa.Column("deleted", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "not_found",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="before it is done: its duplicates",
        ),
        sa.Column("unprocessed", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "deleted + not_found + unprocessed <= cardinality(outcomes) "
            "AND (state = 'done') = (deleted + not_found + unprocessed = cardinality(outcomes) "
            "AND array_position(outcomes, 0::smallint) IS NULL)",
            name=op.f("chunks_one_outcome_each_when_done"),
        ),
        sa.CheckConstraint("state IN ('pending', 'done')", name=op.f("chunks_state")),
        sa.CheckConstraint(
            "attempts > 0 OR cardinality(external_ids) > 0 AND cardinality(external_ids) = "
            "cardinality(phone_numbers) "
            "AND cardinality(external_ids) = cardinality(outcomes)",
            name=op.f("chunks_arrays_match"),
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("chunks_job_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("chunks_pkey")),
    )
    op.create_index(
        "chunks_pending_idx",
        "chunks",
        ["job_id", "number"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("company_id", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=True, comment="null: the whole company"),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False, comment="SHA-256 of the key"),
        sa.Column(
            "rate_limit_submit",
            sa.Text(),
            nullable=True,
            comment="e.g. 5000/hour; null: the server's",
        ),
        sa.Column("rate_limit_read", sa.Text(), nullable=True, comment="as rate_limit_submit"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "last_used_at", sa.DateTime(timezone=True), nullable=True, comment="to the minute"
        ),
        sa.CheckConstraint("scope IN ('read', 'write')", name=op.f("api_keys_scope")),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name=op.f("api_keys_campaign_id_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["company_id"], ["companies.id"], name=op.f("api_keys_company_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("api_keys_pkey")),
        sa.UniqueConstraint("hash", name=op.f("api_keys_hash_key")),
    )
    op.create_index(op.f("api_keys_company_id_idx"), "api_keys", ["company_id"], unique=False)
    op.create_table(
        "leads",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("phone_number", sa.Text(), nullable=True),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "external_id IS NOT NULL OR phone_number IS NOT NULL", name=op.f("leads_identified")
        ),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name=op.f("leads_campaign_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("leads_pkey")),
    )
    op.create_index(
        "leads_external_id_key",
        "leads",
        ["campaign_id", "external_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_index(
        "leads_phone_number_key",
        "leads",
        ["campaign_id", "phone_number"],
        unique=True,
        postgresql_where=sa.text("phone_number IS NOT NULL"),
    )
    op.execute(_CANONICAL)


def downgrade() -> None:
    """Drops everything, jobs and leads included."""
    for table in (
        "chunks",
        "jobs",
        "company_turns",
        "heartbeats",
        "api_keys",
        "leads",
        "campaigns",
        "companies",
    ):
        op.drop_table(table)
    op.execute("DROP FUNCTION leadsweep_keep_canonical")
    op.execute("DROP FUNCTION leadsweep_canonical_phone_number")
    op.execute("DROP FUNCTION leadsweep_canonical_external_id")
