"""Reads a submission from the raw bytes of its body, and finds the first error in the contract's
order.

FastAPI's own parsing answers NaN and lone surrogates with 500.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple, NoReturn

import msgspec

from api.http.answers import InvalidRequest
from api.http.request import decode_object
from api.jobs.entries import Identifiers, flaw, identified, identified_texts, is_blank
from api.jobs.options import DEFAULTS, NAMES, OPTIONS
from shared.identifiers.names import EXTERNAL_ID, IDENTIFIERS, PHONE_NUMBER, meant, misnamed
from shared.printable import brief

MAX_ENTRIES = 1000
FIELDS = frozenset({"campaignId", "leads", *NAMES})

_ESCAPED_KEY = re.compile(rb'\\[^"]*"\s*:')


class Submission(NamedTuple):
    """A valid submission. `options` are what is to be stored, by column."""

    campaign_id: str
    identifiers: Identifiers
    options: dict[str, Any]


class _Entry(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """An entry with nothing but what it may have."""

    external_id: str | None = None
    phone_number: str | None = None


_Plain = msgspec.defstruct(
    "_Plain",
    [("leads", list[_Entry]), *((name, Any, msgspec.UNSET) for name in sorted(FIELDS - {"leads"}))],
    forbid_unknown_fields=True,
)
_decode_plain = msgspec.json.Decoder(_Plain).decode


def parse(body: bytes) -> Submission:
    """The submission in `body`. Raises InvalidRequest with the first error in the contract's
    order.
    """
    return _plainly_parsed(body) or _carefully_parsed(body)


def _plainly_parsed(body: bytes) -> Submission | None:
    """The submission in a body without anything unusual, as nearly every body is; None where a
    closer look is due.

    The struct refuses keys that are not known. A key that is given twice is noticed by counting:
    each must be in the text as often as it has a value.
    """
    if b"\\" in body:
        return None
    try:
        plain: Any = _decode_plain(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    fields = {
        name: value
        for name in plain.__struct_fields__
        if (value := getattr(plain, name)) is not msgspec.UNSET
    }
    entries = fields.pop("leads")
    external_ids = [entry.external_id for entry in entries]
    phone_numbers = [entry.phone_number for entry in entries]
    times = dict.fromkeys([*fields, "leads"], 1)
    times[EXTERNAL_ID] = len(entries) - external_ids.count(None)
    times[PHONE_NUMBER] = len(entries) - phone_numbers.count(None)
    if not 0 < len(entries) <= MAX_ENTRIES:
        return None
    if any(body.count(b'"%b"' % name.encode()) != times[name] for name in times):
        return None
    options = parse_options(fields)
    campaign_id = parse_campaign_id(fields.get("campaignId"))
    try:
        identifiers = identified_texts(
            external_ids, phone_numbers, options["phone_region"], strict=False
        )
    except ValueError:
        return None
    return Submission(campaign_id, identifiers, options)


def _carefully_parsed(body: bytes) -> Submission:
    fields = decode_object(body, FIELDS)
    options = parse_options(fields)
    campaign_id = parse_campaign_id(fields.get("campaignId"))
    entries = parse_leads(fields, "bulk delete")
    return Submission(campaign_id, _identifiers(entries, body, options["phone_region"]), options)


def is_quickly_parsed(body: bytes) -> bool:
    """Whether parse() needs no library for the phone numbers in `body`, which takes some 60 µs for
    each.
    """
    return b"/" not in body and b"(0" not in body and b"phoneRegion" not in body


def parse_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What `fields` say of the options, by column; null counts as missing. Raises
    InvalidRequest.
    """
    options = DEFAULTS.copy()
    for option in OPTIONS:
        value = fields.get(option.name)
        if value is not None:
            options[option.column] = option.checked(value)
    return options


def parse_leads(fields: Mapping[str, Any], what: str) -> list[Any]:
    """The `leads` of a request for `what`, not yet looked at. Raises InvalidRequest."""
    entries = fields.get("leads")
    if not isinstance(entries, list):
        raise InvalidRequest("leads array is required")
    if not entries:
        raise InvalidRequest("leads array cannot be empty")
    if len(entries) > MAX_ENTRIES:
        raise InvalidRequest(f"Maximum {MAX_ENTRIES} leads per {what} request")
    return entries


def parse_campaign_id(value: Any) -> str:
    """Raises InvalidRequest where it is missing or blank."""
    if value is not None and not isinstance(value, str):
        raise InvalidRequest("campaignId must be a string")
    if value is None or is_blank(value):
        raise InvalidRequest("campaignId is required")
    return value


def _identifiers(entries: list[Any], body: bytes, region: str | None) -> Identifiers:
    names: Mapping[int, str] = {}
    try:
        external_ids, phone_numbers = (
            [entry.get(name) for entry in entries] for name in IDENTIFIERS
        )
        names = errors_in_names(
            entries, (external_ids, phone_numbers), body, partial(names_in_entries, body)
        )
        if names:
            raise_first_error(entries, names, region)
        return identified(external_ids, phone_numbers, region, strict=False)
    except (AttributeError, ValueError, RecursionError):
        raise_first_error(entries, names, region)


def errors_in_names(
    entries: Sequence[dict[str, Any]],
    columns: Sequence[list[Any]],
    text: bytes,
    written: Callable[[], Iterable[list[str]]],
) -> dict[int, str]:
    """What is wrong with the keys of `entries`, by index: one that may mean an identifier and is
    not called so, or an identifier that is given twice.

    The entries were decoded from `text`; `columns` are their values of IDENTIFIERS. `written` gives
    the keys of each entry as they are written: of two equal ones the decoder keeps only one. Nearly
    always counting is enough: each identifier is in the text as often as it has a value, and there
    is no other key.
    """
    given = [len(values) - values.count(None) for values in columns]
    in_text = [text.count(b'"%b"' % name.encode()) for name in IDENTIFIERS]
    is_escaped = b"\\" in text and _ESCAPED_KEY.search(text)
    if given == in_text and sum(map(len, entries)) == sum(given) and not is_escaped:
        return {}
    errors = {}
    if any(map(meant, set().union(*entries).difference(IDENTIFIERS))):
        for index, entry in enumerate(entries):
            if wrong := misnamed(entry):
                name = brief(wrong.name)
                errors[index] = f"{name} may be the {wrong.identifier}; name it so, or leave it out"
    named = [sum(map(dict.__contains__, entries, repeat(name))) for name in IDENTIFIERS]
    if is_escaped or in_text != named:
        for index, names in enumerate(written()):
            for name in IDENTIFIERS:
                if names.count(name) > 1:
                    errors[index] = f"{name} is given twice"
    return errors


def names_in_entries(body: bytes) -> list[list[str]]:
    """The keys of each entry of a body, repeated ones too. Raises RecursionError for what is nested
    too deeply.
    """
    fields = dict(json.loads(body, object_pairs_hook=list))
    return [[name for name, _ in pairs] for pairs in fields["leads"]]


def raise_first_error(entries: list[Any], names: Mapping[int, str], region: str | None) -> NoReturn:
    """Raises InvalidRequest for the first entry that is wrong; one at least is. `names` has what is
    wrong with keys, by index.
    """
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InvalidRequest(f"leads[{index}] must be an object")
        if index in names:
            raise InvalidRequest(f"leads[{index}]: {names[index]}")
        if wrong := flaw(entry.get(EXTERNAL_ID), entry.get(PHONE_NUMBER), region, strict=False):
            raise InvalidRequest(f"leads[{index}]: {wrong.text}")
    # An entry is nested more deeply than its keys can be read.
    raise InvalidRequest("Request body is not valid JSON")
