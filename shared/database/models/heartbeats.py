"""Signs of life of processes."""

from sqlalchemy import Column, SmallInteger, Table, Text

from shared.database.models.schema import TIME, metadata

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("role", Text, primary_key=True, comment="worker, deliverer or ticker"),
    Column("process", Text, primary_key=True, comment="host:pid"),
    Column("beat_at", TIME, nullable=False),
    Column(
        "processes",
        SmallInteger,
        nullable=False,
        server_default="1",
        comment="of a worker: those of its pool",
    ),
)
