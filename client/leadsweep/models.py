"""What the server answers, typed. Times are aware, in UTC. What a newer server adds is ignored."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypedDict

import msgspec

FINAL = frozenset({"completed", "failed", "cancelled"})


OUTCOMES = (
    "pending",
    "deleted",
    "archived",
    "wouldDelete",
    "restored",
    "conflict",
    "notFound",
    "unprocessed",
    "invalid",
)
"""The outcomes that a lead of a job may have."""


class Lead(TypedDict, total=False):
    """An entry, which names one lead by an externalId, a phone number or both."""

    externalId: str | None
    phoneNumber: str | None


class NewLead(Lead, total=False):
    """A lead to be created: its identifiers, and the data to be kept with it."""

    metadata: Mapping[str, Any] | None


class Options(TypedDict, total=False):
    """How a job is to be done. What is left out has the server's default. `schedule` is written as
    in the API.
    """

    client_reference: str | None
    phone_fallback: bool | Literal["onlyIfUnidentified"]
    phone_region: str | None
    mode: Literal["delete", "archive"]
    dry_run: bool
    schedule: Mapping[str, Any] | None
    callback_url: str | None
    max_leads_per_second: int | None


class Model(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Fields are snake_case here and camelCase in JSON."""


class Accepted(Model, frozen=True):
    """The fields of every answer to a submission. The total is left out where the server has waited
    for the job to end.
    """

    job_id: str
    total: int | None = None


class Submitted(Model, frozen=True):
    """A job as it was accepted. `replayed` says that an earlier call with the same idempotency key
    had made it.
    """

    job_id: str
    status: str
    total: int
    created_at: datetime
    run_at: datetime | None
    replayed: bool = False


class Change(Model, frozen=True):
    """A change of a job's status; `by` is the name of the key that asked for it."""

    status: str
    at: datetime
    by: str | None


class WaitingFor(Model, frozen=True):
    """What keeps a job from going on. `reason` is "locked" or "database"; `leads` says how many
    leads wait, where it is not the whole job.
    """

    reason: str
    since: datetime | None
    leads: int | None
    sqlstate: str | None
    detail: str


class Job(Model, frozen=True):
    """A job as it stands. The lists are None where they are left out (`identifiers_omitted`) or
    purged: see `Client.results`.
    """

    job_id: str
    campaign_id: str
    status: str
    requested: str | None
    client_reference: str | None
    mode: str
    dry_run: bool
    phone_fallback: bool | str
    source_job_id: str | None
    total: int
    processed: int
    deleted: int
    would_delete: int
    restored: int
    conflict: int
    not_found: int
    unprocessed: int
    invalid: int
    error: str | None
    schedule: dict[str, Any] | None
    callback_url: str | None
    max_leads_per_second: int | None
    created_at: datetime
    run_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    identifiers_purged_at: datetime | None
    history: list[Change]
    results_url: str
    erased_from_archive: int = 0
    lacks_plus: int = 0
    other_external_id: int = 0
    phone_region: str | None = None
    waiting_for: WaitingFor | None = None
    identifiers_omitted: bool = False
    deleted_identifiers: list[str] | None = None
    would_delete_identifiers: list[str] | None = None
    restored_identifiers: list[str] | None = None
    conflict_identifiers: list[str] | None = None
    not_found_identifiers: list[str] | None = None
    unprocessed_identifiers: list[str] | None = None
    invalid_identifiers: list[str] | None = None

    @property
    def final(self) -> bool:
        """Whether nothing about it changes any more."""
        return self.status in FINAL


class Result(Model, frozen=True):
    """What became of one entry."""

    index: int
    external_id: str | None
    phone_number: str | None
    identifier: str | None
    outcome: str
    matched_by: str | None
    reason: str | None
    detail: str | None = None
    erased_from_archive: bool = False


class Page(Model, frozen=True):
    """A part of a list, and the cursor of the next."""

    items: list[msgspec.Raw]
    next_cursor: str | None


class StoredLead(Model, frozen=True):
    """A lead as the server has it."""

    id: str
    campaign_id: str
    external_id: str | None
    phone_number: str | None
    metadata: dict[str, Any]
    created_at: datetime | None


class LeadsPage(Model, frozen=True):
    """A part of a campaign's leads, and the cursor of the next."""

    leads: list[StoredLead]
    cursor: str | None


class Created(Model, frozen=True):
    """How many leads were created, and how many were skipped because an identifier was taken."""

    created: int
    skipped: int
    created_ids: list[str]
    skipped_identifiers: list[str]


class Webhook(Model, frozen=True):
    """A URL that gets an event when a job ends. Only the answer that makes a `secret` has it."""

    webhook_id: str
    url: str
    events: list[str]
    description: str
    enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None
    old_secret_until: datetime | None
    created_at: datetime
    secret: str | None = None


class Attempt(Model, frozen=True):
    """One exchange with a receiver: the HTTP status of its answer, or what went wrong."""

    at: datetime
    status_code: int | None
    latency_ms: int | None
    error: str | None


class Delivery(Model, frozen=True):
    """An event that is sent to a webhook or to a job's callback, and the attempts so far. `url` is
    None where the key may not see it.
    """

    delivery_id: str
    event: str
    job_id: str | None
    webhook_id: str | None
    url: str | None
    status: str
    error: str | None
    attempts: list[Attempt]
    next_attempt_at: datetime | None
    created_at: datetime


class Ended(Model, frozen=True):
    """What a webhook says of a job that has ended."""

    job_id: str
    campaign_id: str
    client_reference: str | None
    status: str
    mode: str
    dry_run: bool
    total: int
    deleted: int
    not_found: int
    unprocessed: int
    status_url: str
    deleted_identifiers: list[str] | None = None
    not_found_identifiers: list[str] | None = None
    identifiers_omitted: bool = False


class Event(Model, frozen=True):
    """A webhook that was verified. `job` is None for a test."""

    type: str
    timestamp: datetime
    job: Ended | None
