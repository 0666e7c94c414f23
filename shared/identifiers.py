"""Canonical identifiers: how an externalId or a phone number is compared, whoever wrote it and however.

The database has the same two functions in SQL (migration 0001) and a trigger that applies them to `leads`; a property test
holds both sides against each other.
"""

_SPACE = " \t\n\r\f\v\u00a0"  # ASCII white space and U+00A0, and nothing else that str.strip() would take
_PHONE_NOISE = str.maketrans("", "", _SPACE + ".-()")


def canonical_external_id(text: str) -> str:
    """`text` without white space at either end; empty means that there is no identifier."""
    return text.strip(_SPACE)


def canonical_phone_number(text: str) -> str:
    """`text` without white space, dots, dashes and parentheses, and with `+` for a leading `00`; may be empty."""
    bare = text.translate(_PHONE_NOISE)
    return "+" + bare[2:] if bare.startswith("00") else bare
