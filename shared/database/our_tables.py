"""Tells whether the tables of a database are ours or another application's, which must be left
alone.
"""

from sqlalchemy import Connection, text

from shared.database.models import metadata

_NAMES_SHOWN = 5

# `taken` has those names of our tables that something has already, be it a view or a type.
#
# `ours` looks for a column that no other application has. A version alone does not tell: another
# application's revisions may be numbered as ours are.
_THERE = text("""
    SELECT to_regclass('alembic_version') IS NOT NULL AS has_version, EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = to_regclass('chunks') AND attname = 'written_external_ids'
    ) AS ours, ARRAY(
        SELECT name FROM unnest(CAST(:names AS text[])) AS name
        WHERE EXISTS (
            SELECT FROM pg_class
            WHERE relname = name AND relnamespace = to_regnamespace(quote_ident(current_schema()))
        ) OR EXISTS (
            SELECT FROM pg_type
            WHERE typname = name AND typnamespace = to_regnamespace(quote_ident(current_schema()))
        )
        ORDER BY name
    ) AS taken
""")

# It names no column, as another application's table may have others.
_VERSIONED = text("SELECT EXISTS (SELECT FROM alembic_version)")

WAY_OUT = "give Leadsweep a database of its own: createdb leadsweep, and name it in DATABASE_URL"


def strangers(connection: Connection) -> str | None:
    """Says what another application has in the place of our tables. None where the place is free,
    or everything in it is ours.
    """
    there = connection.execute(_THERE, {"names": sorted(metadata.tables)}).one()
    versioned = there.has_version and connection.execute(_VERSIONED).scalar_one()
    if there.ours and versioned:
        return None
    if there.taken:
        names = ", ".join(there.taken[:_NAMES_SHOWN])
        names += ", …" if len(there.taken) > _NAMES_SHOWN else ""
        return f"the database already has {names}, which Leadsweep has not made"
    if versioned:
        return "the database has an alembic_version of another application"
    return None
