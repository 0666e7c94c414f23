"""The two passes on their own, over a campaign in memory."""

import pytest

from shared.identifiers.canonical import canonical_phone_number
from shared.states import Outcome, PhoneFallback
from worker.campaign import Copy, Kept, TakenLead
from worker.decider import decide
from worker.entries import Entries, read_again

BY_ID = Outcome.DELETED_BY_EXTERNAL_ID
BY_PHONE = Outcome.DELETED_BY_PHONE_NUMBER
ERASED_BY_ID = Outcome.ERASED_BY_EXTERNAL_ID
ERASED_BY_PHONE = Outcome.ERASED_BY_PHONE_NUMBER
GONE = Outcome.NO_SUCH_LEAD
WAITS = Outcome.WAITS_FOR_LOCK
DUPLICATE = Outcome.DUPLICATE
NEVER, IF_UNIDENTIFIED = PhoneFallback.NEVER, PhoneFallback.IF_UNIDENTIFIED


class Campaign:
    """Leads and copies in the archive, each given as (externalId, phoneNumber). Those `locked` are
    so in the first `passes`.
    """

    def __init__(self, *leads, copies=(), refused=(), locked=(), passes=2, lone_numbers_only=False):
        self.leads, self.copies, self.refused = list(leads), list(copies), refused
        self.locked, self._passes = locked, passes
        self.has_archive = bool(copies)
        self.asked = []
        self._lone = lone_numbers_only

    def take(self, column, identifiers):
        self.asked.append((column, *identifiers))
        assert list(identifiers) == sorted(set(identifiers)), (
            "identifiers must be sorted, to keep deadlocks rare"
        )
        position = 0 if column == "external_id" else 1
        found = [
            e
            for e in self.leads
            if e[position] in identifiers and not (self._lone and position and e[0])
        ]
        kept = dict.fromkeys(self.refused, Kept(Outcome.REFUSED, "constraint keep"))
        if len(self.asked) <= self._passes:
            kept |= dict.fromkeys(self.locked, Kept(WAITS))
        self.leads = [lead for lead in self.leads if lead not in found or lead in kept]
        return [TakenLead(*lead, kept=kept.get(lead)) for lead in found]

    def hold(self, external_ids, phone_numbers):
        self.held = external_ids, phone_numbers

    def erase(self, external_ids, phone_numbers):
        found = [
            c
            for c in self.copies
            if c[0] in external_ids or (c[1] in phone_numbers and not (self._lone and c[0]))
        ]
        self.copies = [copy for copy in self.copies if copy not in found]
        return [Copy(*copy) for copy in found]

    def existing(self, phone_numbers, *, identified=False):
        there = {
            number
            for external_id, number in self.leads + self.copies
            if external_id or not identified
        }
        return there & set(phone_numbers)


def decide_over(
    campaign, *entries, phone_fallback=PhoneFallback.ALWAYS, outcomes=None, written=None, **options
):
    """`entries` in canonical form; `written` where that is not how they were written."""
    external_ids, numbers = zip(*entries, strict=True)
    spelt = zip(*written, strict=True) if written else ()
    given = Entries(external_ids, numbers, outcomes or [0] * len(entries), *spelt)
    return decide(given, phone_fallback=phone_fallback, campaign=campaign, **options)


def test_an_entry_takes_the_lead_with_its_external_id():
    assert decide_over(Campaign(("a", "+101")), ("a", None)) == [BY_ID]


def test_an_entry_without_external_id_takes_the_lead_with_its_number():
    assert decide_over(Campaign(("a", "+101")), (None, "+101")) == [BY_PHONE]


def test_an_unknown_external_id_falls_back_to_the_number():
    assert decide_over(Campaign(("a", "+101")), ("b", "+101")) == [BY_PHONE]


def test_without_fallback_an_unknown_external_id_finds_nothing():
    assert decide_over(Campaign(("a", "+101")), ("b", "+101"), phone_fallback=NEVER) == [GONE]


def test_without_fallback_an_entry_that_has_only_a_number_is_still_looked_up():
    assert decide_over(Campaign(("a", "+101")), (None, "+101"), phone_fallback=NEVER) == [BY_PHONE]


def test_an_external_id_wins_over_an_earlier_number():
    assert decide_over(Campaign(("a", "+101")), (None, "+101"), ("a", None)) == [DUPLICATE, BY_ID]


def test_the_first_of_two_entries_with_one_number_takes_the_lead():
    assert decide_over(Campaign((None, "+101")), ("x", "+101"), ("y", "+101")) == [
        BY_PHONE,
        DUPLICATE,
    ]


def test_two_entries_that_name_nothing_are_no_duplicates():
    assert decide_over(Campaign(), ("x", "+101"), ("y", "+101")) == [GONE, GONE]


def test_an_entry_whose_external_id_and_number_are_two_leads_takes_only_the_first():
    take = Campaign(("a", "+101"), ("b", "+102"))
    assert decide_over(take, ("a", "+102"), (None, "+102")) == [BY_ID, BY_PHONE]


def test_outcomes_that_stand_already_are_kept_and_never_looked_up():
    assert decide_over(
        Campaign(("a", None)), ("a", None), ("a", None), outcomes=[0, DUPLICATE]
    ) == [BY_ID, DUPLICATE]


def test_a_refused_lead_is_unprocessed_and_whoever_else_names_it_is_a_duplicate():
    lead = ("a", "+101")
    assert decide_over(Campaign(lead, refused=[lead]), ("a", None), (None, "+101")) == [
        Outcome.REFUSED,
        DUPLICATE,
    ]


def test_a_lead_that_is_freed_between_the_passes_waits_for_the_entry_that_named_it_by_external_id():
    """Whoever names its number must not take it: that entry would take somebody else by its own
    number then.
    """
    first, other = ("x", "+101"), ("y", "+102")
    campaign = Campaign(first, other, locked=[first], passes=1)
    entries = [("x", "+102"), (None, "+101"), ("z", "+101")]
    assert decide_over(campaign, *entries) == [WAITS] * 3
    assert campaign.leads == [first, other]
    assert decide_over(campaign, *entries) == [BY_ID, DUPLICATE, DUPLICATE]
    assert campaign.leads == [other]


def test_the_copies_of_who_waits_stay_with_the_lead_that_was_freed_meanwhile():
    campaign = Campaign(("x", "+101"), copies=[("b", "+101")], locked=[("x", "+101")], passes=1)
    entries = [("x", None), (None, "+101")]
    assert decide_over(campaign, *entries) == [WAITS] * 2
    assert campaign.copies == [("b", "+101")]
    assert decide_over(campaign, *entries) == [BY_ID, ERASED_BY_PHONE]


def test_who_waits_for_a_lead_is_not_done_with_a_copy_that_another_entry_erases():
    campaign = Campaign(
        ("x", "+101"), ("b", "+103"), copies=[("b", "+101")], locked=[("x", "+101")]
    )
    entries = [(None, "+101"), (None, "+103"), ("z", "+101")]
    assert decide_over(campaign, *entries) == [WAITS, ERASED_BY_PHONE, WAITS]
    assert campaign.leads == [("x", "+101")]


def test_a_phone_for_the_unidentified_finds_only_leads_without_an_external_id():
    campaign = Campaign(("a", "+101"), (None, "+102"), lone_numbers_only=True)
    entries = [("x", "+101"), (None, "+101"), ("y", "+102"), ("z", "+103")]
    assert decide_over(campaign, *entries, phone_fallback=IF_UNIDENTIFIED) == [
        Outcome.OTHER_EXTERNAL_ID,
        Outcome.OTHER_EXTERNAL_ID,
        BY_PHONE,
        GONE,
    ]
    assert campaign.leads == [("a", "+101")]


def test_who_names_a_number_that_another_entry_has_taken_is_a_duplicate_whatever_it_may_find():
    campaign = Campaign(("a", "+101"), lone_numbers_only=True)
    assert decide_over(campaign, ("a", None), ("x", "+101"), phone_fallback=IF_UNIDENTIFIED) == [
        BY_ID,
        DUPLICATE,
    ]


@pytest.mark.parametrize("rival", [("b", "+4917012345678"), (None, "+4917012345678")])
def test_a_number_that_was_read_is_not_used_where_the_same_digits_behind_a_plus_are_somebody_elses(
    rival,
):
    campaign = Campaign(("a", "+494917012345678"), rival)
    decided = decide_over(campaign, ("x", "+494917012345678"), written=[("x", "4917012345678")])
    assert decided == [Outcome.AMBIGUOUS_NUMBER]
    assert len(campaign.leads) == 2


def test_a_number_that_was_read_is_used_where_nobody_has_the_same_digits_behind_a_plus():
    campaign = Campaign(("a", "+4917012345678"))
    assert decide_over(campaign, (None, "+4917012345678"), written=[(None, "0170 / 12345678")]) == [
        BY_PHONE
    ]


def test_an_external_id_is_followed_though_the_number_beside_it_is_ambiguous():
    campaign = Campaign(("a", "+494917012345678"), ("b", "+4917012345678"))
    assert decide_over(campaign, ("a", "+494917012345678"), written=[("a", "4917012345678")]) == [
        BY_ID
    ]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("N/A", Outcome.NOT_A_PHONE_NUMBER),
        ("0000000000", Outcome.NOT_A_PHONE_NUMBER),
        ("15555550000.0", Outcome.SPREADSHEET_NUMBER),
        ("1.555E+10", Outcome.SPREADSHEET_NUMBER),
    ],
)
def test_an_entry_that_has_only_what_is_no_number_says_so(written, reason):
    campaign = Campaign((None, "+101"))
    assert decide_over(campaign, (None, None), written=[(None, written)]) == [reason]
    assert campaign.asked == []


@pytest.mark.parametrize(
    ("external_id", "reason"),
    [
        ("12345.0", Outcome.SPREADSHEET_NUMBER),
        ("1.0E+05", Outcome.SPREADSHEET_NUMBER),
        ("-1,5e3", Outcome.SPREADSHEET_NUMBER),
        ("\uff11\uff12\uff0e\uff10", Outcome.SPREADSHEET_NUMBER),
        ("12345", GONE),
        ("CRM_1.0", GONE),
        ("3f2a.0", GONE),
        ("1.0 beta", GONE),
    ],
)
def test_an_unknown_id_that_a_spreadsheet_made_says_so(external_id, reason):
    assert decide_over(Campaign(), (external_id, None)) == [reason]


def test_a_number_without_its_plus_says_so_where_somebody_has_it_with_one():
    campaign = Campaign(("a", "+15550001"))
    assert decide_over(campaign, ("x", "15550001"), (None, "15550002")) == [
        Outcome.LACKS_PLUS,
        GONE,
    ]
    assert campaign.leads == [("a", "+15550001")]
    assert decide_over(campaign, ("x", "15550001"), phone_fallback=NEVER) == [GONE], (
        "its phone was not looked at"
    )


def test_a_number_without_its_plus_says_nothing_of_a_lead_that_another_entry_took():
    assert decide_over(Campaign(("a", "+15550001")), ("a", None), (None, "15550001")) == [
        BY_ID,
        GONE,
    ]


FORMER = "+1\u20090001"


def test_a_lead_that_is_stored_in_a_former_form_is_found_by_what_was_written():
    campaign = Campaign(("\u200ba", None), ("b", FORMER))
    written = [("\u200ba", None), ("x", FORMER)]
    assert decide_over(
        campaign, ("a", None), ("x", "+10001"), written=written, try_former=True
    ) == [BY_ID, BY_PHONE]
    assert campaign.leads == []


def test_of_two_leads_that_are_one_in_canonical_form_the_entry_takes_the_canonical_one_only():
    campaign = Campaign(("\u200ba", None), ("a", "+101"), ("b", FORMER), ("c", "+10001"))
    written = [("\u200ba", None), (None, FORMER)]
    assert decide_over(
        campaign, ("a", None), (None, "+10001"), written=written, try_former=True
    ) == [BY_ID, BY_PHONE]
    assert campaign.leads == [("\u200ba", None), ("b", FORMER)]


def test_who_names_a_number_that_was_taken_in_its_former_form_is_a_duplicate():
    campaign = Campaign(("a", FORMER))
    decided = decide_over(
        campaign, ("x", "+10001"), ("y", "+10001"), written=[(None, FORMER)] * 2, try_former=True
    )
    assert decided == [BY_PHONE, DUPLICATE]


def test_who_names_a_number_that_is_locked_does_not_take_another_lead_in_its_former_form():
    campaign = Campaign(("c", "+10001"), ("b", FORMER), locked=[("c", "+10001")])
    written = [("x", "+10001"), ("y", FORMER)]
    decided = decide_over(
        campaign, ("x", "+10001"), ("y", "+10001"), written=written, try_former=True
    )
    assert decided == [WAITS] * 2
    assert len(campaign.leads) == 2


def test_a_former_form_is_not_tried_for_what_is_no_number_or_was_read():
    campaign = Campaign((None, "N/A"), (None, "01701234567"))
    entries, written = (
        [(None, None), (None, "+491701234567")],
        [(None, "N/A"), (None, "0170 1234567")],
    )
    assert decide_over(campaign, *entries, written=written, try_former=True) == [
        Outcome.NOT_A_PHONE_NUMBER,
        GONE,
    ]


def test_entries_of_former_rules_are_read_again_from_what_was_written():
    former = Entries(
        ["\u200ba", "b", None, None, "a"],
        ["+1\u20090001", "N/A", "15555550000", None, None],
        [0] * 5,
        None,
        ["+1\u20090001", "N/A", "15555550000.0", None, None],
    )
    today = read_again(former, None)
    assert list(today.external_ids) == ["a", "b", None, None, "a"]
    assert list(today.phone_numbers) == ["+10001", None, None, None, None]
    assert list(today.outcomes) == [0, 0, 0, 0, DUPLICATE], (
        "of those that now are the same, the first counts"
    )
    assert canonical_phone_number(former.phone_numbers[0]) == today.phone_numbers[0]


def test_copies_in_the_archive_go_with_their_lead_and_without():
    campaign = Campaign(
        ("a", "+101"), copies=[("a", "+109"), ("b", None), (None, "+103"), ("d", "+104")]
    )
    decided = decide_over(
        campaign, ("a", None), ("b", None), (None, "+103"), ("x", "+104"), ("c", "+105")
    )
    assert decided == [ERASED_BY_ID, ERASED_BY_ID, ERASED_BY_PHONE, ERASED_BY_PHONE, GONE]
    assert (campaign.leads, campaign.copies) == ([], [])


def test_an_external_id_that_is_in_the_archive_only_keeps_the_phone_from_being_used():
    campaign = Campaign(("b", "+101"), copies=[("a", "+101")])
    assert decide_over(campaign, ("a", "+101")) == [ERASED_BY_ID]
    assert campaign.leads == [("b", "+101")]


def test_a_copy_that_two_entries_name_is_the_first_ones():
    campaign = Campaign(copies=[("a", "+101"), (None, "+102")])
    decided = decide_over(campaign, (None, "+101"), ("a", None), ("x", "+102"), ("y", "+102"))
    assert decided == [DUPLICATE, ERASED_BY_ID, ERASED_BY_PHONE, DUPLICATE]


def test_a_number_that_was_taken_with_a_lead_still_has_its_copies_erased():
    campaign = Campaign(("a", "+101"), copies=[("b", "+101")])
    assert decide_over(campaign, ("a", None), ("x", "+101")) == [BY_ID, ERASED_BY_PHONE]
    assert campaign.copies == []


def test_who_goes_by_phone_goes_with_all_copies_of_the_same_external_id():
    campaign = Campaign(("b", "+102"), copies=[("b", "+107"), ("c", "+109")])
    assert decide_over(campaign, (None, "+102")) == [ERASED_BY_PHONE]
    assert campaign.copies == [("c", "+109")]


def test_a_copy_of_whom_one_entry_took_and_that_another_names_before_is_that_others():
    campaign = Campaign(("b", "+102"), copies=[("b", "+101")])
    assert decide_over(campaign, (None, "+101"), (None, "+102")) == [ERASED_BY_PHONE, BY_PHONE]


def test_copies_with_an_external_id_are_spared_as_leads_are():
    campaign = Campaign(copies=[("a", "+101"), (None, "+102")], lone_numbers_only=True)
    decided = decide_over(campaign, ("x", "+101"), ("y", "+102"), phone_fallback=IF_UNIDENTIFIED)
    assert decided == [Outcome.OTHER_EXTERNAL_ID, ERASED_BY_PHONE]
    assert campaign.copies == [("a", "+101")]


def test_a_refused_lead_stays_unprocessed_though_its_copies_are_erased():
    campaign = Campaign(("a", None), copies=[("a", None)], refused=[("a", None)])
    assert decide_over(campaign, ("a", None)) == [Outcome.REFUSED]


def test_what_each_entry_took_is_noted_leads_before_copies():
    campaign, found = Campaign(("a", "+101"), copies=[("a", "+109"), ("b", "+102")]), {}
    decide_over(campaign, ("a", None), (None, "+102"), ("c", None), found=found)
    assert found == {
        0: [TakenLead("a", "+101", kept=None), Copy("a", "+109")],
        1: [Copy("b", "+102")],
    }
