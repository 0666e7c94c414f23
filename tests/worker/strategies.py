"""Random leads and entries over few identifiers, so that they meet: duplicates, both identifiers, odd spellings."""

from hypothesis import strategies as st

from tests.oracle import Lead

EXTERNAL_IDS = ["a", "b", "c", "d", "e", "f"]
NUMBERS = ["+101", "+102", "+103", "+104", "+105"]
CAMPAIGNS = ["cmp", "other"]


@st.composite
def _spelt(draw, canonical):
    """`canonical` as somebody might write it."""
    before, after = (draw(st.sampled_from(["", "", "", " ", "\t\n", "\u00a0"])) for _ in range(2))
    return before + canonical + after


@st.composite
def _spelt_number(draw, canonical):
    digits = canonical.removeprefix("+")
    return draw(_spelt(draw(st.sampled_from([canonical, f"00{digits}", f"+({digits})", f"+ {digits}", f"0-0.{digits}", digits]))))


external_ids = st.sampled_from(EXTERNAL_IDS).flatmap(_spelt)
numbers = st.sampled_from(NUMBERS).flatmap(_spelt_number)
blank = st.sampled_from([None, "", " ", "\u00a0\t"])

entries = st.one_of(
    st.tuples(external_ids, blank),
    st.tuples(blank, numbers),
    st.tuples(external_ids, numbers),
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
