"""The parser, which looks at all entries at once, against the contract read entry by entry."""

import json
import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from api.http.answers import InvalidRequest
from api.jobs.submission import FIELDS, parse
from shared.identifiers.canonical import canonical_external_id, canonical_phone_number

LETTERS = 'a0+ \t\n\v\f\r\u00a0.-()\u2003\u200bé😀\0"\\'
WRITTEN = st.text(LETTERS, max_size=5) | st.builds(
    lambda letter, length: letter * length,
    st.sampled_from("x é"),
    st.sampled_from([31, 32, 33, 254, 255, 256]),
)
VALUES = WRITTEN | st.sampled_from([None, 7, True, [], "a", "+101", "00", "0015", "a00"])
ENTRIES = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={"externalId": VALUES, "phoneNumber": VALUES, "note": st.just({"externalId": 1})},
    ),
    st.fixed_dictionaries({"externalId": st.sampled_from(["a", "b", " c"])}),
    st.fixed_dictionaries({"phoneNumber": st.sampled_from(["+101", "00 101", "555"])}),
    st.fixed_dictionaries({"externalId": st.sampled_from(["a", "b", " c"])}),
    st.sampled_from([None, "a", [], 1]) | st.just({"externalId": "a"}),
)


def is_number(canonical, written):
    """Whether it has 3 to 20 digits that are not all alike, and is not what a spreadsheet has made
    of one.
    """
    digits = (canonical or "").removeprefix("+")
    is_float = re.fullmatch(r"\+?\d{4,}\.\d\d?|\+?\d{7,}\.0+", written or "", re.ASCII)
    return re.fullmatch("[0-9]{3,20}", digits) and len(set(digits)) > 1 and not is_float


def read(entries):
    """(externalId, phoneNumber, canonical, canonical) of each entry, or the text that refuses them,
    as the contract has it.
    """
    identified = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            return f"leads[{index}] must be an object"
        given = {name: entry.get(name) for name in ("externalId", "phoneNumber")}
        for name, value in given.items():
            if value is not None and not isinstance(value, str):
                return f"leads[{index}]: {name} must be a string"
        external_id = canonical_external_id(given["externalId"] or "") or None
        number = canonical_phone_number(given["phoneNumber"] or "") or None
        if not external_id and not number:
            return f"leads[{index}]: At least one of phoneNumber or externalId is required"
        for name, longest in (("externalId", 255), ("phoneNumber", 32)):
            if len(given[name] or "") > longest:
                return f"leads[{index}]: {name} is longer than {longest} characters"
        for name, value in given.items():
            if "\0" in (value or ""):
                return f"leads[{index}]: {name} contains U+0000"
        usable = number if is_number(number, given["phoneNumber"]) else None
        identified.append(
            (
                external_id and given["externalId"],
                number and given["phoneNumber"],
                external_id,
                usable,
            )
        )
    return identified


def parsed(body):
    """The same, as the parser has it."""
    try:
        return list(zip(*parse(body).identifiers, strict=True))
    except InvalidRequest as refused:
        return refused.message


@settings(max_examples=1500, deadline=None)
@given(entries=st.lists(ENTRIES, min_size=1, max_size=6), ascii_only=st.booleans())
@example(
    entries=[
        {"externalId": "a"},
        {"phoneNumber": "123"},
        {"externalId": "b", "phoneNumber": "234"},
    ],
    ascii_only=True,
)
@example(
    entries=[
        {"phoneNumber": "123"},
        {"phoneNumber": "00234"},
        {"phoneNumber": "+000"},
        {"phoneNumber": "1234.5"},
    ],
    ascii_only=True,
)
@example(
    entries=[{"externalId": "a", "phoneNumber": "12"}, {"externalId": " ", "phoneNumber": "234"}],
    ascii_only=True,
)
def test_entries_are_read_as_the_contract_says(entries, ascii_only):
    body = json.dumps({"campaignId": "c", "leads": entries}, ensure_ascii=ascii_only).encode()
    assert parsed(body) == read(entries)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2),
)
TOP_LEVEL = st.lists(st.tuples(st.sampled_from([*sorted(FIELDS), "x"]), JSON), max_size=5)


@settings(max_examples=500, deadline=None)
@given(pairs=TOP_LEVEL, escaped=st.booleans())
def test_a_key_that_is_repeated_at_the_top_is_found_however_it_is_spelt(pairs, escaped):
    written = [
        (rf"\u{ord(name[0]):04x}{name[1:]}" if escaped and index % 2 else name)
        for index, (name, _) in enumerate(pairs)
    ]
    body = (
        "{"
        + ",".join(
            f'"{name}":{json.dumps(value)}' for name, (_, value) in zip(written, pairs, strict=True)
        )
        + "}"
    )
    names = [name for name, _ in pairs]
    assert (parsed(body.encode()) == "Request body is not valid JSON") is (
        len(set(names)) < len(names)
    )


def test_keys_that_name_no_identifier_may_repeat_below_the_top():
    body = (
        b'{"campaignId":"c","leads":[{"externalId":"leads","note":1,"note":2,'
        b'"x":{"externalId":1,"externalId":2}}]}'
    )
    assert parse(body).identifiers.external_ids == ["leads"]


def test_what_was_written_is_kept_only_where_it_differs():
    plain = parse(
        b'{"campaignId":"c","leads":[{"externalId":"a"},{"phoneNumber":"+101"}]}'
    ).identifiers
    assert plain.external_ids is plain.canonical_external_ids
    assert plain.phone_numbers is plain.canonical_phone_numbers
    odd = parse(
        b'{"campaignId":"c","leads":[{"externalId":" a"},{"phoneNumber":"+101","externalId":" "}]}'
    ).identifiers
    assert (odd.external_ids, odd.canonical_external_ids) == ([" a", None], ["a", None])
