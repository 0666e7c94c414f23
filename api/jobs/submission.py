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

from api.http.callback_urls import checked_url
from api.http.answers import InvalidRequest
from api.jobs.entries import Identifiers, flaw, identified, identified_texts
from api.jobs.schedules import Schedule, parse_schedule
from shared.identifiers.canonical import canonical_external_id
from shared.identifiers.names import EXTERNAL_ID, IDENTIFIERS, PHONE_NUMBER, meant, misnamed
from shared.identifiers.phone_regions import is_region
from shared.printable import brief
from shared.states import Mode, PhoneFallback

MAX_ENTRIES = 1000
MAX_REFERENCE = 255
MAX_RATE = 1_000_000  # leads a second; more than any database deletes

OPTIONS = (
    "clientReference",
    "phoneFallback",
    "phoneRegion",
    "mode",
    "dryRun",
    "schedule",
    "callbackUrl",
    "maxLeadsPerSecond",
)
FIELDS = frozenset({"campaignId", "leads", *OPTIONS})

_decode = msgspec.json.Decoder().decode

_ESCAPED_KEY = re.compile(rb'\\[^"]*"\s*:')


class Options(NamedTuple):
    """How a job is to be done: as JSON has it, or the query of a file."""

    client_reference: str | None
    phone_fallback: PhoneFallback
    phone_region: str | None
    mode: Mode
    dry_run: bool
    schedule: Schedule | None
    callback_url: str | None
    max_leads_per_second: int | None


class Submission(NamedTuple):
    """A valid submission."""

    campaign_id: str
    identifiers: Identifiers
    options: Options


class _Entry(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An entry with nothing but what it may have."""

    externalId: str | None = None  # noqa: N815 - as it is in JSON
    phoneNumber: str | None = None  # noqa: N815


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
    """The submission in a body without anything unusual, which nearly every one is; None where a
    closer look is due.

    No key is there that is not known, and none twice: each is in the text as often as it has a
    value.
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
    external_ids, phone_numbers = (
        [entry.externalId for entry in entries],
        [entry.phoneNumber for entry in entries],
    )
    named = dict.fromkeys([*fields, "leads"], 1)
    named |= {
        EXTERNAL_ID: len(entries) - external_ids.count(None),
        PHONE_NUMBER: len(entries) - phone_numbers.count(None),
    }
    if not 0 < len(entries) <= MAX_ENTRIES or any(
        body.count(b'"%b"' % name.encode()) != times for name, times in named.items()
    ):
        return None
    options = parse_options(fields)
    campaign_id = parse_campaign_id(fields.get("campaignId"))
    try:
        identifiers = identified_texts(
            external_ids, phone_numbers, options.phone_region, strict=False
        )
    except ValueError:
        return None
    return Submission(campaign_id, identifiers, options)


def _carefully_parsed(body: bytes) -> Submission:
    fields = decode_object(body, FIELDS)
    options = parse_options(fields)
    campaign_id = parse_campaign_id(fields.get("campaignId"))
    entries = parse_leads(fields, "bulk delete")
    return Submission(campaign_id, _identifiers(entries, body, options.phone_region), options)


def is_quickly_parsed(body: bytes) -> bool:
    """Whether parse() needs no library for the phone numbers in `body`, which takes some 60 µs for
    each.
    """
    return b"/" not in body and b"(0" not in body and b"phoneRegion" not in body


def parse_options(fields: Mapping[str, Any]) -> Options:
    """The options among `fields`; null counts as missing. Raises InvalidRequest."""
    return Options(
        _reference(fields.get("clientReference")),
        _phone_fallback(fields.get("phoneFallback")),
        parse_region(fields.get("phoneRegion")),
        _mode(fields.get("mode")),
        checked_flag(fields, "dryRun", default=False),
        parse_schedule(fields.get("schedule")),
        None
        if fields.get("callbackUrl") is None
        else checked_url("callbackUrl", fields["callbackUrl"]),
        parse_rate(fields.get("maxLeadsPerSecond")),
    )


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


def parse_rate(value: Any) -> int | None:
    """The `maxLeadsPerSecond`, None for as fast as it goes. Raises InvalidRequest."""
    if value is None:
        return None
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 1 <= value <= MAX_RATE
        or value % 1
    ):
        raise InvalidRequest(f"maxLeadsPerSecond must be an integer from 1 to {MAX_RATE}")
    return int(value)  # to JSON, 5.0 is an integer too


def decode_object(body: bytes, known: frozenset[str]) -> dict[str, Any]:
    """The fields of the JSON object in `body`. Raises InvalidRequest for anything else, and for a
    field that is not `known`.
    """
    try:
        decoded = _decode(body)
        if not isinstance(decoded, dict):
            raise InvalidRequest("Request body must be an object")
        if _may_repeat_a_key(body, decoded, known):
            _refuse_repeated_keys(body.decode())
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise InvalidRequest("Request body is not valid JSON") from None
    for name in decoded:
        if name not in known:
            raise InvalidRequest(f"Unknown field: {brief(name)}")
    return decoded


def _may_repeat_a_key(body: bytes, decoded: dict[str, Any], known: frozenset[str]) -> bool:
    """Whether a closer look is due: the decoder keeps the last of two equal keys and says
    nothing.
    """
    return (
        b"\\" in body
        or not decoded.keys() <= known
        or any(body.count(b'"%b"' % name.encode()) > 1 for name in decoded)
    )


def _refuse_repeated_keys(text: str) -> None:
    """Raises ValueError if the object in `text`, known to be valid JSON, has a key twice at its top
    level.
    """
    objects: list[list[tuple[str, Any]]] = []
    json.loads(text, object_pairs_hook=objects.append)
    outermost = objects[-1]  # it is the last to be complete
    if len(dict(outermost)) < len(outermost):
        raise ValueError("repeated key")


def _reference(value: Any) -> str | None:
    if value is None:
        return None
    return checked_text("clientReference", value)


def checked_text(field: str, value: Any) -> str:
    """`value`, if it is a text that can be stored and is not too long. Raises InvalidRequest that
    names `field`.
    """
    if not isinstance(value, str):
        raise InvalidRequest(f"{field} must be a string")
    if len(value) > MAX_REFERENCE:
        raise InvalidRequest(f"{field} is longer than {MAX_REFERENCE} characters")
    if "\0" in value:
        raise InvalidRequest(f"{field} contains U+0000")
    return value


def checked_flag(fields: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be a boolean")
    return value


def _phone_fallback(value: Any) -> PhoneFallback:
    if value is None:
        return PhoneFallback.ALWAYS
    for rule in PhoneFallback:
        if value is rule.written or value == rule == PhoneFallback.IF_UNIDENTIFIED:
            return rule
    raise InvalidRequest("phoneFallback must be true, false or onlyIfUnidentified")


def parse_region(value: Any) -> str | None:
    """The `phoneRegion`, None where none is named. Raises InvalidRequest."""
    if value is None:
        return None
    if not isinstance(value, str) or not is_region(value):
        raise InvalidRequest("phoneRegion must be an ISO 3166 country code, as DE")
    return value


def _mode(value: Any) -> Mode:
    if value is None:
        return Mode.DELETE
    if value not in (Mode.DELETE, Mode.ARCHIVE):
        raise InvalidRequest("mode must be delete or archive")
    return Mode(value)


def parse_campaign_id(value: Any) -> str:
    """Raises InvalidRequest where it is missing or blank."""
    if value is not None and not isinstance(value, str):
        raise InvalidRequest("campaignId must be a string")
    if value is None or not canonical_external_id(value):
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
    """What is wrong with the keys of `entries`, decoded from `text`, by index: one that may mean an
    identifier, or that is twice.

    `columns` are the values of IDENTIFIERS; `written` gives the keys of each entry, of two equal
    ones both, which the decoder does not tell. Nearly always counting is enough: each identifier is
    in the text as often as among the values, and there is no other key.
    """
    found = [len(values) - values.count(None) for values in columns]
    in_text = [text.count(b'"%b"' % name.encode()) for name in IDENTIFIERS]
    is_escaped = b"\\" in text and _ESCAPED_KEY.search(text)
    if found == in_text and sum(map(len, entries)) == sum(found) and not is_escaped:
        return {}
    errors = {}
    if any(map(meant, set().union(*entries).difference(IDENTIFIERS))):
        for index, entry in enumerate(entries):
            if wrong := misnamed(entry):
                errors[index] = (
                    f"{brief(wrong.name)} may be the {wrong.identifier}; name it so, or leave it out"
                )
    if is_escaped or in_text != [
        sum(map(dict.__contains__, entries, repeat(name))) for name in IDENTIFIERS
    ]:
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
    """Raises InvalidRequest, for entries of which one has an error; `names` says those in their
    keys.
    """
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InvalidRequest(f"leads[{index}] must be an object")
        if index in names:
            raise InvalidRequest(f"leads[{index}]: {names[index]}")
        if found := flaw(entry.get(EXTERNAL_ID), entry.get(PHONE_NUMBER), region, strict=False):
            raise InvalidRequest(f"leads[{index}]: {found.text}")
    raise InvalidRequest(
        "Request body is not valid JSON"
    )  # nested more deeply than its keys can be looked at
