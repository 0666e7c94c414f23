"""Brings the identifiers of stored leads into today's canonical form, a little at a time, beside
all else that goes on.

A lead whose new form is another lead's, or says nothing any more, stays as it is: who it is must be
decided by people. Until no such lead is left, look-ups try both forms.
"""

from collections.abc import Iterator
from typing import NamedTuple

from leadsweep.terminal.failure import Failure
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from shared.database.sqlstates import is_clash, is_refusal
from shared.identifiers.canonical import FORM

LEADS = 5000  # of one transaction; workers wait for as long as that takes, some 50 ms
TRIES = 5  # of one that others were in the way of

# Which of the next leads by id are in another form than today's.
_NEXT = text("""
    WITH next_leads AS (
        SELECT id, campaign_id, external_id, phone_number,
            leadsweep_canonical_external_id(external_id) AS new_external_id,
            leadsweep_canonical_phone_number(phone_number) AS new_phone_number
        FROM leads WHERE id > :after ORDER BY id LIMIT :most
    )
    SELECT max(id) AS last, count(*) AS looked_at, coalesce(array_agg(id ORDER BY id) FILTER (
        WHERE new_external_id IS DISTINCT FROM external_id
            OR new_phone_number IS DISTINCT FROM phone_number
    ), '{}') AS stale
    FROM next_leads
""")

# The trigger of the table does it.
_CHANGE = text(
    "UPDATE leads SET external_id = external_id, phone_number = phone_number WHERE id = ANY(:ids)"
)

_DONE = text("UPDATE canonical_forms SET form = :form WHERE form < :form")


class Progress(NamedTuple):
    """How far it is: leads `looked_at` and `changed`, and ids of those `left` as they were."""

    looked_at: int
    changed: int
    left: list[int]


def recanonicalise(connection: Connection) -> Iterator[Progress]:
    """Goes through all leads, in transactions of its own; says how far it is after each. Raises
    Failure, DBAPIError.
    """
    looked_at = changed = after = 0
    left: list[int] = []
    while True:
        with connection.begin():
            some = connection.execute(_NEXT, {"after": after, "most": LEADS}).one()
        if some.last is None:
            break
        stayed = _changed(connection, list(some.stale))
        after, looked_at = some.last, looked_at + some.looked_at
        changed += len(some.stale) - len(stayed)
        left += stayed
        yield Progress(looked_at, changed, left)
    if not left:
        with connection.begin():
            connection.execute(_DONE, {"form": FORM})


def _changed(connection: Connection, ids: list[int]) -> list[int]:
    """Changes these leads; returns those that the database refuses to, found by halving."""
    if not ids:
        return []
    for _ in range(TRIES):
        try:
            with connection.begin():
                connection.execute(_CHANGE, {"ids": ids})
        except DBAPIError as error:
            if is_clash(error):
                continue
            if not is_refusal(error):
                raise
            if len(ids) == 1:
                return ids
            middle = len(ids) // 2
            return [
                id_ for half in (ids[:middle], ids[middle:]) for id_ in _changed(connection, half)
            ]
        return []
    raise Failure(
        "others hold leads that are to be changed",
        "run it again when there is less to do; what is done stays done",
    )
