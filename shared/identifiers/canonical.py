"""Canonical identifiers: the form in which an externalId or a phone number is compared, however it
is written.

The rules are one closed table of code points. They use no property of Unicode, since Python and
PostgreSQL know different versions of Unicode. The database has the same functions in SQL
(`sql_functions` makes them of this table), a trigger applies them to `leads`, and a property test
holds both sides against each other. Applied twice, they change nothing more.

Nothing here guesses at a country: what a number means as it is written in its country,
shared.identifiers.phone_regions says.
"""

import re
import unicodedata

# The version of these rules. Leads and jobs that were written by an older one are read again.
FORM = 2

# Ignored at the ends of an id, and anywhere in a number. Control characters other than white space
# are not ignored: nobody types them.
BLANKS = (
    "\t\n\v\f\r \u0085\u00a0\u1680"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
FORMAT_CHARACTERS = (
    "\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064"
    "\u2066\u2067\u2068\u2069\u206a\u206b\u206c\u206d\u206e\u206f\u3164\ufeff\uffa0"
)
IGNORED = BLANKS + FORMAT_CHARACTERS

# Ignored in a number besides, in full width too: dots, dashes, parentheses, and the marks that make
# a digit a picture.
PUNCTUATION = (
    ".-()\u058a\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u207b\u208b\u2212\u2e3a\u2e3b\u301c\u30fc\ufe58\ufe63\uff0d\uff0e"
    "\uff08\uff09\u00b7\u2024\u30fb\uff65\u20e3\ufe0e\ufe0f"
)

# Other forms of digits and plus: full width, and the digits of Arabic and Persian keyboards.
DIGITS = {
    chr(zero + digit): str(digit) for zero in (0xFF10, 0x0660, 0x06F0) for digit in range(10)
} | {
    "\uff0b": "+",
    "\ufe62": "+",
}

# Blocks in which the normal form NFC is the same in every version of Unicode that we may meet, as
# nothing that combines can be added to them any more. A text with any other character is compared
# as it was written.
NFC_BLOCKS = (
    "\u0001-\u052f\u0900-\u097f\u0e01-\u0e5b\u1100-\u11ff\u1e00-\u206f\u20a0-\u20bf\u2100-\u218b\u3000-\u30ff\u3131-\u318e"
    "\u4e00-\u9fef\uac00-\ud7a3\uf900-\ufa6d\uff01-\uffee"
)

_NOISE = str.maketrans(DIGITS | dict.fromkeys(IGNORED + PUNCTUATION, ""))
_SPELLING = str.maketrans(
    DIGITS
    | dict.fromkeys(IGNORED, "")
    | {"\uff0e": ".", "\uff0c": ",", "\uff25": "E", "\uff45": "e", "\u2212": "-"}
)
_STABLE = re.compile(f"[{NFC_BLOCKS}]*")
_SCHEME = re.compile("(?:[Tt][Ee][Ll]:)+")
_NUMBER = re.compile(r"\+?([0-9])(?!\1*\Z)[0-9]{2,19}")
# As spreadsheets and data frames write a number: 15555550000.0, 1.5555550000E+10, in some countries
# with a comma.
_FLOAT = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]*)?[Ee][+-]?[0-9]+|[+-]?[0-9]+[.,]0+")
_FLOAT_NUMBER = re.compile(
    rf"{_FLOAT.pattern.partition('|')[0]}|\+?[0-9]{{7,}}[.,]0+|\+?[0-9]{{4,}}[.,][0-9]{{1,2}}"
)


def canonical_external_id(text: str) -> str:
    """`text` without blanks and format characters at either end, in NFC; empty means that there is
    no identifier.
    """
    trimmed = text.strip(IGNORED)
    if trimmed.isascii() or not _STABLE.fullmatch(trimmed):
        return trimmed
    return unicodedata.normalize("NFC", trimmed)


def canonical_phone_number(text: str) -> str:
    """`text` with ASCII digits, without blanks, format characters, punctuation and `tel:`, and with
    `+` for a leading `00`.

    An empty result means that there is no number. The result need not be a number at all:
    `is_phone_number` tells.
    """
    bare = text.translate(_NOISE)
    if scheme := _SCHEME.match(bare):
        bare = bare[scheme.end() :]
    return "+" + bare[2:] if bare.startswith("00") else bare


def is_phone_number(canonical: str) -> bool:
    """Whether a canonical form is one: an optional `+` and 3 to 20 digits that are not all
    alike.
    """
    return _NUMBER.fullmatch(canonical) is not None


def is_spreadsheet_number(phone_number: str) -> bool:
    """Whether a phone number is written with a decimal point or an exponent: its digits alone would
    be somebody else's number.
    """
    return _FLOAT_NUMBER.fullmatch(phone_number.translate(_SPELLING)) is not None


def is_spreadsheet_id(external_id: str) -> bool:
    """Whether an id looks like what a spreadsheet has made of a number: 12345.0, 1.0E+05."""
    return _FLOAT.fullmatch(external_id.translate(_SPELLING)) is not None


def sql_functions() -> str:
    """The statements that give the database the same rules. A migration to this FORM executes them.

    Most texts are ASCII, in which only a few of the characters can be: if all were looked for, an
    import would take twice as long.
    """
    meant, written_so = "".join(DIGITS.values()), "".join(DIGITS)
    trimmed = f"btrim(written, {_literal(IGNORED)})"
    return f"""
CREATE OR REPLACE FUNCTION leadsweep_canonical_external_id(written text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN nullif(
    CASE
        WHEN octet_length(written) = length(written)
        THEN btrim(written, {_literal(_ascii(IGNORED))})
        WHEN {trimmed} ~ {_literal(f"^[{NFC_BLOCKS}]*$")} THEN normalize({trimmed}, NFC)
        ELSE {trimmed}
    END, '');

CREATE OR REPLACE FUNCTION leadsweep_canonical_phone_number(written text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN nullif(
    regexp_replace(
        regexp_replace(
            CASE
                WHEN octet_length(written) = length(written)
                THEN translate(written, {_literal(_ascii(IGNORED + PUNCTUATION))}, '')
                ELSE translate(written, {_literal(written_so + IGNORED + PUNCTUATION)}, '{meant}')
            END,
            '^([Tt][Ee][Ll]:)+', ''),
        '^00', '+'), '');

CREATE OR REPLACE FUNCTION leadsweep_is_phone_number(canonical text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    canonical ~ '^\\+?[0-9]{{3,20}}$' AND canonical !~ '^\\+?([0-9])\\1*$';
"""


def _ascii(text: str) -> str:
    return "".join(filter(str.isascii, text))


def _literal(text: str) -> str:
    """`text` as a string of SQL, in ASCII."""
    written = "".join(c if " " <= c <= "~" and c not in "'\\" else f"\\u{ord(c):04x}" for c in text)
    return f"E'{written}'"


# The former rules, for leads that were stored by them.

_FORMER_SPACE = " \t\n\r\f\v\u00a0"
_FORMER_NOISE = str.maketrans("", "", _FORMER_SPACE + ".-()")


def former_external_id(text: str) -> str:
    """As form 1 had it."""
    return text.strip(_FORMER_SPACE)


def former_phone_number(text: str) -> str:
    """As form 1 had it."""
    bare = text.translate(_FORMER_NOISE)
    return "+" + bare[2:] if bare.startswith("00") else bare
