"""Reads a submission from the raw bytes of its body, and finds the first error in the contract's order.

A body without errors, which is nearly every one, is checked all entries at once; only where that finds something unusual are
the entries gone through one by one, to say which and what. FastAPI's own parsing answers NaN and lone surrogates with 500.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import msgspec

from api.checker import checked_url
from api.errors import InvalidRequest
from api.scheduling import Schedule, parse_schedule
from shared.identifiers import canonical_external_id, canonical_phone_number
from shared.states import Mode

MAX_ENTRIES = 1000
MAX_EXTERNAL_ID = 255  # code points, before trimming
MAX_PHONE_NUMBER = 32
MAX_REFERENCE = 255

FIELDS = frozenset({"campaignId", "leads", "clientReference", "phoneFallback", "mode", "dryRun", "schedule", "callbackUrl"})

_decode = msgspec.json.Decoder().decode
_TEXT_OR_NOTHING = {str, type(None)}
# What shared.identifiers takes away.
_SPACE = " \t\n\r\f\v\u00a0"
_NOISE = _SPACE + ".-()"

Texts = Sequence[str | None]


class Submission(NamedTuple):
    """A valid submission: four sequences of one length, None where an identifier is missing or blank, and the options."""

    campaign_id: str
    external_ids: Texts
    phone_numbers: Texts
    canonical_external_ids: Texts
    canonical_phone_numbers: Texts
    client_reference: str | None
    phone_fallback: bool
    mode: Mode
    dry_run: bool
    schedule: Schedule | None
    callback_url: str | None


def parse(body: bytes) -> Submission:
    """The submission in `body`. Raises InvalidRequest with the first error in the contract's order."""
    fields = decode_object(body, FIELDS)
    reference, fallback = _reference(fields.get("clientReference")), checked_flag(fields, "phoneFallback", default=True)
    mode, dry_run = _mode(fields.get("mode")), checked_flag(fields, "dryRun", default=False)
    schedule = parse_schedule(fields.get("schedule"))
    callback_url = None if fields.get("callbackUrl") is None else checked_url("callbackUrl", fields["callbackUrl"])
    campaign_id = _campaign_id(fields.get("campaignId"))
    entries = fields.get("leads")
    if not isinstance(entries, list):
        raise InvalidRequest("leads array is required")
    if not entries:
        raise InvalidRequest("leads array cannot be empty")
    if len(entries) > MAX_ENTRIES:
        raise InvalidRequest("Maximum 1000 leads per bulk delete request")
    return Submission(campaign_id, *_identifiers(entries), reference, fallback, mode, dry_run, schedule, callback_url)


def decode_object(body: bytes, known: frozenset[str]) -> dict[str, Any]:
    """The fields of the JSON object in `body`. Raises InvalidRequest for anything else, and for a field that is not `known`."""
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
            raise InvalidRequest(f"Unknown field: {_printable(name)}")
    return decoded


def _may_repeat_a_key(body: bytes, decoded: dict[str, Any], known: frozenset[str]) -> bool:
    """Whether a closer look is due: the decoder keeps the last of two equal keys and says nothing."""
    return b"\\" in body or not decoded.keys() <= known or any(body.count(b'"%b"' % name.encode()) > 1 for name in decoded)


def _refuse_repeated_keys(text: str) -> None:
    """Raises ValueError if the object in `text`, known to be valid JSON, has a key twice at its top level."""
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
    """`value`, if it is a text that can be stored and is not too long. Raises InvalidRequest that names `field`."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{field} must be a string")
    if len(value) > MAX_REFERENCE:
        raise InvalidRequest(f"{field} is longer than {MAX_REFERENCE} characters")
    if "\0" in value:
        raise InvalidRequest(f"{field} contains U+0000")
    return value


def checked_flag(fields: dict[str, Any], name: str, *, default: bool) -> bool:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be a boolean")
    return value


def _mode(value: Any) -> Mode:
    if value is None:
        return Mode.DELETE
    if value not in (Mode.DELETE, Mode.ARCHIVE):
        raise InvalidRequest("mode must be delete or archive")
    return Mode(value)


def _campaign_id(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise InvalidRequest("campaignId must be a string")
    if value is None or not canonical_external_id(value):
        raise InvalidRequest("campaignId is required")
    return value


def _identifiers(entries: list[Any]) -> tuple[Texts, Texts, Texts, Texts]:
    """The four sequences of Submission."""
    try:
        external_ids: list[Any] = [entry.get("externalId") for entry in entries]
        phone_numbers: list[Any] = [entry.get("phoneNumber") for entry in entries]
    except AttributeError:
        _raise_first_error(entries)
    if not {*map(type, external_ids), *map(type, phone_numbers)} <= _TEXT_OR_NOTHING:
        _raise_first_error(entries)
    try:
        canonical_ids = _canonical(external_ids, MAX_EXTERNAL_ID, _unusual_in_ids, canonical_external_id)
        canonical_numbers = _canonical(phone_numbers, MAX_PHONE_NUMBER, _unusual_in_numbers, canonical_phone_number)
    except ValueError:
        _raise_first_error(entries)
    if (None, None) in zip(canonical_ids, canonical_numbers, strict=True):
        _raise_first_error(entries)
    return (
        _as_written(external_ids, canonical_ids),
        _as_written(phone_numbers, canonical_numbers),
        canonical_ids,
        canonical_numbers,
    )


def _canonical(
    written: list[str | None], longest: int, unusual: Callable[[str], bool], canonical: Callable[[str], str]
) -> list[str | None]:
    """The canonical form of each, None where that is empty. Raises ValueError if any is too long or has U+0000.

    All are looked at as one long text first: nearly always it has nothing `unusual`, and each is its own canonical form.
    """
    present = list(filter(None, written))
    joined = "\0".join(present)
    if present and (max(map(len, present)) > longest or joined.count("\0") >= len(present)):
        raise ValueError
    if unusual(joined):
        return [canonical(text) or None if text else None for text in written]
    return [text or None for text in written]


def _unusual_in_ids(joined: str) -> bool:
    return any(map(joined.__contains__, _SPACE))


def _unusual_in_numbers(joined: str) -> bool:
    return any(map(joined.__contains__, _NOISE)) or joined.startswith("00") or "\x0000" in joined


def _as_written(written: list[str | None], canonical: list[str | None]) -> list[str | None]:
    """`canonical` itself where nothing was written otherwise; blank identifiers count as missing."""
    if written == canonical:
        return canonical
    return [text if kept else None for text, kept in zip(written, canonical, strict=True)]


def _raise_first_error(entries: list[Any]) -> NoReturn:
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InvalidRequest(f"leads[{index}] must be an object")
        _check_entry(f"leads[{index}]:", entry.get("externalId"), entry.get("phoneNumber"))
    raise AssertionError("an error was seen in the entries, but not in any of them")


def _check_entry(where: str, external_id: Any, phone_number: Any) -> None:
    named = (("externalId", external_id, MAX_EXTERNAL_ID), ("phoneNumber", phone_number, MAX_PHONE_NUMBER))
    for name, value, _ in named:
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"{where} {name} must be a string")
    if not canonical_external_id(external_id or "") and not canonical_phone_number(phone_number or ""):
        raise InvalidRequest(f"{where} At least one of phoneNumber or externalId is required")
    for name, value, longest in named:
        if value and len(value) > longest:
            raise InvalidRequest(f"{where} {name} is longer than {longest} characters")
    for name, value, _ in named:
        if value and "\0" in value:
            raise InvalidRequest(f"{where} {name} contains U+0000")


def _printable(name: str) -> str:
    """A field's name as it can stand in an error: short, and nothing that a terminal or a log would act on."""
    return "".join(character if character.isprintable() else "?" for character in name[:64])
