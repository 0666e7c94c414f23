"""Loads the rows of a file into `leads` fast, and accounts for every one of them.

COPY puts all rows into a temporary table, the rejected ones with their reason; one INSERT in file
order then lets the unique indexes decide which leads are new. Each staged row draws its lead's id
beforehand, and the rows that the INSERT left out are found by that id afterwards. So the counts
are true also when somebody else writes leads at the same moment.
"""

from collections.abc import Iterator
from typing import NamedTuple

from leadsweep.terminal.failure import Failure
from leadsweep.terminal.progress import Show
from psycopg import Connection as DriverConnection
from sqlalchemy import Connection, text

from cli.leads.rows import Row

ROWS_AT_A_TIME = 50_000  # that are inserted, between two updates of the progress


class Tally(NamedTuple):
    """How many rows became leads, and how many did not."""

    imported: int
    rejected: int


class Rejection(NamedTuple):
    """Why the row that begins at `line` did not become a lead."""

    line: int
    reason: str


_STAGE = text("""
    CREATE TEMPORARY TABLE staged (
        line bigint NOT NULL,
        external_id text,
        phone_number text,
        metadata jsonb,
        reason text,
        lead_id bigint NOT NULL DEFAULT nextval('leads_id_seq')
    ) ON COMMIT DROP
""")

_COPY = "COPY staged (line, external_id, phone_number, metadata, reason) FROM STDIN"

_INDEX = text("CREATE UNIQUE INDEX ON staged (lead_id)")

_ANALYZE = text("ANALYZE staged")

# In file order, so that of two rows with one identifier the first one wins.
_INSERT = text("""
    INSERT INTO leads (id, campaign_id, external_id, phone_number, metadata)
    SELECT lead_id, :campaign_id, external_id, phone_number, metadata FROM staged
    WHERE reason IS NULL AND lead_id >= :first AND lead_id < :first + :rows ORDER BY line
    ON CONFLICT DO NOTHING
""")

# Rows draw their ids in file order. Others may draw some in between: then fewer rows are inserted
# at once.
_IDS = text("SELECT min(lead_id) AS first, max(lead_id) AS last FROM staged")

# Which lead has the identifier already: that of an earlier row of this file (a later row cannot be
# the reason), or an older lead.
_EXPLAIN = text("""
    UPDATE staged SET reason = CASE
            WHEN coalesce(external_id_line, 0) < left_out.line AND external_id_taken
            THEN 'externalId ' || coalesce(
                'repeats line ' || external_id_line, 'belongs to a lead that is already there'
            )
            WHEN coalesce(phone_number_line, 0) < left_out.line AND phone_number_taken
            THEN 'phoneNumber ' || coalesce(
                'repeats line ' || phone_number_line, 'belongs to a lead that is already there'
            )
            ELSE 'collided with a change made meanwhile; import this row again'
        END
    FROM (
        SELECT mine.lead_id, mine.line,
            by_external_id.id IS NOT NULL AS external_id_taken,
            external_id_row.line AS external_id_line,
            by_phone_number.id IS NOT NULL AS phone_number_taken,
            phone_number_row.line AS phone_number_line
        FROM staged mine
        LEFT JOIN leads by_external_id
            ON by_external_id.campaign_id = :campaign_id
            AND by_external_id.external_id = mine.external_id
        LEFT JOIN staged external_id_row ON external_id_row.lead_id = by_external_id.id
        LEFT JOIN leads by_phone_number
            ON by_phone_number.campaign_id = :campaign_id
            AND by_phone_number.phone_number = mine.phone_number
        LEFT JOIN staged phone_number_row ON phone_number_row.lead_id = by_phone_number.id
        WHERE mine.reason IS NULL AND NOT EXISTS (SELECT FROM leads WHERE leads.id = mine.lead_id)
    ) left_out
    WHERE staged.lead_id = left_out.lead_id
""")

_REJECTIONS = text("SELECT line, reason FROM staged WHERE reason IS NOT NULL ORDER BY line")


def import_leads(
    connection: Connection, campaign_id: str, rows: Iterator[Row], show_progress: Show
) -> Tally:
    """Imports `rows` into a campaign that exists; the caller commits. Raises Failure if the counts
    do not add up.

    `show_progress` is called once all rows have been read.
    """
    connection.execute(_STAGE)
    total, rejected = _copy(connection, rows)
    show_progress("preparing")
    connection.execute(_INDEX)
    connection.execute(_ANALYZE)
    imported = _insert(connection, campaign_id, total, show_progress)
    if imported + rejected < total:
        show_progress("looking for what rows repeat")
        rejected += connection.execute(_EXPLAIN, {"campaign_id": campaign_id}).rowcount
    if imported + rejected != total:
        raise Failure(
            "nothing was imported: leads have ids that the sequence leads_id_seq has yet to give",
            "advance it: SELECT setval('leads_id_seq', max(id)) FROM leads",
        )
    return Tally(imported, rejected)


def _insert(connection: Connection, campaign_id: str, total: int, show_progress: Show) -> int:
    """Inserts the staged rows, and returns how many became leads."""
    ids = connection.execute(_IDS).one()
    imported = 0
    for first in range(ids.first or 0, (ids.last or -1) + 1, ROWS_AT_A_TIME):
        show_progress("writing", min(first - ids.first, total), total, "rows")
        imported += connection.execute(
            _INSERT, {"campaign_id": campaign_id, "first": first, "rows": ROWS_AT_A_TIME}
        ).rowcount
    return imported


def rejections(connection: Connection) -> Iterator[Rejection]:
    """The rows that `import_leads` left out, in file order, streamed; only within the same
    transaction.
    """
    streamed = connection.execute(_REJECTIONS, execution_options={"yield_per": 1000})
    return (Rejection(row.line, row.reason) for row in streamed)


def _copy(connection: Connection, rows: Iterator[Row]) -> tuple[int, int]:
    """Copies the rows into `staged`. Returns how many there were, and how many had a reason."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, DriverConnection):
        raise TypeError("COPY needs psycopg")
    total = rejected = 0
    with driver.cursor().copy(_COPY) as copy:
        for row in rows:
            copy.write_row(row)
            total += 1
            rejected += row.reason is not None
    return total, rejected
