"""Companies, and the API keys that they call with."""

from sqlalchemy import CheckConstraint, Column, ForeignKey, LargeBinary, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB

from shared.database.models.schema import NOW, OLD_SECRETS, TIME, metadata

companies = Table(
    "companies",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, server_default=""),
    Column(
        "webhook_secret",
        LargeBinary,
        comment="signs what goes to a job's callbackUrl; encrypted; null: none needed yet",
    ),
    Column(
        "old_webhook_secrets",
        JSONB,
        nullable=False,
        server_default=text("'[]'"),
        comment=OLD_SECRETS,
    ),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("company_id", Text, ForeignKey("companies.id"), nullable=False, index=True),
    Column("campaign_id", Text, ForeignKey("campaigns.id"), comment="null: the whole company"),
    Column("name", Text, nullable=False, server_default=""),
    Column("scope", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False, unique=True, comment="SHA-256 of the key"),
    Column("rate_limit_submit", Text, comment="e.g. 5000/hour; null: the server's"),
    Column("rate_limit_read", Text, comment="as rate_limit_submit"),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("expires_at", TIME),
    Column("revoked_at", TIME),
    Column("last_used_at", TIME, comment="to the minute"),
    CheckConstraint("scope IN ('read', 'write')", name="scope"),
)
