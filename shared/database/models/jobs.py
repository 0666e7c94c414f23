"""Jobs, and the requests that they came with.

A count of outcomes is a column of `jobs` and of `chunks`: what is added to shared.states stands in
both, and in the sums that are checked, once a migration has added it.
"""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from shared.database.models.schema import NOW, TIME, metadata
from shared.identifiers.canonical import FORM
from shared.states import (
    ACTIVE_STATES,
    COUNT_COLUMNS,
    COUNTS,
    FINAL_STATES,
    SUM_OF_COUNTS,
    JobState,
    Mode,
    PhoneFallback,
    Request,
    quoted,
)

_COMMENTS = {"deleted": "frozen when the job finishes, as all counts"}
_IS_ACTIVE = f"state IN ({quoted(ACTIVE_STATES)})"

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
        TIME,
        comment="of a job with max_leads_per_second: when the next may be claimed",
    ),
    Column("total", Integer, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("run_at", TIME, comment="with a window: its next or current opening"),
    Column(
        "closes_at",
        TIME,
        comment="when the window that opens at run_at shuts: nothing is claimed from then on",
    ),
    Column("started_at", TIME),
    Column("finished_at", TIME),
    Column(
        "queued_at",
        TIME,
        nullable=False,
        server_default=NOW,
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
    Column("identifiers_purged_at", TIME),
    Column("archive_purged_at", TIME),
    *(Column(name, Integer, comment=_COMMENTS.get(name)) for name in COUNT_COLUMNS),
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
    Column(
        "part_size",
        Integer,
        comment="entries of a chunk that are worked on at once, as they take long; null: all",
    ),
    Column("waiting_for", JSONB, comment="why nothing goes on: reason, detail, sqlstate"),
    Column("waiting_since", TIME, comment="the first failure since something was done"),
    Column(
        "recovered_at",
        TIME,
        comment="when something of it could be changed again, after the database had not been well",
    ),
    Column("waiting_until", TIME, comment="when one chunk is tried again; null: all are"),
    Column(
        "first_pending",
        Integer,
        nullable=False,
        server_default="0",
        comment="all chunks before this one are done; written down now and then",
    ),
    CheckConstraint(
        f"phone_fallback_rule IN ({quoted(PhoneFallback)})",
        name="phone_fallback_rule",
    ),
    CheckConstraint(f"state IN ({quoted(JobState)})", name="state"),
    CheckConstraint("total > 0", name="total"),
    CheckConstraint("max_leads_per_second > 0", name="max_leads_per_second"),
    CheckConstraint(
        f"CASE WHEN state IN ({quoted(FINAL_STATES)}) THEN finished_at IS NOT NULL"
        f" AND wanted IS NULL AND coalesce({SUM_OF_COUNTS} = total, false)"
        f" ELSE finished_at IS NULL AND coalesce({', '.join(COUNTS)}) IS NULL END",
        name="counts_when_finished",
    ),
    CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name="error_when_failed"),
    CheckConstraint(f"mode IN ({quoted(Mode)})", name="mode"),
    CheckConstraint(f"wanted IN ({quoted(Request)})", name="wanted"),
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
        postgresql_where=text(_IS_ACTIVE),
    ),
    Index("jobs_running_idx", "id", postgresql_where=text("state = 'running'")),
    Index("jobs_by_state_idx", "company_id", "state", "created_at", "id"),
    Index("jobs_due_idx", "run_at", postgresql_where=text("state = 'scheduled'")),
    Index(
        "jobs_closing_idx",
        "closes_at",
        postgresql_where=text(f"closes_at IS NOT NULL AND {_IS_ACTIVE}"),
    ),
    Index(
        "jobs_paced_idx",
        "paced_at",
        postgresql_where=text(f"paced_at IS NOT NULL AND {_IS_ACTIVE}"),
    ),
    Index("jobs_wanted_idx", "id", postgresql_where=text("wanted IS NOT NULL")),
    # A job has one retry, one execution and one restoration, however often they are asked for.
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
    Column("run_at", TIME, comment="as it was answered"),
    Column(
        "wait", SmallInteger, nullable=False, comment="seconds that the caller was ready to wait"
    ),
    Column("created_at", TIME, nullable=False, server_default=NOW, index=True),
)
