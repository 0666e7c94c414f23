"""Webhooks: where to send them, what was sent, and a job's own callback."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

_TIME = sa.DateTime(timezone=True)
_NOW = sa.text("clock_timestamp()")
_EMPTY = sa.text("'[]'")
_OLD_SECRETS = "those before, newest first: secret, encrypted, and until when it signs too"


def upgrade() -> None:
    """Adds columns that older code may leave out, and tables."""
    op.add_column(
        "companies",
        sa.Column(
            "webhook_secret",
            sa.LargeBinary(),
            comment="signs what goes to a job's callbackUrl; encrypted; null: none needed yet",
        ),
    )
    op.add_column(
        "companies",
        sa.Column(
            "old_webhook_secrets",
            postgresql.JSONB(),
            server_default=_EMPTY,
            nullable=False,
            comment=_OLD_SECRETS,
        ),
    )
    op.add_column("jobs", sa.Column("callback_url", sa.Text(), comment="told when the job ends"))
    op.alter_column("heartbeats", "role", comment="worker, deliverer or ticker")
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("company_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column(
            "disabled_reason",
            sa.Text(),
            comment="why we disabled it; null: its owner did, or it is enabled",
        ),
        sa.Column(
            "failing_since",
            _TIME,
            comment="the first failed attempt since the last that was delivered",
        ),
        sa.Column("secret", sa.LargeBinary(), nullable=False, comment="encrypted"),
        sa.Column(
            "old_secrets",
            postgresql.JSONB(),
            server_default=_EMPTY,
            nullable=False,
            comment=_OLD_SECRETS,
        ),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.CheckConstraint(
            "disabled_reason IS NULL OR NOT enabled", name=op.f("webhooks_reason_when_disabled")
        ),
        sa.ForeignKeyConstraint(
            ["company_id"], ["companies.id"], name=op.f("webhooks_company_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("webhooks_pkey")),
    )
    op.create_index(op.f("webhooks_company_id_idx"), "webhooks", ["company_id"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Uuid(), nullable=False, comment="webhook-id, of each of its attempts"),
        sa.Column("company_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), comment="null: a test"),
        sa.Column("webhook_id", sa.Uuid(), comment="null: the job's callback_url"),
        sa.Column("url", sa.Text(), comment="of a callback; a webhook's is read when it is sent"),
        sa.Column(
            "receiver",
            sa.Text(),
            sa.Computed("coalesce(webhook_id::text, url)", persisted=True),
            nullable=False,
        ),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column(
            "due_at", _TIME, server_default=_NOW, nullable=False, comment="of the next attempt"
        ),
        sa.Column(
            "claimed_until",
            _TIME,
            comment="an attempt is under way until then at most; its end says whose",
        ),
        sa.Column(
            "attempts",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="since it was created or asked for again",
        ),
        sa.Column(
            "tried",
            postgresql.JSONB(),
            server_default=_EMPTY,
            nullable=False,
            comment="the last attempts: at, status, latency, error",
        ),
        sa.Column("error", sa.Text(), comment="why it was given up"),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'failed')", name=op.f("deliveries_state")
        ),
        sa.CheckConstraint(
            "(state = 'failed') = (error IS NOT NULL)", name=op.f("deliveries_error_when_failed")
        ),
        sa.CheckConstraint(
            "(webhook_id IS NULL) <> (url IS NULL)", name=op.f("deliveries_one_receiver")
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("deliveries_job_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["webhook_id"],
            ["webhooks.id"],
            name=op.f("deliveries_webhook_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("deliveries_pkey")),
    )
    pending = sa.text("state = 'pending'")
    op.create_index(
        "deliveries_by_receiver_idx",
        "deliveries",
        ["company_id", "receiver", "due_at"],
        postgresql_where=pending,
    )
    op.create_index("deliveries_due_idx", "deliveries", ["due_at"], postgresql_where=pending)
    under_way = sa.text("claimed_until IS NOT NULL")
    op.create_index(
        "deliveries_under_way_idx", "deliveries", ["claimed_until"], postgresql_where=under_way
    )
    op.create_index("deliveries_by_job_idx", "deliveries", ["job_id", "created_at", "id"])
    op.create_index("deliveries_by_webhook_idx", "deliveries", ["webhook_id", "created_at", "id"])


def downgrade() -> None:
    """Drops webhooks, their secrets and what was sent: the older code sends none."""
    op.drop_table("deliveries")
    op.drop_table("webhooks")
    op.alter_column("heartbeats", "role", comment="worker or ticker")
    op.drop_column("jobs", "callback_url")
    for name in ("old_webhook_secrets", "webhook_secret"):
        op.drop_column("companies", name)
