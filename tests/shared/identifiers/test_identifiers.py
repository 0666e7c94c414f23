"""One rule in three places (Python, SQL, the contract's oracle): they must never disagree."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from shared.identifiers.canonical import (
    DIGITS,
    IGNORED,
    PUNCTUATION,
    canonical_external_id,
    canonical_phone_number,
    is_phone_number,
    is_spreadsheet_id,
    is_spreadsheet_number,
)
from tests.support import oracle

TABLE = IGNORED + PUNCTUATION + "".join(DIGITS)
# What a scheme is made of, and what NFC puts together.
LETTERS = "teL:A\u030ae\u0301\u1100\u1161\u212b\u0958\u3099か"
WRITTEN = st.text(
    st.one_of(
        st.sampled_from("00+12" + TABLE),
        st.sampled_from(LETTERS),
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    ),
    max_size=12,
)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        (" CRM_001\u00a0", "CRM_001"),
        ("a b", "a b"),
        ("\u2003\u200bCRM\u00ad1\ufeff\u3000", "CRM\u00ad1"),
        ("\u202aCRM_1\u202c", "CRM_1"),
        ("Crm_1", "Crm_1"),
        ("e\u0301", "\u00e9"),
        ("\u212b", "\u00c5"),
        ("\u1100\u1161", "\uac00"),
        ("か\u3099", "が"),
        ("\uff21", "\uff21"),  # NFC, not NFKC
        ("\x1cfile separator stays", "\x1cfile separator stays"),
        ("❤\ufe0f", "❤\ufe0f"),
        (" \t\n\r\f\v\u00a0\u2060", ""),
    ],
)
def test_external_ids_lose_what_nobody_sees_at_their_ends_and_nothing_else(written, canonical):
    assert canonical_external_id(written) == canonical


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("+1 (555) 555-12.34", "+15555551234"),
        ("0049 30 123", "+4930123"),
        ("(00)49", "+49"),
        ("000", "+0"),
        ("030 123", "030123"),
        ("()-. ", ""),
        ("\u202a+49\u202f30\u2011123\u2212456\u202c", "+4930123456"),
        ("+1\u00a0555\u20095550123\ufeff", "+15555550123"),
        ("\uff0b\uff11\uff15\uff15\uff15\uff085550\uff09\u20101\uff0d23", "+1555555\u0030123"),
        ("\u0661\u06f2\u0663", "123"),
        ("tel:+1-555-555-0123", "+15555550123"),
        ("TEL: 0049 30 123", "+4930123"),
        ("5\ufe0f\u20e355", "555"),
        ("N/A", "N/A"),
        ("030/123", "030/123"),
    ],
)
def test_phone_numbers_lose_their_punctuation_and_their_leading_zeros(written, canonical):
    assert canonical_phone_number(written) == canonical


@pytest.mark.parametrize("canonical", ["+15555550123", "112", "030123", "+" + "12" * 10])
def test_a_number_has_three_to_twenty_digits(canonical):
    assert is_phone_number(canonical)


@pytest.mark.parametrize(
    "canonical",
    [
        "",
        "+",
        "N/A",
        "12",
        "+12",
        "+" + "1" * 8 + "2" * 13,
        "0000000000",
        "+111",
        "1+23",
        "++123",
        "12a",
        "\u0661\u0662\u0663",
        "123\n",
    ],
)
def test_anything_else_is_none(canonical):
    assert not is_phone_number(canonical)


@pytest.mark.parametrize(
    "written",
    [
        "15555550000.0",
        "+15555550000.00",
        "1.555555E+10",
        "1,55556E+10",
        "15555550000,0",
        "1E10",
        "\uff11.5E+10",
        " 15555550000.0 ",
    ],
)
def test_what_a_spreadsheet_makes_of_a_number_is_known(written):
    assert is_spreadsheet_number(written)
    assert is_spreadsheet_id(written)


@pytest.mark.parametrize(
    "written",
    ["+1 555.555.0123", "555.1234", "030.1234567", "01.23.45.67.89", "+15555550000", "CRM.0", ""],
)
def test_what_people_write_with_dots_is_not_taken_for_it(written):
    assert not is_spreadsheet_number(written)
    assert not is_spreadsheet_id(written)


@given(WRITTEN)
def test_python_agrees_with_the_contract(written):
    assert canonical_external_id(written) == (oracle.canonical_external_id(written) or "")
    assert canonical_phone_number(written) == oracle.bare_phone_number(written)


@given(WRITTEN)
def test_a_canonical_identifier_stays_as_it_is(written):
    for canonical in (canonical_external_id, canonical_phone_number):
        assert canonical(canonical(written)) == canonical(written)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(many=st.lists(WRITTEN, min_size=50, max_size=100))
def test_the_database_agrees_with_python(engine, many):
    assert in_the_database(engine, many) == in_python(many)


def test_the_database_agrees_on_every_character(engine):
    """In the middle and at the ends, where it may be ignored or put together with its
    neighbours.
    """
    every = [chr(code) for code in range(1, 0x10000) if not 0xD800 <= code < 0xE000]
    written = [f"{one}1{one}e\u0301{one}" for one in every]
    assert in_the_database(engine, written) == in_python(written)


def in_the_database(engine, many):
    statement = text("""
        SELECT coalesce(leadsweep_canonical_external_id(written), ''),
            coalesce(leadsweep_canonical_phone_number(written), ''),
            coalesce(leadsweep_is_phone_number(leadsweep_canonical_phone_number(written)), false)
        FROM unnest(CAST(:many AS text[])) WITH ORDINALITY AS w (written, i) ORDER BY i
    """)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(statement, {"many": many})]


def in_python(many):
    numbers = [canonical_phone_number(written) for written in many]
    return [
        (canonical_external_id(w), number, is_phone_number(number))
        for w, number in zip(many, numbers, strict=True)
    ]


def test_stored_identifiers_are_canonical_whoever_writes_them(engine):
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO companies VALUES ('co', ''); INSERT INTO campaigns VALUES ('cmp', 'co',
                    '');
                INSERT INTO leads (campaign_id, external_id, phone_number)
                    VALUES ('cmp', ' a ', '0049 (30) 1'), ('cmp', ' ', '+1');
                UPDATE leads SET external_id = '  b' WHERE phone_number = '+1'
            """)
        )
        rows = connection.execute(
            text("SELECT external_id, phone_number FROM leads ORDER BY id")
        ).all()
    assert [tuple(row) for row in rows] == [("a", "+49301"), ("b", "+1")]
