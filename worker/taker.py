"""Deletes leads by identifier, in the transaction of their chunk. Two ways, one meaning: all at once, which is fast, and
halving around the leads that the database refuses to delete, which is for chunks in which it refused one.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from psycopg import errors
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from shared.arrays import text_array
from worker.decider import Column, Take, TakenLead

# `= ANY(sorted array)` takes row locks in index order: two jobs over the same leads seldom meet head-on.
_DELETE = {
    "external_id": text("""
        DELETE FROM leads WHERE campaign_id = :campaign_id AND external_id = ANY(CAST(:identifiers AS text[]))
        RETURNING external_id, phone_number, false
    """),
    "phone_number": text("""
        DELETE FROM leads WHERE campaign_id = :campaign_id AND phone_number = ANY(CAST(:identifiers AS text[]))
        RETURNING external_id, phone_number, false
    """),
}

_FIND_REFUSED = {
    "external_id": text("""
        SELECT external_id, phone_number, true FROM leads
        WHERE campaign_id = :campaign_id AND external_id = ANY(CAST(:identifiers AS text[]))
    """),
    "phone_number": text("""
        SELECT external_id, phone_number, true FROM leads
        WHERE campaign_id = :campaign_id AND phone_number = ANY(CAST(:identifiers AS text[]))
    """),
}


def is_refusal(error: DBAPIError) -> bool:
    """Whether the database forbids to delete a lead: an operator's foreign key or other constraint, or a trigger's RAISE."""
    return isinstance(error.orig, errors.IntegrityError | errors.RaiseException)


def fast_taker(connection: Connection, campaign_id: str) -> Take:
    """Takes leads with one DELETE. Raises DBAPIError, for which `is_refusal` may hold."""
    return partial(_take_all, connection, campaign_id)


def careful_taker(connection: Connection, campaign_id: str) -> Take:
    """Takes leads with as many DELETEs as it needs to single out those that the database refuses."""
    # A deferred foreign key would refuse at COMMIT, when it is too late to say which lead.
    connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
    return partial(_take_around_refused, connection, campaign_id)


def _take_all(connection: Connection, campaign_id: str, column: Column, identifiers: Sequence[str]) -> Iterable[TakenLead]:
    rows = connection.execute(_DELETE[column], {"campaign_id": campaign_id, "identifiers": text_array(identifiers)})
    return rows.cursor.fetchall() if rows.cursor else []


def _take_around_refused(
    connection: Connection, campaign_id: str, column: Column, identifiers: Sequence[str]
) -> Iterator[TakenLead]:
    parameters = {"campaign_id": campaign_id, "identifiers": text_array(identifiers)}
    try:
        with connection.begin_nested():
            taken = connection.execute(_DELETE[column], parameters).all()
    except DBAPIError as error:
        if not is_refusal(error):
            raise
    else:
        yield from map(TakenLead._make, taken)
        return
    if len(identifiers) == 1:
        yield from map(TakenLead._make, connection.execute(_FIND_REFUSED[column], parameters))
        return
    middle = len(identifiers) // 2
    for half in (identifiers[:middle], identifiers[middle:]):
        yield from _take_around_refused(connection, campaign_id, column, half)
