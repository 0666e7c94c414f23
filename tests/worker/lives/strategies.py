"""Random leads and entries over few identifiers, so that they meet: duplicates, both identifiers,
odd spellings.
"""

from hypothesis import strategies as st

from tests.support.oracle import Lead

EXTERNAL_IDS = ["a", "b", "c", "d", "e", "12345.0"]
NUMBERS = ["+101", "+102", "+491701234567", "+49491701234567", "491701234567", "105"]
READINGS = {  # in DE, where they are valid
    "01701234567": "+491701234567",
    "491701234567": "+49491701234567",
    "49491701234567": "+49491701234567",
}
CAMPAIGNS = ["cmp", "other"]

_BLANKS = ["", "", "", " ", "\t\n", "\u00a0", "\u200b", "\ufeff", "\u3000"]


@st.composite
def _spelt(draw, canonical):
    """`canonical` as somebody might write it."""
    before, after = (draw(st.sampled_from(_BLANKS)) for _ in range(2))
    return before + canonical + after


@st.composite
def _spelt_number(draw, canonical):
    digits = canonical.removeprefix("+")
    behind_plus = [
        canonical,
        f"00{digits}",
        f"+({digits})",
        f"+ {digits}",
        f"0-0.{digits}",
        f"tel:{canonical}",
        f"\uff0b{digits}",
    ]
    wide = "".join(chr(ord(c) + 0xFEE0) for c in digits)
    bare = [
        digits,
        f"{digits[:2]}\u2010{digits[2:]}",
        f"\u202a{digits}\u202c",
        wide,
        f"\u20e3{digits}",
    ]
    return draw(
        _spelt(draw(st.sampled_from(behind_plus + bare[:2] if canonical.startswith("+") else bare)))
    )


external_ids = st.sampled_from(EXTERNAL_IDS).flatmap(_spelt)
no_numbers = st.sampled_from(["N/A", "0000000", "12", "101.0E+5", "15555550000.0", "tel:", "+49 x"])
numbers = st.one_of(st.sampled_from([*NUMBERS, "01701234567"]).flatmap(_spelt_number))
blank = st.sampled_from([None, "", " ", "\u00a0\t", "\u200b"])

entries = st.one_of(
    st.tuples(external_ids, blank),
    st.tuples(blank, numbers),
    st.tuples(external_ids, numbers),
    st.tuples(external_ids, no_numbers),
    st.tuples(blank, no_numbers.filter(lambda written: written != "tel:")),
)


@st.composite
def campaigns_of_leads(draw):
    """A set of leads, as the database would hold them: identifiers unique in their campaign."""
    leads = set()
    for campaign in CAMPAIGNS:
        ids = draw(st.lists(st.sampled_from(EXTERNAL_IDS), unique=True))
        others = draw(st.lists(st.sampled_from(NUMBERS), unique=True))
        shared = draw(st.integers(0, min(len(ids), len(others))))
        leads |= {Lead(campaign, e, n) for e, n in zip(ids[:shared], others[:shared], strict=True)}
        leads |= {Lead(campaign, e, None) for e in ids[shared:]}
        leads |= {Lead(campaign, None, n) for n in others[shared:]}
    return leads


copies = st.lists(
    st.builds(
        Lead,
        st.sampled_from(CAMPAIGNS),
        st.sampled_from([None, *EXTERNAL_IDS]),
        st.sampled_from([None, *NUMBERS]),
    ).filter(lambda copy: copy.external_id or copy.phone_number),
    max_size=6,
)
"""Leads in the archive; the same may be there more than once."""
