"""The words of the contract: job states, outcomes and reasons, and the small numbers that stand for outcomes in a chunk.

    scheduled ──▶ queued ──▶ running ──▶ completed | failed | cancelled
                     ▲          │
                     └─ paused ◀┘

`scheduled`, `paused` and `cancelled` are part of the schema; nothing leads to them yet.
"""

from enum import IntEnum, StrEnum


class JobState(StrEnum):
    """The state of a job, as callers see it."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing about the job changes any more."""
        return self in FINAL_STATES


ACTIVE_STATES = frozenset({JobState.QUEUED, JobState.RUNNING})
"""The states in which workers may claim a job's chunks."""

FINAL_STATES = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})


class ChunkState(StrEnum):
    """The state of a chunk: its entries are undecided, or all of them have an outcome."""

    PENDING = "pending"
    DONE = "done"


class Outcome(IntEnum):
    """What became of one entry, with how and why: one element of `chunks.outcomes`. Numbers are never reused."""

    PENDING = 0
    DELETED_BY_EXTERNAL_ID = 1
    DELETED_BY_PHONE_NUMBER = 2
    NO_SUCH_LEAD = 3
    DUPLICATE = 4
    REFUSED = 5
    FAILED = 6

    @property
    def word(self) -> str:
        """The `outcome` that callers see."""
        return _WORDS[self][0]

    @property
    def matched_by(self) -> str | None:
        """The identifier that found the lead, or None."""
        return _WORDS[self][1]

    @property
    def reason(self) -> str | None:
        """Why the entry was not found or not processed, or None."""
        return _WORDS[self][2]


_WORDS: dict[Outcome, tuple[str, str | None, str | None]] = {
    Outcome.PENDING: ("pending", None, None),
    Outcome.DELETED_BY_EXTERNAL_ID: ("deleted", "externalId", None),
    Outcome.DELETED_BY_PHONE_NUMBER: ("deleted", "phoneNumber", None),
    Outcome.NO_SUCH_LEAD: ("notFound", None, "noSuchLead"),
    Outcome.DUPLICATE: ("notFound", None, "duplicate"),
    Outcome.REFUSED: ("unprocessed", None, "refused"),
    Outcome.FAILED: ("unprocessed", None, "failed"),
}


def outcomes_of(word: str) -> list[Outcome]:
    """The outcomes that callers see as `word`; empty for a word that is none."""
    return [outcome for outcome in Outcome if outcome.word == word]
