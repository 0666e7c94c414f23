"""The words of the contract: job states and actions, events, outcomes and reasons, and the small
numbers that stand for outcomes. Columns, checks and statements use what is declared here.

    scheduled ── due ──▶ queued ── claim ──▶ running ── nothing pending ──▶ completed | failed
        ▲                   │                   │
        └── window shuts ───┴───────────────────┘

    scheduled, queued, running ── pause ──▶ paused ── resume ──▶ queued, or scheduled if not yet due
    scheduled, queued, running, paused ── cancel ──▶ cancelled

Nothing follows a final state; retry, execute and restore make a new job.
"""

from collections.abc import Iterable
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


ACTIVE_STATES = (JobState.QUEUED, JobState.RUNNING)
"""The states in which workers may claim a job's chunks."""

STARTED_STATES = (JobState.SCHEDULED, *ACTIVE_STATES)
"""The states from which a job can be paused, or put back when its window shuts."""

FINAL_STATES = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


def quoted(words: Iterable[str]) -> str:
    """The words as they stand in the parentheses of an SQL `IN`: `'queued', 'running'`."""
    return ", ".join(f"'{word}'" for word in words)


class Action(StrEnum):
    """What callers can do to a job. The last three make a new job and leave this one as it is."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    EXECUTE = "execute"
    RESTORE = "restore"


_UNFINISHED = frozenset(JobState).difference(FINAL_STATES)

POSSIBLE_IN: dict[Action, frozenset[JobState]] = {
    Action.CANCEL: _UNFINISHED | {JobState.CANCELLED},
    Action.PAUSE: _UNFINISHED,
    Action.RESUME: _UNFINISHED,
    Action.RETRY: frozenset({JobState.FAILED, JobState.CANCELLED}),
    Action.EXECUTE: frozenset({JobState.COMPLETED}),
    Action.RESTORE: frozenset(FINAL_STATES),
}
"""The states in which an action is possible, or harmless because it has been done. Execute also
needs a preview, restore an archive job."""


class Request(StrEnum):
    """What the row of a job asks for, to be done once no chunk of the job is in hand: an action of
    its callers, the end of its window, or its end after a day in which the database was not well.
    """

    PAUSE = "pause"
    CANCEL = "cancel"
    CLOSE = "close"
    FAIL = "fail"


class Mode(StrEnum):
    """What a job does with the leads that its entries name."""

    DELETE = "delete"
    ARCHIVE = "archive"
    RESTORE = "restore"


class PhoneFallback(StrEnum):
    """Whether an entry whose `externalId` names no lead may take the one with its `phoneNumber`."""

    ALWAYS = "always"
    NEVER = "never"
    IF_UNIDENTIFIED = "onlyIfUnidentified"
    """A phone number finds only leads that have no `externalId` of their own, also where its entry
    has no `externalId` either.
    """

    @property
    def written(self) -> bool | str:
        """As callers write it."""
        return {PhoneFallback.ALWAYS: True, PhoneFallback.NEVER: False}.get(self, str(self))


class ChunkState(StrEnum):
    """The state of a chunk: its entries are undecided, or all of them have an outcome."""

    PENDING = "pending"
    DONE = "done"


class Event(StrEnum):
    """What webhooks tell of: the ends of a job, and a test that its owner asks for."""

    COMPLETED = "job.completed"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"
    TEST = "webhook.test"


JOB_EVENTS = tuple(event for event in Event if event != Event.TEST)
"""The events that a webhook can be registered for."""

EVENT_AT_END: dict[str, Event] = {
    JobState.COMPLETED: Event.COMPLETED,
    JobState.FAILED: Event.FAILED,
    JobState.CANCELLED: Event.CANCELLED,
}
"""What is told when a job reaches a final state."""


class DeliveryState(StrEnum):
    """The state of a delivery: it is tried again, was answered 2xx, or is given up."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Outcome(IntEnum):
    """What became of one entry, with how and why: one element of `chunks.outcomes`. Numbers are
    never reused.
    """

    PENDING = 0
    DELETED_BY_EXTERNAL_ID = 1
    DELETED_BY_PHONE_NUMBER = 2
    NO_SUCH_LEAD = 3
    DUPLICATE = 4
    REFUSED = 5
    FAILED = 6
    WOULD_DELETE_BY_EXTERNAL_ID = 7
    WOULD_DELETE_BY_PHONE_NUMBER = 8
    ARCHIVED_BY_EXTERNAL_ID = 9
    ARCHIVED_BY_PHONE_NUMBER = 10
    CHANGED = 11
    RESTORED = 12
    CONFLICT = 13
    PURGED = 14
    CANCELLED = 15
    UNREADABLE = 16
    NO_IDENTIFIER = 17
    TOO_LONG = 18
    UNUSABLE_CHARACTER = 19
    NOT_A_PHONE_NUMBER = 20
    SPREADSHEET_NUMBER = 21
    LACKS_PLUS = 22
    AMBIGUOUS_NUMBER = 23
    OTHER_EXTERNAL_ID = 24
    ERASED = 25
    ERASED_BY_EXTERNAL_ID = 26
    ERASED_BY_PHONE_NUMBER = 27
    WOULD_DELETE_OTHER = 28
    INVALID_PHONE_NUMBER = 29
    INVALID_SPREADSHEET_NUMBER = 30
    WAITS_FOR_LOCK = 31
    TOO_SLOW = 32
    LOCKED = 33
    CAMPAIGN_MOVED = 34

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
        """Why the entry was not found, not processed or is still pending, or None."""
        return _WORDS[self][2]

    @property
    def count(self) -> str | None:
        """The column of `jobs` and `chunks` that counts it, or None while it is pending."""
        return _COUNT_OF_WORD.get(self.word)

    @property
    def erased(self) -> bool:
        """Whether a copy in the archive was erased, with a lead or without one."""
        return self in NOTED["erased"]


_WORDS: dict[Outcome, tuple[str, str | None, str | None]] = {
    Outcome.PENDING: ("pending", None, None),
    Outcome.DELETED_BY_EXTERNAL_ID: ("deleted", "externalId", None),
    Outcome.DELETED_BY_PHONE_NUMBER: ("deleted", "phoneNumber", None),
    Outcome.NO_SUCH_LEAD: ("notFound", None, "noSuchLead"),
    Outcome.DUPLICATE: ("notFound", None, "duplicate"),
    Outcome.REFUSED: ("unprocessed", None, "refused"),
    Outcome.FAILED: ("unprocessed", None, "failed"),
    Outcome.WOULD_DELETE_BY_EXTERNAL_ID: ("wouldDelete", "externalId", None),
    Outcome.WOULD_DELETE_BY_PHONE_NUMBER: ("wouldDelete", "phoneNumber", None),
    Outcome.ARCHIVED_BY_EXTERNAL_ID: ("archived", "externalId", None),
    Outcome.ARCHIVED_BY_PHONE_NUMBER: ("archived", "phoneNumber", None),
    Outcome.CHANGED: ("notFound", None, "changed"),
    Outcome.RESTORED: ("restored", None, None),
    Outcome.CONFLICT: ("conflict", None, None),
    Outcome.PURGED: ("notFound", None, "purged"),
    Outcome.CANCELLED: ("unprocessed", None, "cancelled"),
    Outcome.UNREADABLE: ("invalid", None, "unreadable"),
    Outcome.NO_IDENTIFIER: ("invalid", None, "noIdentifier"),
    Outcome.TOO_LONG: ("invalid", None, "tooLong"),
    Outcome.UNUSABLE_CHARACTER: ("invalid", None, "unusableCharacter"),
    Outcome.NOT_A_PHONE_NUMBER: ("notFound", None, "notAPhoneNumber"),
    Outcome.SPREADSHEET_NUMBER: ("notFound", None, "spreadsheetNumber"),
    Outcome.LACKS_PLUS: ("notFound", None, "lacksPlus"),
    Outcome.AMBIGUOUS_NUMBER: ("notFound", None, "ambiguousNumber"),
    Outcome.OTHER_EXTERNAL_ID: ("notFound", None, "otherExternalId"),
    Outcome.ERASED: ("notFound", None, "erased"),
    Outcome.ERASED_BY_EXTERNAL_ID: ("deleted", "externalId", None),
    Outcome.ERASED_BY_PHONE_NUMBER: ("deleted", "phoneNumber", None),
    Outcome.WOULD_DELETE_OTHER: ("wouldDelete", "phoneNumber", "otherExternalId"),
    Outcome.INVALID_PHONE_NUMBER: ("invalid", None, "notAPhoneNumber"),
    Outcome.INVALID_SPREADSHEET_NUMBER: ("invalid", None, "spreadsheetNumber"),
    Outcome.WAITS_FOR_LOCK: ("pending", None, "locked"),
    Outcome.TOO_SLOW: ("unprocessed", None, "tooSlow"),
    Outcome.LOCKED: ("unprocessed", None, "locked"),
    Outcome.CAMPAIGN_MOVED: ("unprocessed", None, "campaignMoved"),
}

_COUNT_OF_WORD = {
    "deleted": "deleted",
    "archived": "deleted",
    "wouldDelete": "would_delete",
    "restored": "restored",
    "conflict": "conflict",
    "notFound": "not_found",
    "unprocessed": "unprocessed",
    "invalid": "invalid",
}

CHANGING_WORDS = frozenset({"deleted", "archived", "restored", "wouldDelete"})
"""The outcomes of leads that were changed, or that a preview's execution would change."""

COUNTS = tuple(dict.fromkeys(_COUNT_OF_WORD.values()))
"""The columns that count outcomes; in a finished job they sum to `total`."""

SUM_OF_COUNTS = " + ".join(COUNTS)
"""The entries that have an outcome, in SQL."""

NOTED: dict[str, frozenset[Outcome]] = {
    "erased": frozenset({Outcome.ERASED_BY_EXTERNAL_ID, Outcome.ERASED_BY_PHONE_NUMBER}),
    "lacks_plus": frozenset({Outcome.LACKS_PLUS}),
    "other_external_id": frozenset({Outcome.WOULD_DELETE_OTHER}),
}
"""The columns that count some outcomes once more, which COUNTS have counted: those that a caller
should look at.
"""

COUNT_COLUMNS = (*COUNTS, *NOTED)
"""All columns that count outcomes, of `jobs` and of `chunks`."""


def outcomes_of(word: str) -> list[Outcome]:
    """The outcomes that callers see as `word`; none for a word that is not an outcome's."""
    return [outcome for outcome in Outcome if outcome.word == word]
