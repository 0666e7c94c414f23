"""Which entries are duplicates, and where a request is cut."""

from hypothesis import given
from hypothesis import strategies as st

from api.acceptor import cut, find_duplicates

IDENTIFIER = st.sampled_from(["a", "b", "+1", None])
ENTRIES = st.lists(st.tuples(IDENTIFIER, IDENTIFIER).filter(any), min_size=1, max_size=12)


def repeats(entries, index):
    """Contract, section 4: whether the entry repeats the external id of an earlier one or, having none, the number of one that
    had none either.
    """
    external_id, number = entries[index]
    return any(external_id == e if external_id else e is None and number == n for e, n in entries[:index])


@given(ENTRIES)
def test_duplicates_are_those_of_the_contract(entries):
    external_ids, numbers = zip(*entries, strict=True)
    assert find_duplicates(external_ids, numbers) == {i for i in range(len(entries)) if repeats(entries, i)}


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 8))
def test_chunks_follow_one_another_and_none_is_too_big_or_of_duplicates_alone(repeated, size):
    repeated = [False, *repeated]  # the first entry cannot be a duplicate
    duplicates = {index for index, is_duplicate in enumerate(repeated) if is_duplicate}
    chunks = cut(len(repeated), duplicates, size)
    assert [chunk.first_index for chunk in chunks] == [0, *(chunk.end_index for chunk in chunks[:-1])]
    assert chunks[-1].end_index == len(repeated)
    others = [sum(not repeated[i] for i in range(chunk.first_index, chunk.end_index)) for chunk in chunks]
    assert all(count == size for count in others[:-1])
    assert 1 <= others[-1] <= size
    assert [c.duplicates for c in chunks] == [c.end_index - c.first_index - n for c, n in zip(chunks, others, strict=True)]
