"""What the contract says becomes of each entry, as a plain function of entries, leads and archive.
It shares no code with the product.

The text it follows, in short: canonical identifiers; an entry that repeats an earlier one's
identifier is a duplicate and never looked up; the others, cut into chunks in request order, are
decided chunk by chunk in two passes, externalId first, then phone. What a deletion names is erased
in the archive as well.
"""

import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import groupby

_BLANK = r"\t\n\v\f\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_UNSEEN = (
    r"\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u2064\u2066-\u206f\u3164\ufeff\uffa0"
)
_MARKS = (
    r".()\u058a\u2010-\u2015\u2043\u207b\u208b\u2212\u2e3a\u2e3b\u301c\u30fc\ufe58\ufe63\uff0d\uff0e\uff08\uff09\u00b7\u2024"
    r"\u30fb\uff65\u20e3\ufe0e\ufe0f-"
)
_ENDS = re.compile(rf"\A[{_BLANK}{_UNSEEN}]+|[{_BLANK}{_UNSEEN}]+\Z")
_INSIDE = re.compile(rf"[{_BLANK}{_UNSEEN}{_MARKS}]")
_FLOAT = re.compile(r"[+-]?[0-9]+([.,][0-9]*)?[Ee][+-]?[0-9]+|[+-]?[0-9]+[.,]0+")
_FLOAT_NUMBER = re.compile(
    r"[+-]?[0-9]+([.,][0-9]*)?[Ee][+-]?[0-9]+|\+?[0-9]{7,}[.,]0+|\+?[0-9]{4,}[.,][0-9]{1,2}"
)

_ZEROS = ("\uff10", "\u0660", "\u06f0")  # of the digits in full width, Arabic and Persian
# Blocks to which nothing that combines is added any more.
_STABLE = re.compile(
    r"[\u0001-\u052f\u0900-\u097f\u0e01-\u0e5b\u1100-\u11ff\u1e00-\u206f\u20a0-\u20bf\u2100-\u218b\u3000-\u30ff"
    r"\u3131-\u318e\u4e00-\u9fef\uac00-\ud7a3\uf900-\ufa6d\uff01-\uffee]*"
)

DELETED_BY_EXTERNAL_ID = ("deleted", "externalId", None)
DELETED_BY_PHONE_NUMBER = ("deleted", "phoneNumber", None)
NO_SUCH_LEAD = ("notFound", None, "noSuchLead")
DUPLICATE = ("notFound", None, "duplicate")
REFUSED = ("unprocessed", None, "refused")
AMBIGUOUS_NUMBER = ("notFound", None, "ambiguousNumber")
OTHER_EXTERNAL_ID = ("notFound", None, "otherExternalId")
LACKS_PLUS = ("notFound", None, "lacksPlus")
SPREADSHEET_NUMBER = ("notFound", None, "spreadsheetNumber")
ERASED = ("notFound", None, "erased")
RESTORED = ("restored", None, None)
CONFLICT = ("conflict", None, None)


def canonical_external_id(written):
    """The identifier as it is compared; None where it counts as missing."""
    if written is None:
        return None
    trimmed = _ENDS.sub("", written)
    return (
        unicodedata.normalize("NFC", trimmed) if _STABLE.fullmatch(trimmed) else trimmed
    ) or None


def canonical_phone_number(written):
    """As canonical_external_id; also None where it is no number."""
    bare = bare_phone_number(written)
    digits = bare.removeprefix("+")
    is_number = (
        re.fullmatch("[0-9]{3,20}", digits)
        and len(set(digits)) > 1
        and not _is_float_number(written)
    )
    return bare if is_number else None


def bare_phone_number(written):
    """What is left of it, a number or not; empty where nothing is."""
    plain = _INSIDE.sub("", "".join(map(_plain, written or "")))
    return re.sub(r"\A00", "+", re.sub(r"\A(tel:)+", "", plain, flags=re.ASCII | re.IGNORECASE))


def _plain(character):
    for zero in _ZEROS:
        if 0 <= ord(character) - ord(zero) <= 9:
            return str(ord(character) - ord(zero))
    return "+" if character in "\uff0b\ufe62" else character


def _is_float_number(written):
    return bool(_FLOAT_NUMBER.fullmatch(re.sub(rf"[{_BLANK}{_UNSEEN}]", "", written)))


@dataclass(frozen=True)
class Lead:
    """A lead as it is stored: canonical identifiers."""

    campaign: str
    external_id: str | None
    phone_number: str | None


@dataclass
class Verdict:
    """What becomes of a job: an outcome for each entry, which entries erased copies, the leads and
    the copies that stay.

    `others` are the entries that took a lead with another externalId than theirs.
    """

    outcomes: list = field(default_factory=list)
    erased: set = field(default_factory=set)
    others: set = field(default_factory=set)
    remaining: set = field(default_factory=set)
    copies: list = field(default_factory=list)


@dataclass
class _Entry:
    external_id: str | None
    number: str | None
    rival: str | None
    written: tuple


def judge(
    entries,
    leads,
    *,
    campaign,
    chunk_size=1000,
    phone_fallback=True,
    refused=frozenset(),
    of_file=False,
    copies=(),
    readings=None,
):
    """Decides `entries`, pairs of (externalId, phoneNumber) as written, over `leads`; `refused`
    leads can't be deleted.

    The chunks of a file have `chunk_size` entries, those of a request so many that are no
    duplicates. `copies` are the leads in the archive that a deletion erases. `readings` has the
    valid number, in the job's phoneRegion, of digits without a plus.
    """
    read = [_read(e, p, readings or {}) for e, p in entries]
    outcomes: list = [None] * len(entries)
    seen = set()
    looked_up = []
    for i, entry in enumerate(read):
        key = (
            ("externalId", entry.external_id)
            if entry.external_id
            else ("phoneNumber", entry.number)
        )
        if key[1] is None and of_file:
            outcomes[i] = ("invalid", None, _why_no_number(entry))
        elif key in seen and key[1]:
            outcomes[i] = DUPLICATE
        else:
            seen.add(key)
            looked_up.append(i)
    ground = _Ground(
        [lead for lead in leads if lead.campaign == campaign],
        [(at, copy) for at, copy in enumerate(copies) if copy.campaign == campaign],
    )
    verdict = Verdict(outcomes)
    for _, chunk in groupby(enumerate(looked_up), lambda one: one[of_file] // chunk_size):
        _judge_chunk({i: read[i] for _, i in chunk}, verdict, ground, phone_fallback, refused)
    verdict.remaining = set(ground.leads) | {lead for lead in leads if lead.campaign != campaign}
    left = {at for at, _ in ground.copies}
    verdict.copies = [
        copy if copy.campaign != campaign or at in left else None for at, copy in enumerate(copies)
    ]
    return verdict


class _Ground:
    """The campaign's leads, which are found by either identifier, and its copies with their
    places.
    """

    def __init__(self, leads, copies):
        self.leads = set(leads)
        self.copies = copies
        self._by = {kind: defaultdict(list) for kind in ("external_id", "phone_number")}
        for kind, found in self._by.items():
            for lead in leads:
                found[getattr(lead, kind)].append(lead)

    def named(self, kind, identifier):
        return [lead for lead in self._by[kind].get(identifier, ()) if lead in self.leads]

    def has_number(self, number, *, identified=False):
        everybody = [
            *self.named("phone_number", number),
            *(copy for _, copy in self.copies if copy.phone_number == number),
        ]
        return any(one.external_id or not identified for one in everybody)


def _read(external_id, written, readings):
    number, bare = canonical_phone_number(written), bare_phone_number(written)
    if bare.startswith("+") or bare not in readings:
        return _Entry(canonical_external_id(external_id), number, None, (external_id, written))
    read = readings[bare]
    return _Entry(
        canonical_external_id(external_id),
        read,
        f"+{bare}" if f"+{bare}" != read else None,
        (external_id, written),
    )


def _why_no_number(entry):
    return "spreadsheetNumber" if _is_float_number(entry.written[1]) else "notAPhoneNumber"


def _judge_chunk(  # noqa: C901 - the whole rule in one place
    chunk, verdict, ground, phone_fallback, refused
):
    outcomes = verdict.outcomes
    taken, erased = {}, []
    ambiguous = {i for i, entry in chunk.items() if entry.rival and ground.has_number(entry.rival)}

    def note_other(i, lead):
        if chunk[i].external_id and lead.external_id not in {None, chunk[i].external_id}:
            verdict.others.add(i)

    def take(i, lead, outcome):
        taken[lead] = i
        outcomes[i] = REFUSED if lead in refused else outcome
        note_other(i, lead)

    def erase(i, copy, outcome):
        ground.copies.remove(copy)
        erased.append(copy[1])
        if outcomes[i] != REFUSED:
            outcomes[i] = outcome
            verdict.erased.add(i)
        note_other(i, copy[1])

    for i, entry in chunk.items():
        if entry.external_id:
            for lead in ground.named("external_id", entry.external_id):
                take(i, lead, DELETED_BY_EXTERNAL_ID)
            for copy in [
                copy for copy in ground.copies if copy[1].external_id == entry.external_id
            ]:
                erase(i, copy, DELETED_BY_EXTERNAL_ID)
    by_number = {
        i: entry
        for i, entry in chunk.items()
        if not outcomes[i]
        and entry.number
        and i not in ambiguous
        and (phone_fallback or not entry.external_id)
    }
    lone_only = phone_fallback == "onlyIfUnidentified"
    for i, entry in by_number.items():
        for lead in ground.named("phone_number", entry.number):
            if lead not in taken and not (lone_only and lead.external_id):
                take(i, lead, DELETED_BY_PHONE_NUMBER)
    gone_by_phone = {
        lead.external_id: i for lead, i in taken.items() if outcomes[i] == DELETED_BY_PHONE_NUMBER
    }
    for copy in list(ground.copies):
        _, person = copy
        named = [
            i
            for i, e in by_number.items()
            if e.number == person.phone_number and not (lone_only and person.external_id)
        ]
        if person.external_id in gone_by_phone and person.external_id:
            named.append(gone_by_phone[person.external_id])
        if named:
            erase(min(named), copy, DELETED_BY_PHONE_NUMBER)
    gone = {lead.phone_number for lead in [*taken, *erased]} - {None}
    ground.leads -= taken.keys() - refused
    for i, entry in chunk.items():
        if not outcomes[i]:
            outcomes[i] = _why_nothing(entry, i, by_number, ambiguous, gone, ground, lone_only)


def _why_nothing(entry, i, by_number, ambiguous, gone, ground, lone_only):  # noqa: PLR0911 - one for each reason
    if not entry.external_id and not entry.number:
        return ("notFound", None, _why_no_number(entry))
    if i in by_number and entry.number in gone:
        return DUPLICATE
    if i in ambiguous:
        return AMBIGUOUS_NUMBER
    if i in by_number and lone_only and ground.has_number(entry.number, identified=True):
        return OTHER_EXTERNAL_ID
    if i in by_number and f"+{entry.number}" not in gone and ground.has_number(f"+{entry.number}"):
        return LACKS_PLUS
    if entry.external_id and _FLOAT.fullmatch(entry.external_id):
        return SPREADSHEET_NUMBER
    return NO_SUCH_LEAD
