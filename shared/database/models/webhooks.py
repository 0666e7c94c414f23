"""Where callers want to be told, and what they are told."""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from shared.database.models.schema import NOW, OLD_SECRETS, TIME, metadata
from shared.states import DeliveryState, quoted

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("company_id", Text, ForeignKey("companies.id"), nullable=False, index=True),
    Column("url", Text, nullable=False),
    Column("events", ARRAY(Text), nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column(
        "disabled_reason", Text, comment="why we disabled it; null: its owner did, or it is enabled"
    ),
    Column(
        "failing_since", TIME, comment="the first failed attempt since the last that was delivered"
    ),
    Column("secret", LargeBinary, nullable=False, comment="encrypted"),
    Column("old_secrets", JSONB, nullable=False, server_default=text("'[]'"), comment=OLD_SECRETS),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("disabled_reason IS NULL OR NOT enabled", name="reason_when_disabled"),
)

# The body is not stored: it is made of the job's row and chunks, which do not change any more, at
# every attempt. So a purge of the job purges it too.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Uuid, primary_key=True, comment="webhook-id, of each of its attempts"),
    Column("company_id", Text, nullable=False),
    Column("job_id", Uuid, ForeignKey("jobs.id", ondelete="CASCADE"), comment="null: a test"),
    Column(
        "webhook_id",
        Uuid,
        ForeignKey("webhooks.id", ondelete="CASCADE"),
        comment="null: the job's callback_url",
    ),
    Column("url", Text, comment="of a callback; a webhook's is read when it is sent"),
    Column(
        "receiver",
        Text,
        Computed("coalesce(webhook_id::text, url)", persisted=True),
        nullable=False,
    ),
    Column("event", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("due_at", TIME, nullable=False, server_default=NOW, comment="of the next attempt"),
    Column(
        "claimed_until",
        TIME,
        comment="an attempt is under way until then at most; its end says whose",
    ),
    Column(
        "attempts",
        SmallInteger,
        nullable=False,
        server_default="0",
        comment="since it was created or asked for again",
    ),
    Column(
        "tried",
        JSONB,
        nullable=False,
        server_default=text("'[]'"),
        comment="the last attempts: at, status, latency, error",
    ),
    Column("error", Text, comment="why it was given up"),
    CheckConstraint(f"state IN ({quoted(DeliveryState)})", name="state"),
    CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name="error_when_failed"),
    CheckConstraint("(webhook_id IS NULL) <> (url IS NULL)", name="one_receiver"),
    Index(
        "deliveries_by_receiver_idx",
        "company_id",
        "receiver",
        "due_at",
        postgresql_where=text("state = 'pending'"),
    ),
    Index("deliveries_due_idx", "due_at", postgresql_where=text("state = 'pending'")),
    Index(
        "deliveries_under_way_idx",
        "claimed_until",
        postgresql_where=text("claimed_until IS NOT NULL"),
    ),
    Index("deliveries_by_job_idx", "job_id", "created_at", "id"),
    Index("deliveries_by_webhook_idx", "webhook_id", "created_at", "id"),
)
