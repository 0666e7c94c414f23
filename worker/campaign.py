"""The leads of a job's campaign as the decider sees them: what it may ask for, and what it gets."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

from shared.states import Outcome

Column = Literal["external_id", "phone_number"]


class Kept(NamedTuple):
    """Why a lead that was found is still there: REFUSED, by what, or WAITS_FOR_LOCK."""

    outcome: Outcome
    detail: str | None = None


class TakenLead(NamedTuple):
    """A lead that an entry has taken: deleted, unless it is `kept`."""

    external_id: str | None
    phone_number: str | None
    kept: Kept | None


Row = tuple[str | None, str | None, Kept | None]
"""A TakenLead as the driver has it."""


class Copy(NamedTuple):
    """A lead in the archive: canonical identifiers."""

    external_id: str | None
    phone_number: str | None


Found = dict[int, list[TakenLead | Copy]]


class Campaign(Protocol):
    """The leads of a job's campaign, and their copies in the archive where `has_archive` says that
    some are to be erased.

    Identifiers are sorted. Each raises whatever the database does.
    """

    has_archive: bool

    def take(self, column: Column, identifiers: Sequence[str]) -> Sequence[Row]:
        """Deletes the leads whose `column` is one of `identifiers` and returns those there were. By
        number, only those without an external id where the job's phoneFallback says so."""

    def hold(self, external_ids: Sequence[str], phone_numbers: Sequence[str]) -> None:
        """Locks the copies that `erase` would erase."""

    def erase(self, external_ids: Sequence[str], phone_numbers: Sequence[str]) -> Iterable[Copy]:
        """Erases the copies with one of these and returns those there were; by number as `take`."""

    def existing(self, phone_numbers: Sequence[str], *, identified: bool = False) -> set[str]:
        """Those that leads or copies have; `identified`, such as have an external id."""
