"""What goes out in a CSV is harmless to a spreadsheet, and comes back as it was."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.files.spreadsheets import guarded, raw_safe, unguarded, unwrapped

FORMULA = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20\ufe62\ufe63\ufe66\ufe6b"
UNSEEN = (
    " \t\r\n\v\f\0\x1b\x7f\x85\u00a0\u00ad\u1680\u2003"
    "\u200b\u200d\u2028\u202e\u2060\u2066\u3000\u3164\ufeff"
)
UNSEEN += "\u115f\u2800\ufe0f\U000e0041\U000e0100"
CELLS = st.text(st.one_of(st.sampled_from(f"'\"{FORMULA}{UNSEEN}1a"), st.characters()), max_size=12)


@pytest.mark.parametrize("first", FORMULA)
def test_what_a_spreadsheet_would_run_gets_one_quote_more_than_it_has(first):
    for quotes in ("", "'", "'''"):
        assert guarded(f"{quotes}{first}17") == f"'{quotes}{first}17"
        assert unguarded(f"'{quotes}{first}17") == f"{quotes}{first}17"


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "'",
        "''",
        "a",
        "'a",
        "''a+",
        "17-",
        " 17-",
        "' 17",
        " '-17",
        "\u2007a=",
        '"=1"',
        "\u2019-17",
    ],
)
def test_other_cells_stay_as_they_are(cell):
    assert guarded(cell) == raw_safe(cell) == unguarded(cell) == unwrapped(cell) == cell


@pytest.mark.parametrize("before", [*UNSEEN, " \u00a0\ufeff", "\t\n "])
@pytest.mark.parametrize("first", "=+-@\uff1d\uff0b\uff0d\uff20\ufe62\ufe63\ufe66\ufe6b")
def test_a_formula_behind_what_is_seen_as_nothing_is_guarded_as_one(before, first):
    for quotes in ("", "'"):
        assert guarded(f"{quotes}{before}{first}1+1") == f"'{quotes}{before}{first}1+1"
        assert unwrapped(f"'{quotes}{before}{first}1+1") == f"{quotes}{before}{first}1+1"


def test_what_is_not_there_needs_no_guard():
    assert guarded(None) is None
    assert raw_safe(None) is None


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        ("'-17", "-17"),
        ("''-17", "'-17"),
        ('="00123"', "00123"),
        ('="+1555"', "+1555"),
        ('="a""b"', 'a"b'),
        ('=""""', '"'),
        ('=""', ""),
        ('="\'-17"', "'-17"),  # wrapped once, unwrapped once
        ('\'="00123"', '="00123"'),
        ('="a"b"', '="a"b"'),
        ('="', '="'),
        ('="a"&"b"', '="a"&"b"'),
        ("=1+1", "=1+1"),
        ("+1555", "+1555"),
    ],
)
def test_a_guard_and_the_wrap_of_a_text_are_taken_off_once(cell, meant):
    assert unwrapped(cell) == meant


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("+1555", "+1555"),
        ("=1+1", "=1+1"),
        ("'a", "'a"),
        ("'-17", "''-17"),
        ('="x"', '\'="x"'),
        ('="x', '="x'),
    ],
)
def test_raw_cells_are_guarded_only_where_they_would_come_back_as_something_else(cell, written):
    assert raw_safe(cell) == written


@settings(max_examples=1000)
@given(CELLS)
@example("'-17")
@example('="x"')
@example('\'="x"')
def test_what_goes_out_comes_back_the_same(cell):
    assert unwrapped(guarded(cell)) == cell
    assert unguarded(guarded(cell)) == cell
    assert unwrapped(raw_safe(cell)) == cell
    assert not guarded(cell).lstrip(UNSEEN).startswith(tuple(FORMULA))
    assert not guarded(cell).startswith(tuple(FORMULA))
