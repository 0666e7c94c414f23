"""The tables. Migrations create them; `make check` holds the two against each other.

Invariants are CHECK constraints. What `companies`, `campaigns` and `leads` have beyond the
published columns has a default.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB

from shared.identifiers.canonical import FORM
from shared.states import COUNTS

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s",
    }
)

_NOW = text("clock_timestamp()")
_TIME = DateTime(timezone=True)
_SUM = " + ".join(COUNTS)
_OLD_SECRETS = "those before, newest first: secret, encrypted, and until when it signs too"

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
        comment=_OLD_SECRETS,
    ),
)

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
    # Unique, so that to change the owner is to change a key: that waits for who deletes leads. No
    # other change does.
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
    Column("created_at", _TIME, nullable=False, server_default=_NOW),
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
    Column("created_at", _TIME, nullable=False, server_default=_NOW),
    Column("expires_at", _TIME),
    Column("revoked_at", _TIME),
    Column("last_used_at", _TIME, comment="to the minute"),
    CheckConstraint("scope IN ('read', 'write')", name="scope"),
)

# Jobs name their company and campaign without a foreign key: the record of what was deleted
# outlives both.
jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("company_id", Text, nullable=False),
    Column("campaign_id", Text, nullable=False),
    Column("key_id", Uuid, comment="who submitted it"),
    Column("queue", Text, nullable=False, server_default="jobs"),
    Column("state", Text, nullable=False, server_default="queued"),
    Column("client_reference", Text),
    Column("mode", Text, nullable=False, server_default="delete"),
    Column(
        "dry_run",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="a preview: changes no lead",
    ),
    Column(
        "source_job_id",
        Uuid,
        comment="the finished job that this one follows: retry, execute or restore",
    ),
    Column("schedule", JSONB, comment="as the caller wrote it"),
    Column("callback_url", Text, comment="told when the job ends"),
    Column(
        "run_window",
        Text,
        comment="runs only within, e.g. 22:00-06:00 mon-sun Europe/Berlin; null: at any time",
    ),
    Column("max_leads_per_second", Integer, comment="null: as fast as it goes"),
    Column(
        "paced_at",
        _TIME,
        comment="of a job with max_leads_per_second: when the next may be claimed",
    ),
    Column("total", Integer, nullable=False),
    Column("created_at", _TIME, nullable=False, server_default=_NOW),
    Column("run_at", _TIME, comment="with a window: its next or current opening"),
    Column(
        "closes_at",
        _TIME,
        comment="when the window that opens at run_at shuts: nothing is claimed from then on",
    ),
    Column("started_at", _TIME),
    Column("finished_at", _TIME),
    Column(
        "queued_at",
        _TIME,
        nullable=False,
        server_default=_NOW,
        comment="its place in its queue: since when it stands there",
    ),
    Column(
        "wanted",
        Text,
        comment="an action asked for, in force once no chunk is in hand; nothing is claimed "
        "meanwhile",
    ),
    Column("wanted_by", Text, comment="name of the key that asked"),
    Column(
        "awaited",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="somebody waits: tell when it ends",
    ),
    Column(
        "history",
        JSONB,
        nullable=False,
        server_default=text("'[]'"),
        comment="each change of state: status, at, by",
    ),
    Column("identifiers_purged_at", _TIME),
    Column("archive_purged_at", _TIME),
    Column("deleted", Integer, comment="frozen when the job finishes, as all counts"),
    Column("would_delete", Integer),
    Column("restored", Integer),
    Column("conflict", Integer),
    Column("not_found", Integer),
    Column("unprocessed", Integer),
    Column("invalid", Integer),
    Column("error", Text),
    Column(
        "phone_fallback_rule",
        Text,
        nullable=False,
        server_default="always",
        comment="shared.states.PhoneFallback",
    ),
    Column(
        "phone_region", Text, comment="ISO 3166: whose numbers are meant that begin without a +"
    ),
    Column(
        "form",
        SmallInteger,
        nullable=False,
        server_default=str(FORM),
        comment="shared.identifiers.FORM of its entries",
    ),
    Column("erased", Integer),
    Column("lacks_plus", Integer),
    Column("other_external_id", Integer),
    Column(
        "part_size",
        Integer,
        comment="entries of a chunk that are worked on at once, as they take long; null: all",
    ),
    Column("waiting_for", JSONB, comment="why nothing goes on: reason, detail, sqlstate"),
    Column("waiting_since", _TIME, comment="the first failure since something was done"),
    Column(
        "recovered_at",
        _TIME,
        comment="when something of it could be changed again, after the database had not been well",
    ),
    Column("waiting_until", _TIME, comment="when one chunk is tried again; null: all are"),
    Column(
        "first_pending",
        Integer,
        nullable=False,
        server_default="0",
        comment="all chunks before this one are done; written down now and then",
    ),
    CheckConstraint(
        "phone_fallback_rule IN ('always', 'never', 'onlyIfUnidentified')",
        name="phone_fallback_rule",
    ),
    CheckConstraint(
        "state IN ('scheduled', 'queued', 'running', 'paused', 'completed', 'failed', 'cancelled')",
        name="state",
    ),
    CheckConstraint("total > 0", name="total"),
    CheckConstraint("max_leads_per_second > 0", name="max_leads_per_second"),
    CheckConstraint(
        "CASE WHEN state IN ('completed', 'failed', 'cancelled')"
        f" THEN finished_at IS NOT NULL AND wanted IS NULL AND coalesce({_SUM} = total, false)"
        f" ELSE finished_at IS NULL AND coalesce({', '.join(COUNTS)}) IS NULL END",
        name="counts_when_finished",
    ),
    CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name="error_when_failed"),
    CheckConstraint("mode IN ('delete', 'archive', 'restore')", name="mode"),
    CheckConstraint("wanted IN ('pause', 'cancel', 'close', 'fail')", name="wanted"),
    CheckConstraint("(waiting_since IS NULL) = (waiting_until IS NULL)", name="waiting_until"),
    CheckConstraint("(waiting_since IS NULL) = (waiting_for IS NULL)", name="waiting_for"),
    CheckConstraint("state <> 'scheduled' OR run_at IS NOT NULL", name="scheduled_for_some_time"),
    CheckConstraint("(run_window IS NULL) = (closes_at IS NULL)", name="window_closes"),
    Index("jobs_by_age_idx", "company_id", "created_at", "id"),
    Index("jobs_by_campaign_idx", "company_id", "campaign_id", "created_at", "id"),
    Index(
        "jobs_by_reference_idx",
        "company_id",
        "client_reference",
        "created_at",
        "id",
        postgresql_where=text("client_reference IS NOT NULL"),
    ),
    Index(
        "jobs_active_idx",
        "queue",
        "company_id",
        "queued_at",
        "id",
        postgresql_where=text("state IN ('queued', 'running')"),
    ),
    Index("jobs_running_idx", "id", postgresql_where=text("state = 'running'")),
    Index("jobs_by_state_idx", "company_id", "state", "created_at", "id"),
    Index("jobs_due_idx", "run_at", postgresql_where=text("state = 'scheduled'")),
    Index(
        "jobs_closing_idx",
        "closes_at",
        postgresql_where=text("closes_at IS NOT NULL AND state IN ('queued', 'running')"),
    ),
    Index(
        "jobs_paced_idx",
        "paced_at",
        postgresql_where=text("paced_at IS NOT NULL AND state IN ('queued', 'running')"),
    ),
    Index("jobs_wanted_idx", "id", postgresql_where=text("wanted IS NOT NULL")),
    # One retry, one execution, one restoration of a job, whoever asks how often.
    Index(
        "jobs_source_key",
        "source_job_id",
        "mode",
        unique=True,
        postgresql_where=text("source_job_id IS NOT NULL"),
    ),
    Index(
        "jobs_to_purge_idx",
        "finished_at",
        postgresql_where=text("identifiers_purged_at IS NULL AND finished_at IS NOT NULL"),
    ),
    Index(
        "jobs_archive_to_purge_idx",
        "finished_at",
        postgresql_where=text(
            "mode = 'archive' AND archive_purged_at IS NULL AND finished_at IS NOT NULL"
        ),
    ),
)

# Entries and outcomes are arrays, all of one length: a row a lead would nearly halve the speed.
chunks = Table(
    "chunks",
    metadata,
    Column("job_id", Uuid, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column(
        "number", Integer, primary_key=True, autoincrement=False, comment="from 0, in request order"
    ),
    Column(
        "first_index", Integer, nullable=False, comment="index in the request of the first entry"
    ),
    Column(
        "external_ids",
        ARRAY(Text),
        nullable=False,
        comment="canonical; null elements where missing",
    ),
    Column("phone_numbers", ARRAY(Text), nullable=False, comment="as external_ids"),
    Column(
        "written_external_ids",
        ARRAY(Text),
        comment="as the caller wrote them; null: as external_ids",
    ),
    Column(
        "written_phone_numbers",
        ARRAY(Text),
        comment="as the caller wrote them; null: as phone_numbers",
    ),
    Column("outcomes", ARRAY(SmallInteger), nullable=False, comment="shared.states.Outcome"),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    Column(
        "retry_at",
        _TIME,
        nullable=False,
        server_default=text("'-infinity'"),
        comment="claimable from then on",
    ),
    Column(
        "lead_ids",
        ARRAY(BigInteger),
        comment="of a preview: the leads found; of what follows one: those to take, no other",
    ),
    Column("lead_external_ids", ARRAY(Text), comment="as they were then"),
    Column("lead_phone_numbers", ARRAY(Text), comment="as they were then"),
    Column("deleted", Integer, nullable=False, server_default="0"),
    Column("would_delete", Integer, nullable=False, server_default="0"),
    Column("restored", Integer, nullable=False, server_default="0"),
    Column("conflict", Integer, nullable=False, server_default="0"),
    Column(
        "not_found",
        Integer,
        nullable=False,
        server_default="0",
        comment="before it is done: its duplicates",
    ),
    Column("unprocessed", Integer, nullable=False, server_default="0"),
    Column("invalid", Integer, nullable=False, server_default="0"),
    Column("erased", Integer, nullable=False, server_default="0"),
    Column("lacks_plus", Integer, nullable=False, server_default="0"),
    Column("other_external_id", Integer, nullable=False, server_default="0"),
    Column("part_size", Integer, comment="as that of jobs, of this chunk alone"),
    Column(
        "part_seconds",
        SmallInteger,
        comment="that its next entry gets, alone, as it took longer than a part may",
    ),
    Column(
        "locked",
        Integer,
        nullable=False,
        server_default="0",
        comment="entries that wait for a lock of somebody else",
    ),
    Column(
        "locked_since",
        _TIME,
        comment="since when there are only such entries left, less the time in which nothing was "
        "tried",
    ),
    Column(
        "held_since",
        _TIME,
        comment="since when the database has not been well whenever it was tried",
    ),
    Column("details", JSONB, comment="what refused an entry, by its position from 0"),
    CheckConstraint("state IN ('pending', 'done')", name="state"),
    # Looked at on INSERT only, since the arrays never change: reading them at every claim would
    # cost 3 % of the drain.
    CheckConstraint(
        "attempts > 0 OR cardinality(external_ids) > 0 AND cardinality(external_ids) = "
        "cardinality(phone_numbers)"
        " AND cardinality(external_ids) = cardinality(outcomes)",
        name="arrays_match",
    ),
    CheckConstraint(
        f"{_SUM} <= cardinality(outcomes) AND (state = 'done') = ({_SUM} = cardinality(outcomes)"
        " AND array_position(outcomes, 0::smallint) IS NULL)",
        name="one_outcome_each_when_done",
    ),
    Index("chunks_pending_idx", "job_id", "number", postgresql_where=text("state = 'pending'")),
)

# No foreign key to jobs: what was deleted can be put back, whatever became of the record.
archived_leads = Table(
    "archived_leads",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("lead_id", BigInteger, primary_key=True, autoincrement=False),
    Column("lead", JSON, comment="the whole row, an operator's own columns too; null: erased"),
    Column("archived_at", _TIME, nullable=False, server_default=text("now()")),
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

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("company_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_hash", LargeBinary, nullable=False, comment="SHA-256 of path, query and body"),
    Column(
        "media_type",
        Text,
        comment="of that request, without parameters; null: stored before it was part of it",
    ),
    Column("job_id", Uuid, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("state", Text, nullable=False, comment="of the job, as it was answered"),
    Column("run_at", _TIME, comment="as it was answered"),
    Column(
        "wait", SmallInteger, nullable=False, comment="seconds that the caller was ready to wait"
    ),
    Column("created_at", _TIME, nullable=False, server_default=_NOW, index=True),
)

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
        "failing_since", _TIME, comment="the first failed attempt since the last that was delivered"
    ),
    Column("secret", LargeBinary, nullable=False, comment="encrypted"),
    Column("old_secrets", JSONB, nullable=False, server_default=text("'[]'"), comment=_OLD_SECRETS),
    Column("created_at", _TIME, nullable=False, server_default=_NOW),
    CheckConstraint("disabled_reason IS NULL OR NOT enabled", name="reason_when_disabled"),
)

# The body is not stored: it is made of the job's row and chunks, which do not change any more, at
# every attempt. What is purged there is purged here.
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
    Column("created_at", _TIME, nullable=False, server_default=_NOW),
    Column("due_at", _TIME, nullable=False, server_default=_NOW, comment="of the next attempt"),
    Column(
        "claimed_until",
        _TIME,
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
    CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state"),
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

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("role", Text, primary_key=True, comment="worker, deliverer or ticker"),
    Column("process", Text, primary_key=True, comment="host:pid"),
    Column("beat_at", _TIME, nullable=False),
    Column(
        "processes",
        SmallInteger,
        nullable=False,
        server_default="1",
        comment="of a worker: those of its pool",
    ),
)
