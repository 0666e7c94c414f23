"""The two passes on their own; `take` is the decider's argument, here an in-memory campaign."""

from shared.states import Outcome
from shared.states import PhoneFallback
from worker.decider import TakenLead, decide
from worker.entries import Entries

BY_ID = Outcome.DELETED_BY_EXTERNAL_ID
BY_PHONE = Outcome.DELETED_BY_PHONE_NUMBER
GONE = Outcome.NO_SUCH_LEAD
DUPLICATE = Outcome.DUPLICATE


def campaign(*identifiers, refused=()):
    """A `take` over leads given as (externalId, phoneNumber)."""
    present = set(identifiers)

    def take(column, wanted):
        assert list(wanted) == sorted(set(wanted)), "identifiers must be sorted, to keep deadlocks rare"
        position = 0 if column == "external_id" else 1
        found = {lead for lead in present if lead[position] in wanted}
        present.difference_update(found - set(refused))
        return [TakenLead(*lead, refused=lead in refused) for lead in found]

    return take


def decide_over(take, *entries, phone_fallback=True, outcomes=None):
    external_ids, numbers = zip(*entries, strict=True)
    return decide(Entries(external_ids, numbers, outcomes or [0] * len(entries)), phone_fallback=phone_fallback, take=take)


def test_an_entry_takes_the_lead_with_its_external_id():
    assert decide_over(campaign(("a", "+101")), ("a", None)) == [BY_ID]


def test_an_entry_without_external_id_takes_the_lead_with_its_number():
    assert decide_over(campaign(("a", "+101")), (None, "+101")) == [BY_PHONE]


def test_an_unknown_external_id_falls_back_to_the_number():
    assert decide_over(campaign(("a", "+101")), ("b", "+101")) == [BY_PHONE]


def test_without_fallback_an_unknown_external_id_finds_nothing():
    assert decide_over(campaign(("a", "+101")), ("b", "+101"), phone_fallback=False) == [GONE]


def test_without_fallback_an_entry_that_has_only_a_number_is_still_looked_up():
    assert decide_over(campaign(("a", "+101")), (None, "+101"), phone_fallback=False) == [BY_PHONE]


def test_an_external_id_wins_over_an_earlier_number():
    assert decide_over(campaign(("a", "+101")), (None, "+101"), ("a", None)) == [DUPLICATE, BY_ID]


def test_the_first_of_two_entries_with_one_number_takes_the_lead():
    assert decide_over(campaign((None, "+101")), ("x", "+101"), ("y", "+101")) == [BY_PHONE, DUPLICATE]


def test_two_entries_that_name_nothing_are_no_duplicates():
    assert decide_over(campaign(), ("x", "+101"), ("y", "+101")) == [GONE, GONE]


def test_an_entry_whose_external_id_and_number_are_two_leads_takes_only_the_first():
    take = campaign(("a", "+101"), ("b", "+102"))
    assert decide_over(take, ("a", "+102"), (None, "+102")) == [BY_ID, BY_PHONE]


def test_outcomes_that_stand_already_are_kept_and_never_looked_up():
    assert decide_over(campaign(("a", None)), ("a", None), ("a", None), outcomes=[0, DUPLICATE]) == [BY_ID, DUPLICATE]


def test_a_refused_lead_is_unprocessed_and_whoever_else_names_it_is_a_duplicate():
    lead = ("a", "+101")
    assert decide_over(campaign(lead, refused=[lead]), ("a", None), (None, "+101")) == [Outcome.REFUSED, DUPLICATE]
