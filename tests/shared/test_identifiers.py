"""One rule in three places (Python, SQL, the contract's oracle): they must never disagree."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from shared.identifiers import canonical_external_id, canonical_phone_number
from tests import oracle

NOISE = " \t\n\r\f\v\u00a0.-()0+"
WRITTEN = st.text(
    st.one_of(st.sampled_from(NOISE), st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=12
)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        (" CRM_001\u00a0", "CRM_001"),
        ("a b", "a b"),
        ("\u2003em space stays\u2003", "\u2003em space stays\u2003"),
        ("\x1cfile separator stays", "\x1cfile separator stays"),
        (" \t\n\r\f\v\u00a0", ""),
    ],
)
def test_external_ids_are_trimmed_of_the_white_space_that_is_listed_and_no_other(written, canonical):
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
        ("\u2010stays", "\u2010stays"),
    ],
)
def test_phone_numbers_lose_their_punctuation_and_their_leading_zeros(written, canonical):
    assert canonical_phone_number(written) == canonical


@given(WRITTEN)
def test_python_agrees_with_the_contract(written):
    assert canonical_external_id(written) == (oracle.canonical_external_id(written) or "")
    assert canonical_phone_number(written) == oracle.bare_phone_number(written)


@given(WRITTEN)
def test_a_canonical_identifier_stays_as_it_is(written):
    for canonical in (canonical_external_id, canonical_phone_number):
        assert canonical(canonical(written)) == canonical(written)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(many=st.lists(WRITTEN, min_size=50, max_size=100))
def test_the_database_agrees_with_python(engine, many):
    statement = text("""
        SELECT coalesce(leadsweep_canonical_external_id(written), ''), coalesce(leadsweep_canonical_phone_number(written), '')
        FROM unnest(CAST(:many AS text[])) WITH ORDINALITY AS w (written, i) ORDER BY i
    """)
    with engine.connect() as connection:
        rows = connection.execute(statement, {"many": many}).all()
    assert [tuple(row) for row in rows] == [(canonical_external_id(w), canonical_phone_number(w)) for w in many]


def test_stored_identifiers_are_canonical_whoever_writes_them(engine):
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO companies VALUES ('co', ''); INSERT INTO campaigns VALUES ('cmp', 'co', '');
                INSERT INTO leads (campaign_id, external_id, phone_number)
                    VALUES ('cmp', ' a ', '0049 (30) 1'), ('cmp', ' ', '+1');
                UPDATE leads SET external_id = '  b' WHERE phone_number = '+1'
            """)
        )
        rows = connection.execute(text("SELECT external_id, phone_number FROM leads ORDER BY id")).all()
    assert [tuple(row) for row in rows] == [("a", "+49301"), ("b", "+1")]
