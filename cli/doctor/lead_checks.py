"""The checks of stored leads: their identifiers, and whether they can be deleted fast."""

from collections.abc import Sequence
from typing import Any

from psycopg import errors
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import DBAPIError

from cli.doctor.check import Check
from shared.database.foreign_keys import without_index
from shared.identifiers.canonical import FORM

_FORM = text("SELECT min(form) FROM canonical_forms")
_RECANONICALISE = "run: leadsweep leads recanonicalise"
# Seconds for looking through all leads. Where that is too short, the check says so.
_LOOK_TIMEOUT = 5
_SHOWN = 5  # leads that are named
_COUNTED = 1000  # leads that are counted, at most

# Leads that are not in canonical form. `holder` is the lead that has the canonical one already.
_STALE = text("""
    SELECT stale.id, (
        SELECT min(other.id) FROM leads AS other
        WHERE other.campaign_id = stale.campaign_id AND other.id <> stale.id AND (
            other.external_id = leadsweep_canonical_external_id(stale.external_id)
            OR other.phone_number = leadsweep_canonical_phone_number(stale.phone_number))
    ) AS holder
    FROM leads AS stale
    WHERE leadsweep_canonical_external_id(external_id) IS DISTINCT FROM external_id
        OR leadsweep_canonical_phone_number(phone_number) IS DISTINCT FROM phone_number
    LIMIT :shown
""")

_NO_NUMBERS = text(
    "SELECT id FROM leads WHERE NOT leadsweep_is_phone_number(phone_number) ORDER BY id LIMIT :most"
)


def forms(connection: Connection) -> Check:
    """Whether all leads are stored in this version's canonical form; until then, look-ups try the
    former one too.
    """
    form = connection.execute(_FORM).scalar_one()
    if form >= FORM:
        return Check(
            "forms", ok=True, finding="identifiers of all leads are in their canonical form"
        )
    stale = _rows_in_time(connection, _STALE)
    if stale is None:
        return Check(
            "forms",
            ok=False,
            finding="leads may have identifiers in the form of an earlier version",
            mend=_RECANONICALISE,
        )
    if not stale:
        return Check(
            "forms",
            ok=False,
            finding="not all identifiers have been checked since the canonical form changed",
            mend=_RECANONICALISE,
        )
    if any(row.holder for row in stale):
        pairs = ", ".join(f"{row.id} (as {row.holder})" for row in stale if row.holder)
        return Check(
            "forms",
            ok=False,
            finding=f"leads with the same identifier, once it is in canonical form, by id: {pairs}",
            mend=f"delete or change one lead of each pair, then {_RECANONICALISE}",
        )
    ids = ", ".join(str(row.id) for row in stale)
    return Check(
        "forms",
        ok=False,
        finding=f"leads with identifiers in the form of an earlier version, by id: {ids}",
        mend=_RECANONICALISE,
    )


def numbers(connection: Connection) -> Check:
    """Whether phone numbers are numbers: no job finds a lead by a text that is not a number."""
    leads = _rows_in_time(connection, _NO_NUMBERS)
    if leads is None:
        return Check(
            "numbers",
            ok=True,
            finding=f"too many leads to look at all phone numbers within {_LOOK_TIMEOUT} s",
        )
    if not leads:
        return Check("numbers", ok=True, finding="all phone numbers of leads are numbers")
    shown = ", ".join(str(lead.id) for lead in leads[:_SHOWN])
    many = f"{_COUNTED} or more" if len(leads) == _COUNTED else str(len(leads))
    return Check(
        "numbers",
        ok=False,
        finding=f"{many} leads have a phone number that is not a number, by id: {shown}",
        mend="set them to a number or to null; to find them: "
        "SELECT * FROM leads WHERE NOT leadsweep_is_phone_number(phone_number)",
    )


def foreign_keys(connection: Connection) -> Check:
    """Whether every table that refers to leads has an index for it: without one, each deletion
    reads the whole table.
    """
    keys = without_index(connection)
    if not keys:
        return Check(
            "foreign keys", ok=True, finding="all tables that refer to leads have an index for it"
        )
    names = ", ".join(f"{key.name} of {key.table}" for key in keys)
    return Check(
        "foreign keys",
        ok=True,
        finding=f"deleting leads is slow, as these foreign keys have no index: {names}",
        mend="; ".join(key.cure for key in keys),
    )


def _rows_in_time(connection: Connection, statement: TextClause) -> Sequence[Any] | None:
    """The rows of `statement`; None where it takes longer than _LOOK_TIMEOUT."""
    try:
        with connection.begin_nested():
            connection.execute(text(f"SET LOCAL statement_timeout = '{_LOOK_TIMEOUT}s'"))
            return connection.execute(statement, {"shown": _SHOWN, "most": _COUNTED}).all()
    except DBAPIError as error:
        if not isinstance(error.orig, errors.QueryCanceled):
            raise
        return None
