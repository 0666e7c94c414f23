"""Campaigns and leads, which operators write to as well, and the archive of leads."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

from shared.database.models.schema import NOW, TIME, metadata

campaigns = Table(
    "campaigns",
    metadata,
    Column("id", Text, primary_key=True),
    Column("company_id", Text, ForeignKey("companies.id"), nullable=False),
    Column("name", Text, nullable=False, server_default=""),
    Column(
        "off_peak",
        Text,
        comment="its window for off-peak jobs, e.g. 22:00-06:00 mon-sun Europe/Berlin; null: the "
        "server's",
    ),
    Column("phone_region", Text, comment="of submissions that name none, ISO 3166"),
    # Unique, so that a change of the owner changes a key, and waits for transactions that delete
    # leads. No other change of a campaign waits for them.
    Index("campaigns_owner_key", "company_id", "id", unique=True),
)

leads = Table(
    "leads",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("campaign_id", Text, ForeignKey("campaigns.id"), nullable=False),
    Column("external_id", Text),
    Column("phone_number", Text),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("external_id IS NOT NULL OR phone_number IS NOT NULL", name="identified"),
    Index(
        "leads_external_id_key",
        "campaign_id",
        "external_id",
        unique=True,
        postgresql_where=text("external_id IS NOT NULL"),
    ),
    Index(
        "leads_phone_number_key",
        "campaign_id",
        "phone_number",
        unique=True,
        postgresql_where=text("phone_number IS NOT NULL"),
    ),
    Index(
        "leads_lone_number_idx",
        "campaign_id",
        "phone_number",
        postgresql_where=text("external_id IS NULL"),
    ),  # for listing
)

# No foreign key to jobs: what was deleted can be put back, whatever became of the record.
archived_leads = Table(
    "archived_leads",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("lead_id", BigInteger, primary_key=True, autoincrement=False),
    Column("lead", JSON, comment="the whole row, an operator's own columns too; null: erased"),
    Column("archived_at", TIME, nullable=False, server_default=text("now()")),
    Index(
        "archived_leads_external_id_idx",
        text("(lead ->> 'campaign_id')"),
        text("(leadsweep_canonical_external_id(lead ->> 'external_id'))"),
    ),
    Index(
        "archived_leads_phone_number_idx",
        text("(lead ->> 'campaign_id')"),
        text("(leadsweep_canonical_phone_number(lead ->> 'phone_number'))"),
    ),
    Index("archived_leads_archived_at_idx", "archived_at"),
)

# One row.
canonical_forms = Table(
    "canonical_forms",
    metadata,
    Column(
        "form",
        SmallInteger,
        nullable=False,
        comment="shared.identifiers.FORM that all leads have at least",
    ),
)
