"""Tells which columns of a file, or keys of an entry, are meant as an identifier of the lead and
would not be read as one.

If `external_id` were ignored without a word, a deletion by id would become one by phone number,
which may be another person's. So a name like ours is always refused. A name that others use for an
identifier is refused where that identifier has no column or key of its own.
"""

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from .canonical import IGNORED

EXTERNAL_ID, PHONE_NUMBER = "externalId", "phoneNumber"
IDENTIFIERS = (EXTERNAL_ID, PHONE_NUMBER)

_LEFT_OUT = str.maketrans("", "", IGNORED + "_-.\"'`´‘’‚“”„«»‹›′″")  # noqa: RUF001 - quotes of all kinds
_OURS = {name.lower(): name for name in IDENTIFIERS}

# What CRMs, diallers and phone books call them, without case, blanks and so on.
_NAMES_OF_OTHERS = {
    EXTERNAL_ID: """
        id extid extref externalidentifier externalref externalreference externalkey crmid crmref
        crmkey leadid leadref leadkey leadexternalid contactid customerid clientid recordid personid
        accountid sourceid foreignid uuid guid salesforceid sfid hubspotid zohoid pipedriveid
        vendorid vendorleadcode
    """,
    PHONE_NUMBER: """
        phone phoneno phonenum phonenr phone1 phonenumber1 primaryphone mainphone homephone
        workphone businessphone contactphone contactnumber mobile mobileno mobilenumber mobilephone
        mobilephonenumber msisdn telephone telephoneno telephonenumber tel telno telnr telnumber
        cell cellno cellnumber cellphone cellphonenumber cellular e164 e164number ani callerid
        telefon telefonnummer rufnummer handy handynummer mobil mobilnummer telefono teléfono
        telefone téléphone celular movil móvil portable
    """,
}
_OF_OTHERS = {
    name: identifier for identifier, names in _NAMES_OF_OTHERS.items() for name in names.split()
}


class Misnamed(NamedTuple):
    """A name that is refused, and the identifier that it may be."""

    name: str
    identifier: str


def misnamed(names: Iterable[str]) -> Misnamed | None:
    """The first of the names of one entry, or of one file's columns, that may mean an identifier
    and would not be read as one.
    """
    there = dict.fromkeys(names)  # in their order, and quick to look up: a header may have 300,000
    for name in there:
        identifier = meant(name)
        if (
            identifier
            and name != identifier
            and (_folded(name) in _OURS or identifier not in there)
        ):
            return Misnamed(name, identifier)
    return None


def meant(name: str) -> str | None:
    """The identifier that `name` stands for, as we or others call it; None if it means something
    else.
    """
    return _known(name) if len(name) <= _LONGEST_KNOWN else _meant(name)


def _meant(name: str) -> str | None:
    folded = _folded(name)
    return _OURS.get(folded) or _OF_OTHERS.get(folded)


# The meanings of long names are not kept: a caller may send keys of a megabyte each.
_LONGEST_KNOWN = 64
_known = lru_cache(maxsize=4096)(_meant)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).translate(_LEFT_OUT).casefold()
