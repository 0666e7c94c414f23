"""Copies of leads in the archive: which there are, and how a deletion erases them. These are only
statements; the API and the worker execute them each in its own way.

An erased copy keeps its row, with nothing in it, so that a restoration can tell what became of it.
Erasing takes three statements of one transaction: lock the copies, delete the leads, look at the
archive again. So a deletion that has waited for an archive job finds the leads in the archive, to
which that job has moved them; and a deletion and a restoration wait for each other's locks.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import text

from shared.database.arrays import text_array
from shared.database.plans import BY_INDEX

_EXTERNAL_ID = "leadsweep_canonical_external_id(lead ->> 'external_id')"
_PHONE_NUMBER = "leadsweep_canonical_phone_number(lead ->> 'phone_number')"


def _places(column: str, identifiers: str, condition: str = "true") -> str:
    """A query for the keys of copies that looks each identifier up in an index. OFFSET keeps the
    planner, which may know nothing of the table yet, from reading all copies of the campaign.
    """
    return f"""
        SELECT job_id, lead_id
        FROM unnest(CAST({identifiers} AS text[])) AS given (identifier) CROSS JOIN LATERAL (
            SELECT job_id, lead_id FROM archived_leads
            WHERE lead ->> 'campaign_id' = :campaign_id AND {column} = identifier AND {condition}
                AND {BY_INDEX} OFFSET 0
        ) AS copy
    """


def _copies(lock: str = "") -> str:
    """A query for the copies that are named, in the order in which a restoration takes them too."""
    by_number = _places(
        _PHONE_NUMBER,
        ":phone_numbers",
        f"(NOT CAST(:unidentified AS boolean) OR {_EXTERNAL_ID} IS NULL)",
    )
    return f"""
        SELECT copy.* FROM (
            SELECT job_id, lead_id
            FROM ({_places(_EXTERNAL_ID, ":external_ids")} UNION {by_number}) AS named
            ORDER BY job_id, lead_id
        ) AS place CROSS JOIN LATERAL (
            SELECT job_id, lead_id, {_EXTERNAL_ID} AS external_id, {_PHONE_NUMBER} AS phone_number
            FROM archived_leads
            WHERE job_id = place.job_id AND lead_id = place.lead_id AND lead IS NOT NULL
                AND {BY_INDEX} {lock}
        ) AS copy
    """


HAS_ARCHIVE = f"""
    (
        SELECT true FROM archived_leads WHERE lead ->> 'campaign_id' = :campaign_id
        ORDER BY {_EXTERNAL_ID} LIMIT 1
    ) IS NOT NULL
"""
"""Whether the campaign has any copy. It is sorted as the index is, so that the index is read
whatever the planner believes: EXISTS might read everything archived of other campaigns first.
"""

FIND = text(_copies())
HOLD = text(_copies("FOR UPDATE"))

ERASE = text(f"""
    WITH copy AS MATERIALIZED ({_copies("FOR UPDATE")})
    UPDATE archived_leads SET lead = NULL FROM copy
    WHERE archived_leads.job_id = copy.job_id AND archived_leads.lead_id = copy.lead_id
    RETURNING copy.external_id, copy.phone_number
""")

NUMBERS = text(f"""
    SELECT identifier FROM unnest(CAST(:phone_numbers AS text[])) AS given (identifier)
    WHERE EXISTS (
        SELECT FROM archived_leads
        WHERE lead ->> 'campaign_id' = :campaign_id AND {_PHONE_NUMBER} = identifier
            AND (NOT CAST(:identified AS boolean) OR {_EXTERNAL_ID} IS NOT NULL)
            AND {BY_INDEX} OFFSET 0
    )
""")
"""Those of the phone numbers that copies have. If `identified`, only copies with an external id
count.
"""


def named(
    campaign_id: str,
    external_ids: Iterable[str] = (),
    phone_numbers: Iterable[str] = (),
    *,
    unidentified: bool = False,
) -> dict[str, Any]:
    """The parameters that name the copies of a campaign with one of these canonical identifiers. If
    `unidentified`, phone numbers name only copies that have no external id.
    """
    return {
        "campaign_id": campaign_id,
        "external_ids": text_array(external_ids),
        "phone_numbers": text_array(phone_numbers),
        "unidentified": unidentified,
    }
