"""The chunks of jobs, with their entries and outcomes."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from shared.database.models.schema import TIME, metadata
from shared.states import COUNT_COLUMNS, SUM_OF_COUNTS, ChunkState, quoted

_COMMENTS = {"not_found": "before it is done: its duplicates"}

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
        TIME,
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
    *(
        Column(name, Integer, nullable=False, server_default="0", comment=_COMMENTS.get(name))
        for name in COUNT_COLUMNS
    ),
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
        TIME,
        comment="since when there are only such entries left, less the time in which nothing was "
        "tried",
    ),
    Column(
        "held_since",
        TIME,
        comment="since when the database has not been well whenever it was tried",
    ),
    Column("details", JSONB, comment="what refused an entry, by its position from 0"),
    CheckConstraint(f"state IN ({quoted(ChunkState)})", name="state"),
    # Looked at on INSERT only, since the arrays never change: reading them at every claim would
    # cost 3 % of the drain.
    CheckConstraint(
        "attempts > 0 OR cardinality(external_ids) > 0"
        " AND cardinality(external_ids) = cardinality(phone_numbers)"
        " AND cardinality(external_ids) = cardinality(outcomes)",
        name="arrays_match",
    ),
    CheckConstraint(
        f"{SUM_OF_COUNTS} <= cardinality(outcomes) AND (state = 'done')"
        f" = ({SUM_OF_COUNTS} = cardinality(outcomes)"
        " AND array_position(outcomes, 0::smallint) IS NULL)",
        name="one_outcome_each_when_done",
    ),
    Index("chunks_pending_idx", "job_id", "number", postgresql_where=text("state = 'pending'")),
)
