"""Finds a table that is locked as a whole, so that nothing in it can be changed."""

from sqlalchemy import Connection, text

_LOCKED = text("""
    WITH RECURSIVE going (relation) AS (
        SELECT unnest(ARRAY['leads', 'archived_leads', 'campaigns']::regclass[])::oid
        UNION
        SELECT conrelid FROM pg_constraint JOIN going ON confrelid = relation
        WHERE contype = 'f' AND relation <> 'campaigns'::regclass
    )
    SELECT relation::regclass::text FROM pg_locks JOIN going USING (relation)
    WHERE locktype = 'relation' AND granted AND pid <> pg_backend_pid()
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND mode = ANY(
            CASE relation
            WHEN 'campaigns'::regclass THEN '{ExclusiveLock, AccessExclusiveLock}'::text[]
            ELSE '{ShareLock, ShareRowExclusiveLock, ExclusiveLock, AccessExclusiveLock}' END
        )
    LIMIT 1
""")


def locked_table(connection: Connection) -> str | None:
    """The name of a table that somebody has locked: of leads, campaigns, or what refers to leads.
    None where there is none.
    """
    table: str | None = connection.execute(_LOCKED).scalar_one_or_none()
    return table
