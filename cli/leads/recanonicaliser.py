"""Rewrites the identifiers of stored leads in this version's canonical form, a few leads at a time,
beside everything else that goes on.

A lead stays as it is where another lead has the new identifier, or where nothing is left of it:
people must decide who that is. Until no such lead is left, look-ups try both forms.
"""

from collections.abc import Iterator
from typing import NamedTuple

from leadsweep.terminal.failure import Failure
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from shared.database.sqlstates import is_clash, is_refusal
from shared.identifiers.canonical import FORM

LEADS_AT_A_TIME = 5000  # in one transaction, for which workers may have to wait: some 50 ms
TRIES = 5  # of a transaction that clashes with others

# Which of the next leads, by id, are not in canonical form.
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

# The trigger of the table rewrites them.
_CHANGE = text(
    "UPDATE leads SET external_id = external_id, phone_number = phone_number WHERE id = ANY(:ids)"
)

_DONE = text("UPDATE canonical_forms SET form = :form WHERE form < :form")


class Progress(NamedTuple):
    """The leads `looked_at` and `changed` so far, and the ids of those `left` as they were."""

    looked_at: int
    changed: int
    left: list[int]


def recanonicalise(connection: Connection) -> Iterator[Progress]:
    """Goes through all leads, in transactions of its own, and yields its progress after each.
    Raises Failure, DBAPIError.
    """
    looked_at = changed = after = 0
    left: list[int] = []
    while True:
        with connection.begin():
            batch = connection.execute(_NEXT, {"after": after, "most": LEADS_AT_A_TIME}).one()
        if batch.last is None:
            break
        refused = _change(connection, list(batch.stale))
        after = batch.last
        looked_at += batch.looked_at
        changed += len(batch.stale) - len(refused)
        left += refused
        yield Progress(looked_at, changed, left)
    if not left:
        with connection.begin():
            connection.execute(_DONE, {"form": FORM})


def _change(connection: Connection, ids: list[int]) -> list[int]:
    """Changes these leads. Returns those that the database refuses to change, found by halving."""
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
                id_ for half in (ids[:middle], ids[middle:]) for id_ in _change(connection, half)
            ]
        return []
    raise Failure(
        "other sessions hold locks on leads that are to be changed",
        "run it again when the database is less busy; what is done stays done",
    )
