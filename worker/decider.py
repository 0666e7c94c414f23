"""Decides a chunk: which entry takes which lead, by the two passes of the contract. Nothing here
has an effect, except through the campaign that it is given.

It never reads what it could not also delete: `take` deletes leads and says which there were, so
nothing can come between looking a lead up and deleting it. Where the campaign has an archive, a
pass erases the copies that its entries name as well.
"""

from collections.abc import Mapping

from shared.identifiers.canonical import canonical_external_id, canonical_phone_number
from shared.states import Outcome, PhoneFallback
from worker.campaign import Campaign, Column, Copy, Found, Kept, TakenLead
from worker.entries import (
    Entries,
    former_external_ids,
    former_phone_numbers,
    reason_of_none,
    rivals,
    with_id_of_a_spreadsheet,
)

DELETED_BY_EXTERNAL_ID, DELETED_BY_PHONE_NUMBER, NO_SUCH_LEAD = (
    Outcome.DELETED_BY_EXTERNAL_ID,
    Outcome.DELETED_BY_PHONE_NUMBER,
    Outcome.NO_SUCH_LEAD,
)


def decide(
    entries: Entries,
    *,
    phone_fallback: PhoneFallback,
    campaign: Campaign,
    try_former: bool = False,
    found: Found | None = None,
    details: dict[int, str] | None = None,
) -> list[int]:
    """The outcome of every entry; those that already had one (duplicates found at acceptance) keep
    it.

    `try_former`: leads may still be stored in a former form. `found` is filled with what each entry
    took, its lead first; `details` with what refused to give up the leads of entries.
    """
    decision = _Decision(
        entries,
        phone_fallback,
        campaign,
        try_former,
        {} if campaign.has_archive and found is None else found,
    )
    decision.run()
    if details is not None:
        details.update(decision.details)
    return decision.outcomes


class _Decision:
    """A chunk while it is decided: its `outcomes` so far, and the numbers of the leads and copies
    that are gone.
    """

    def __init__(
        self,
        entries: Entries,
        phone_fallback: PhoneFallback,
        campaign: Campaign,
        try_former: bool,
        found: Found | None,
    ) -> None:
        self._entries, self._phone_fallback, self._campaign = entries, phone_fallback, campaign
        self._try_former, self._found = try_former, found
        self._taken_numbers: set[str | None] = set()
        self._erased_numbers: set[str | None] = set()
        self._locked_numbers: set[str | None] = set()
        self.details: dict[int, str] = {}
        self.outcomes = list(entries.outcomes)

    def run(self) -> None:
        """Both passes, then reasons for the entries that took nothing."""
        entries, always = self._entries, self._phone_fallback != PhoneFallback.NEVER
        left = [i for i, outcome in enumerate(self.outcomes) if not outcome]
        ambiguous = self._ambiguous()
        self._by_external_id(left)
        if all(self.outcomes):
            return
        left = [i for i in left if not self.outcomes[i]]
        candidates = [
            (i, number)
            for i in left
            if (number := entries.phone_numbers[i]) is not None
            and (always or entries.external_ids[i] is None)
            and i not in ambiguous
        ]
        if candidates:
            self._by_phone_number(candidates)
        if not all(self.outcomes):
            self._give_reasons(
                [i for i in left if not self.outcomes[i]],
                [(i, number) for i, number in candidates if not self.outcomes[i]],
                ambiguous,
            )

    def _ambiguous(self) -> set[int]:
        """The entries whose number could be somebody else's: it was read for a country, and the
        same digits behind a plus are another lead's number. Such a number is not used at all.
        """
        if not (possible := rivals(self._entries)):
            return set()
        existing = self._campaign.existing(sorted(set(possible.values())))
        return {i for i, rival in possible.items() if rival in existing}

    def _by_external_id(self, left: list[int]) -> None:
        """The first pass."""
        external_ids = self._entries.external_ids
        wanted = {external_id: i for i in left if (external_id := external_ids[i]) is not None}
        if not wanted:
            return
        if self._campaign.has_archive:
            self._campaign.hold(sorted(wanted), ())
        self._take("external_id", wanted)
        if self._try_former:
            formers = former_external_ids(self._entries)
            self._take(
                "external_id", {former: i for i, former in formers.items() if not self.outcomes[i]}
            )
        if self._campaign.has_archive:
            for copy in self._campaign.erase(sorted(self._decided(wanted)), ()):
                self._erased(wanted[copy.external_id or ""], copy, Outcome.ERASED_BY_EXTERNAL_ID)

    def _by_phone_number(self, candidates: list[tuple[int, str]]) -> None:
        """The second pass. What the first one found locked may be free by now, and is left to the
        entry that named it there.
        """
        self._wait_for_locked(candidates)
        first: dict[str, int] = {}
        # In request order: the first entry that names a number gets the lead.
        for i, number in candidates:
            if not self.outcomes[i]:
                first.setdefault(number, i)
        if self._campaign.has_archive:
            self._campaign.hold((), sorted(first))
        free = first.keys() - self._taken_numbers
        self._take(
            "phone_number",
            first if len(free) == len(first) else {number: first[number] for number in free},
        )
        if self._try_former:
            self._take("phone_number", self._former_numbers(candidates))
        self._wait_for_locked(candidates)
        if self._campaign.has_archive:
            self._erase_by_phone_number({number: first[number] for number in self._decided(first)})
        taken, erased = self._taken_numbers, self._erased_numbers
        for i, number in candidates:
            if not self.outcomes[i] and (number in taken or number in erased):
                self.outcomes[i] = Outcome.DUPLICATE

    def _wait_for_locked(self, candidates: list[tuple[int, str]]) -> None:
        if not self._locked_numbers:
            return
        for i, number in candidates:
            if not self.outcomes[i] and number in self._locked_numbers:
                self.outcomes[i] = Outcome.WAITS_FOR_LOCK

    def _former_numbers(self, candidates: list[tuple[int, str]]) -> dict[str, int]:
        formers = former_phone_numbers(self._entries)
        wanted: dict[str, int] = {}
        known = self._taken_numbers | self._locked_numbers
        for i, number in candidates:
            if i in formers and not self.outcomes[i] and number not in known:
                wanted.setdefault(formers[i], i)
        return wanted

    def _erase_by_phone_number(self, first: Mapping[str, int]) -> None:
        """Erases the copies with the numbers, and all other copies of the people whom the pass has
        deleted. Where two entries name one copy, the first has it.
        """
        takers = {
            canonical_external_id(lead.external_id): i
            for i, (lead, *_) in (self._found or {}).items()
            if self.outcomes[i] == DELETED_BY_PHONE_NUMBER and lead.external_id is not None
        }
        for copy in self._campaign.erase(sorted(takers), sorted(first)):
            named_by = [first.get(copy.phone_number or ""), takers.get(copy.external_id or "")]
            self._erased(
                min(i for i in named_by if i is not None), copy, Outcome.ERASED_BY_PHONE_NUMBER
            )

    def _take(self, column: Column, wanted: Mapping[str, int]) -> None:
        if not wanted:
            return
        by_id = column == "external_id"
        taken_by = DELETED_BY_EXTERNAL_ID if by_id else DELETED_BY_PHONE_NUMBER
        leads = self._campaign.take(column, sorted(wanted))
        outcomes, taken_numbers = self.outcomes, self._taken_numbers
        for external_id, number, kept in leads:
            i = wanted[(external_id if by_id else number) or ""]
            if kept:
                self._keep(i, number, kept)
            else:
                outcomes[i] = taken_by
                taken_numbers.add(number)
        if self._found is not None:
            for lead in map(TakenLead._make, leads):
                self._found.setdefault(
                    wanted[(lead.external_id if by_id else lead.phone_number) or ""], []
                ).append(lead)
        if self._try_former:
            taken_numbers.update(
                [canonical_phone_number(number) for _, number, kept in leads if number and not kept]
            )

    def _keep(self, i: int, number: str | None, kept: Kept) -> None:
        """A lead that is locked may still go, or not: other entries that name it must not be told
        that it has gone.
        """
        self.outcomes[i] = kept.outcome
        if kept.detail:
            self.details[i] = kept.detail
        numbers = (
            self._locked_numbers if kept.outcome == Outcome.WAITS_FOR_LOCK else self._taken_numbers
        )
        numbers.add(number)
        if self._try_former and number:
            numbers.add(canonical_phone_number(number))

    def _decided(self, wanted: Mapping[str, int]) -> list[str]:
        """Those whose copies may go. The copies of a lead that waits go later, with it."""
        return [
            identifier
            for identifier, i in wanted.items()
            if self.outcomes[i] != Outcome.WAITS_FOR_LOCK
        ]

    def _erased(self, i: int, copy: Copy, outcome: Outcome) -> None:
        if self.outcomes[i] != Outcome.REFUSED:
            self.outcomes[i] = outcome
        self._erased_numbers.add(copy.phone_number)
        if self._found is not None:
            self._found.setdefault(i, []).append(copy)

    def _give_reasons(
        self, left: list[int], candidates: list[tuple[int, str]], ambiguous: set[int]
    ) -> None:
        """Gives entries that took nothing their reasons: of those that fit, the last one."""
        outcomes, entries = self.outcomes, self._entries
        for i in left:
            outcomes[i] = NO_SUCH_LEAD
        for i in with_id_of_a_spreadsheet(entries, left):
            outcomes[i] = Outcome.SPREADSHEET_NUMBER
        if plain := [(i, "+" + number) for i, number in candidates if number[0] != "+"]:
            self._where_existing(plain, Outcome.LACKS_PLUS)
        if self._phone_fallback == PhoneFallback.IF_UNIDENTIFIED and candidates:
            self._where_existing(candidates, Outcome.OTHER_EXTERNAL_ID, identified=True)
        for i in ambiguous.intersection(left):
            outcomes[i] = Outcome.AMBIGUOUS_NUMBER
        if entries.written_phone_numbers is not None:
            for i in left:
                if entries.external_ids[i] is None and entries.phone_numbers[i] is None:
                    outcomes[i] = reason_of_none(entries, i)

    def _where_existing(
        self, numbers: list[tuple[int, str]], reason: Outcome, *, identified: bool = False
    ) -> None:
        wanted = {number for _, number in numbers} - self._taken_numbers - self._erased_numbers
        existing = self._campaign.existing(sorted(wanted), identified=identified) if wanted else ()
        for i, number in numbers:
            if number in existing:
                self.outcomes[i] = reason
