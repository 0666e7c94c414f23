"""The transaction of a part: locks its chunk, has the leads of some of its entries taken, or all,
and writes their outcomes; with the last one, its job is finished. It happens wholly or not at all.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, text

from shared.database.archive import HAS_ARCHIVE
from shared.identifiers.canonical import FORM
from shared.states import CHANGING_WORDS, Mode, Outcome
from worker.claimer import Claim
from worker.entries import Entries, read_again
from worker.finisher import DecidedChunk, Finished, finish
from worker.known_leads import KnownLeads, take_known
from worker.part import QUICK_PART, Part
from worker.previewer import Place, preview
from worker.refusals import Refusals
from worker.restorer import restore
from worker.setbacks import go_on
from worker.taker import Manner, look_up_and_take

LOOK_EVERY = 0.1  # seconds, of one connection, between looks whether somebody waits for a campaign

# `limits`: lock waits end long before the part does, and a frozen worker keeps its locks for 10 s
# at most. The time-out of locks is in force before the row is locked: a locking clause works on the
# rows of the join. That of statements holds from the next one on.
#
# `veto`: of a trigger, 11 stands for row, before, delete.
#
# `waited_long`: while its job waits, no lock is tried.
#
# `may_begin`: one part at a time, of all, may take longer than others: its worker is not there for
# anybody else meanwhile.
#
# `owner`: the campaign stays with its company until this transaction is over. Its id and its
# company are a key (campaigns_owner_key), so whoever changes either of them waits for FOR KEY
# SHARE. Where they came first, SKIP LOCKED finds no owner, though the campaign is there. Other
# changes to a campaign are in nobody's way.
#
# `is_waited_for`: others can join a shared lock ahead of somebody who waits for its end. So that is
# looked for now and then: whoever waits holds the lock of the row's place.
_LOCK_CHUNK = text(f"""
    WITH limits AS MATERIALIZED (
        SELECT set_config('lock_timeout', '500ms', true),
            set_config('statement_timeout', :milliseconds, true),
            set_config('idle_in_transaction_session_timeout', '10s', true)
    )
    SELECT external_ids, phone_numbers, outcomes, written_external_ids, written_phone_numbers,
        lead_ids, lead_external_ids, lead_phone_numbers,
        (
            SELECT string_agg(tgname, ', ') FROM pg_trigger
            WHERE tgrelid = 'leads'::regclass AND NOT tgisinternal AND tgtype & 11 = 11
        ) AS veto,
        EXISTS (SELECT FROM pg_trigger WHERE tginitdeferred) AS defers,
        locked_since IS NOT NULL AND locked_since < coalesce(
            (SELECT waiting_since FROM jobs WHERE id = :job_id), clock_timestamp()
        ) - CAST(:lock_wait AS interval) AS waited_long,
        NOT :is_long OR pg_try_advisory_xact_lock(3141592653) AS may_begin,
        CASE WHEN :is_old OR written_external_ids IS NOT NULL OR written_phone_numbers IS NOT NULL
            THEN (SELECT form FROM canonical_forms) END AS stored_form,
        :erases AND {HAS_ARCHIVE} AS has_archive,
        (
            SELECT company_id FROM campaigns WHERE id = :campaign_id FOR KEY SHARE SKIP LOCKED
        ) AS owner,
        EXISTS (SELECT FROM campaigns WHERE id = :campaign_id) AS has_campaign,
        :looks AND EXISTS (
            SELECT FROM campaigns JOIN pg_locks ON ctid = format('(%s,%s)', page, tuple)::tid
            WHERE id = :campaign_id AND locktype = 'tuple' AND relation = 'campaigns'::regclass
                AND mode = 'AccessExclusiveLock'
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        ) AS is_waited_for
    FROM limits CROSS JOIN chunks
    WHERE job_id = :job_id AND number = :number AND state = 'pending' AND retry_at = :lease_end
        FOR UPDATE OF chunks
""")

_CHANGES = bytes(outcome for outcome in Outcome if outcome.word in CHANGING_WORDS)

_MOVED = bytes.maketrans(
    bytes((Outcome.PENDING, Outcome.WAITS_FOR_LOCK)), bytes((Outcome.CAMPAIGN_MOVED,) * 2)
)


class NotNow(Exception):
    """A part that takes long may not begin while another one does."""


class CampaignLocked(Exception):
    """Somebody is moving the campaign to another company, or deleting it: until they are done, no
    lead may go.
    """


@dataclass
class Try:
    """How a part is tried: after each setback more carefully. With a `verdict`, only that is
    written any more.

    `chosen` are the entries that it was first tried with: whatever follows is about these and no
    others.
    """

    deadline: float  # by the monotonic clock
    around_refused: bool = False
    doubtful: bool = False  # around errors, too, that may not be about a lead
    skip_locked: bool = False
    verdict: Outcome | None = None
    detail: str | None = None
    chosen: slice | None = None


def decide_part(part: Part, claimed: Claim, how: Try, lock_wait: timedelta) -> Finished | None:
    """Decides some entries of the chunk, and finishes the job if they are its last. A chunk that is
    done is left alone.

    What has been locked for `lock_wait` is given up.
    Raises NotNow, CampaignLocked, TimeIsUp, ArchiveAppeared, DBAPIError.
    """
    erases = claimed.mode == Mode.DELETE
    values = {"job_id": claimed.job_id, "number": claimed.number, "lease_end": claimed.lease_end}
    values |= {"campaign_id": claimed.campaign_id, "erases": erases, "is_old": claimed.form < FORM}
    values |= {"milliseconds": part.milliseconds, "lock_wait": lock_wait}
    values |= {"is_long": claimed.part_seconds is not None and how.verdict is None}
    values |= {"looks": _looks(part.connection)}
    row = part.connection.execute(_LOCK_CHUNK, values).one_or_none()
    if row is None:
        return None
    if (row.is_waited_for or (row.owner is None and row.has_campaign)) and how.verdict is None:
        part.connection.info.pop("looked_at", None)  # the next part looks again
        raise CampaignLocked
    if row.owner not in {None, claimed.company_id}:
        return _end_the_rest(part, claimed, row.outcomes)
    if not row.may_begin:
        raise NotNow
    only_locked = Outcome.PENDING not in row.outcomes
    chosen = how.chosen = how.chosen or _choose(row.outcomes, claimed, only_locked=only_locked)
    entries = Entries(
        row.external_ids,
        row.phone_numbers,
        row.outcomes,
        row.written_external_ids,
        row.written_phone_numbers,
    ).at(chosen)
    if only_locked:
        entries = entries._replace(
            outcomes=[outcome * (outcome != Outcome.WAITS_FOR_LOCK) for outcome in entries.outcomes]
        )
    part.size, part.defers = entries.outcomes.count(Outcome.PENDING), row.defers
    if how.verdict:
        outcomes = _give_verdict(part, entries, how.verdict, how.detail)
    else:
        if only_locked and not how.skip_locked:
            how = replace(how, skip_locked=True)
        outcomes = _take(part, claimed, row, (chosen, entries), how)
    if row.waited_long:
        outcomes = outcomes.replace(bytes((Outcome.WAITS_FOR_LOCK,)), bytes((Outcome.LOCKED,)))
    quick = part.elapsed < QUICK_PART
    part.allow_to_finish()
    went = _changes(outcomes) > _changes(bytes(entries.outcomes))
    if claimed.waited or (claimed.max_entries is not None and quick):
        go_on(part.connection, claimed, quick=quick, went=went)
    before, after = bytes(row.outcomes[: chosen.start]), bytes(row.outcomes[chosen.stop :])
    looked_up = not claimed.dry_run and how.verdict is None
    archiveless = claimed.campaign_id if looked_up and erases and not row.has_archive else None
    details = {chosen.start + i: detail for i, detail in part.details.items()}
    whole = before + outcomes + after
    decided = DecidedChunk(claimed.number, whole, archiveless, details, quick, went)
    return finish(part.connection, claimed.job_id, decided)


def _looks(connection: Connection) -> bool:
    """Whether it is time to look whether anybody waits for the campaign, which costs as much as a
    lead or two.
    """
    is_time: bool = time.monotonic() - connection.info.get("looked_at", 0.0) > LOOK_EVERY
    if is_time:
        connection.info["looked_at"] = time.monotonic()
    return is_time


def _end_the_rest(part: Part, claimed: Claim, outcomes: Sequence[int]) -> Finished | None:
    """Ends a chunk whose campaign is another company's by now: the entries without an outcome will
    not be decided, and no lead is touched.
    """
    if claimed.waited:
        go_on(part.connection, claimed, quick=False, went=False)
    ended = bytes(outcomes).translate(_MOVED)
    part.allow_to_finish()
    return finish(part.connection, claimed.job_id, DecidedChunk(claimed.number, ended, went=False))


def _choose(outcomes: Sequence[int], claimed: Claim, *, only_locked: bool) -> slice:
    """The entries to be worked on now: all of a chunk, or as many as the claim allows. Where all
    that are left are locked, it begins anywhere, as the first may be locked for long.
    """
    length = 1 if claimed.part_seconds else claimed.max_entries
    if length is None:
        return slice(0, len(outcomes))
    undecided = Outcome.WAITS_FOR_LOCK if only_locked else Outcome.PENDING
    places = [i for i, outcome in enumerate(outcomes) if outcome == undecided]
    if only_locked:
        places = places[random.randrange(len(places)) :]  # noqa: S311 - no secret
    return slice(places[0], places[length] if length < len(places) else len(outcomes))


def _changes(outcomes: bytes) -> int:
    return sum(map(outcomes.count, _CHANGES))


def _give_verdict(part: Part, entries: Entries, verdict: Outcome, detail: str | None) -> bytes:
    if detail:
        part.details = {i: detail for i, outcome in enumerate(entries.outcomes) if not outcome}
    return bytes(outcome or verdict for outcome in entries.outcomes)


def _take(part: Part, claimed: Claim, row: Any, chosen: tuple[slice, Entries], how: Try) -> bytes:
    """Does with the leads of the entries what the job is for; returns the outcome of each entry."""
    place, entries = chosen
    known = KnownLeads(row.lead_ids, row.lead_external_ids, row.lead_phone_numbers)
    leads = known.at(place)
    refusals = Refusals(part, doubtful=how.doubtful) if how.around_refused else None
    try_former = row.stored_form is not None and row.stored_form < FORM
    manner = Manner(refusals, row.veto, how.skip_locked, row.has_archive, try_former)
    if claimed.dry_run:
        in_chunk = Place(place.start, len(row.outcomes), known)
        outcomes = preview(part, claimed, _today(claimed, entries), in_chunk, manner)
    elif claimed.mode == Mode.RESTORE:
        outcomes = restore(part, claimed.job_id, entries, leads, manner)
    elif leads.ids is not None:
        outcomes = take_known(part, claimed, entries, leads, manner)
    else:
        outcomes = look_up_and_take(part, claimed, _today(claimed, entries), manner)
    if refusals:
        refusals.check(fails_alone=claimed.fails_alone)
    part.check_what_is_deferred()
    return outcomes


def _today(claimed: Claim, entries: Entries) -> Entries:
    """The entries as today's rules read them, where the job was accepted by former ones."""
    return read_again(entries, claimed.phone_region) if claimed.form < FORM else entries
