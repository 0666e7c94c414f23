"""Delivers webhooks: takes a delivery that is due, composes and signs it, sends it, and records the
attempt.

Only the lease is open across the POST. A delivery that goes wrong, here or there, does not hold up
others.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import structlog
from sqlalchemy import Connection, Engine, text

from shared.broker.sender import WEBHOOKS_QUEUE
from shared.broker.wakeups import Wake
from shared.credentials import Vault, in_force, new_secret, sign
from shared.destinations import Network
from worker.attempts import record
from worker.composer import compose
from worker.outbox import Claimed, claim
from worker.poster import Reply, post

TURN = 1.0  # seconds of work for one message; a message wakes one thread

# For a company that its operator made with SQL of their own.
_GIVE_SECRET = text("""
    UPDATE companies SET webhook_secret = coalesce(webhook_secret, :secret)
    WHERE id = :company_id RETURNING webhook_secret
""")

log = structlog.get_logger()


class Terms(NamedTuple):
    """What a deliverer needs beside the database: the key of the secrets, and networks that are
    allowed though not public.
    """

    vault: Vault
    allowed: Sequence[Network]


def deliver_next(engine: Engine, terms: Terms, wake: Wake) -> None:
    """Delivers what is due, one after another, for about TURN. Raises DBAPIError. Whatever a
    receiver does is recorded.
    """
    end_of_turn = time.monotonic() + TURN
    claimed = _claim(engine)
    if claimed and claimed.more:
        wake.workers(WEBHOOKS_QUEUE)  # one thread wakes one other, until all that is due is in hand
    while claimed:
        began = time.monotonic()
        reply = _send(engine, terms, claimed)
        with engine.begin() as connection:
            record(connection, claimed, reply, time.monotonic() - began)
        if time.monotonic() >= end_of_turn:
            wake.workers(WEBHOOKS_QUEUE)
            return
        claimed = _claim(engine)


def _claim(engine: Engine) -> Claimed | None:
    while True:
        with engine.begin() as connection:
            claimed = claim(connection)
        if claimed is None or claimed.wanted:
            return claimed


def _send(engine: Engine, terms: Terms, claimed: Claimed) -> Reply:
    with engine.begin() as connection:
        try:
            body = compose(connection, claimed)
            signing = [
                terms.vault.unlock(locked)
                for locked in _locked_secrets(connection, terms.vault, claimed)
            ]
        except LookupError:
            return Reply(error="the job is gone", sent=False)  # and the delivery with it
        except ValueError as error:
            hint = "add the key that it was encrypted with to LEADSWEEP_SECRETS_KEY, after a comma"
            log.error("webhook not signed", delivery=str(claimed.id), error=str(error), hint=hint)  # noqa: TRY400 - no trace
            return Reply(error="not signed", sent=False)
    return post(claimed.url, sign(signing, str(claimed.id), claimed.now, body), body, terms.allowed)


def _locked_secrets(connection: Connection, vault: Vault, claimed: Claimed) -> list[bytes]:
    """The secrets that sign, encrypted. A company without a secret gets one. Raises ValueError
    where the company is gone.
    """
    secret = claimed.secret
    if secret is None:
        values = {"secret": vault.lock(new_secret()), "company_id": claimed.company_id}
        secret = connection.execute(_GIVE_SECRET, values).scalar_one_or_none()
    if secret is None:
        raise ValueError("the company is gone")
    return [secret, *in_force(claimed.old_secrets, claimed.now)]
