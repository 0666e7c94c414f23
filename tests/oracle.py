"""What the contract says becomes of each entry, as a plain function of entries and leads. It shares no code with the product.

The text it follows, in short: canonical identifiers; an entry that repeats an earlier one's identifier is a duplicate and never
looked up; the others, cut into chunks in request order, are decided chunk by chunk in two passes, externalId first, then phone.
"""

import re
from dataclasses import dataclass, field
from itertools import groupby

_ENDS = re.compile(r"\A[ \t\n\r\f\v\u00a0]+|[ \t\n\r\f\v\u00a0]+\Z")
_INSIDE = re.compile(r"[ \t\n\r\f\v\u00a0.()-]")

DELETED_BY_EXTERNAL_ID = ("deleted", "externalId", None)
DELETED_BY_PHONE_NUMBER = ("deleted", "phoneNumber", None)
NO_SUCH_LEAD = ("notFound", None, "noSuchLead")
DUPLICATE = ("notFound", None, "duplicate")
REFUSED = ("unprocessed", None, "refused")


def canonical_external_id(written):
    """The identifier as it is compared; None where it counts as missing."""
    return _ENDS.sub("", written) or None if written is not None else None


def canonical_phone_number(written):
    """As canonical_external_id."""
    if written is None:
        return None
    bare = _INSIDE.sub("", written)
    return re.sub(r"\A00", "+", bare) or None


@dataclass(frozen=True)
class Lead:
    """A lead as it is stored: canonical identifiers."""

    campaign: str
    external_id: str | None
    phone_number: str | None


@dataclass
class Verdict:
    """What becomes of a job: an outcome for each entry, and the leads that stay."""

    outcomes: list = field(default_factory=list)
    remaining: set = field(default_factory=set)


def judge(entries, leads, *, campaign, chunk_size=1000, phone_fallback=True, refused=frozenset(), of_file=False):
    """Decides `entries`, pairs of (externalId, phoneNumber) as written, over `leads`; `refused` leads can't be deleted.

    The chunks of a file have `chunk_size` entries, those of a request so many that are no duplicates.
    """
    canonical = [(canonical_external_id(e), canonical_phone_number(p)) for e, p in entries]
    outcomes: list = [None] * len(entries)
    seen = set()
    looked_up = []
    for i, (external_id, number) in enumerate(canonical):
        key = ("externalId", external_id) if external_id else ("phoneNumber", number)
        if key in seen:
            outcomes[i] = DUPLICATE
        else:
            seen.add(key)
            looked_up.append(i)
    here = [lead for lead in leads if lead.campaign == campaign]
    present = {
        kind: {getattr(lead, kind): lead for lead in here if getattr(lead, kind)} for kind in ("external_id", "phone_number")
    }
    for _, chunk in groupby(enumerate(looked_up), lambda one: one[of_file] // chunk_size):
        _judge_chunk([i for _, i in chunk], canonical, outcomes, present, phone_fallback, refused)
    left = set(present["external_id"].values()) | set(present["phone_number"].values())
    return Verdict(outcomes, left | {lead for lead in leads if lead.campaign != campaign})


def _judge_chunk(chunk, canonical, outcomes, present, phone_fallback, refused):
    """`present` has the campaign's leads by external id and by number; those that are deleted are taken out of it."""
    taken = {}

    def find(kind, identifier):
        lead = present[kind].get(identifier)
        return None if lead in taken else lead

    def take(i, lead, outcome):
        taken[lead] = None
        outcomes[i] = REFUSED if lead in refused else outcome

    for i in chunk:
        external_id, _ = canonical[i]
        if external_id and (lead := find("external_id", external_id)):
            take(i, lead, DELETED_BY_EXTERNAL_ID)
    by_number = [i for i in chunk if not outcomes[i] and canonical[i][1] and (phone_fallback or not canonical[i][0])]
    for i in by_number:
        if lead := find("phone_number", canonical[i][1]):
            take(i, lead, DELETED_BY_PHONE_NUMBER)
    taken_numbers = {lead.phone_number for lead in taken}
    twice = {i for i in by_number if canonical[i][1] in taken_numbers}
    for i in chunk:
        outcomes[i] = outcomes[i] or (DUPLICATE if i in twice else NO_SUCH_LEAD)
    for lead in set(taken) - set(refused):
        for kind, leads in present.items():
            leads.pop(getattr(lead, kind), None)
