"""The first three checks of every call: whose key it has, what the key may do, and how often.

Keys are remembered for REMEMBERED_FOR seconds, unknown ones too, so that a flood of calls asks the
database little, and a revocation is in force soon after. An unknown, a revoked and an expired key
get the same answer. A flood of keys that are all different is held up here: only LOOK_UPS of them
are looked up at once, and keys that were valid when they were last looked up do not wait for them.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar
from uuid import UUID

import structlog
from fastapi import Depends
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request

from api.database import AnyRow, rows
from api.http.answers import ApiError, Forbidden, RateLimited, Unavailable
from api.http.rate_limits import Limiter
from shared.credentials import hash_key
from shared.database.arrays import text_array
from shared.database.plans import BY_INDEX
from shared.settings import Rate, Settings, parse_rate

if TYPE_CHECKING:
    from api.http.services import Services

REMEMBERED_FOR = 2.0  # seconds; the contract allows 5 for a revocation to be in force
REMEMBERED_KEYS = 10_000  # valid ones, and as many unknown ones: a few MB each
# Characters. Our keys have 36. A longer one is looked up each time: remembered, a flood of them
# would fill the memory.
REMEMBERED_LENGTH = 255
# How many keys are looked up at once that this process does not remember. Of the pool's ten
# connections (the default) two are left for other calls.
LOOK_UPS = 8
# Seconds that one more key waits for its turn. A look-up takes 1 ms, so a longer wait means that
# the database is not well.
LOOK_UP_TIMEOUT = 2.0
USES_NOTED_EVERY = 5.0  # seconds

ACTIVE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())"

_FIND_KEY = text(f"""
    SELECT id, company_id, campaign_id, scope, name, rate_limit_submit, rate_limit_read
    FROM api_keys
    WHERE hash = :hash AND {ACTIVE} AND {BY_INDEX}
""")

_NOTE_USE = text(f"""
    UPDATE api_keys SET last_used_at = clock_timestamp()
    WHERE id = ANY(CAST(:ids AS uuid[])) AND {BY_INDEX}
        AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')
    RETURNING id
""")

log = structlog.get_logger()


class Key(NamedTuple):
    """An active API key. `campaign_id` is None for the whole company; the rates are None where the
    server's apply.
    """

    id: UUID
    company_id: str
    campaign_id: str | None
    scope: str
    name: str
    submit_rate: Rate | None
    read_rate: Rate | None

    @property
    def reach(self) -> tuple[str, str | None, str]:
        """What the key may do, and where."""
        return self.company_id, self.campaign_id, self.scope

    def sees(self, campaign_id: str) -> bool:
        """Whether the key reaches this campaign of its company."""
        return self.campaign_id is None or self.campaign_id == campaign_id

    @property
    def owns_webhooks(self) -> bool:
        """Whether the key may see and change the company's webhooks, which tell of all of its
        jobs.
        """
        return self.scope == "write" and self.campaign_id is None


class Authenticator:
    """Finds the key of a call and counts the call."""

    def __init__(self, engine: AsyncEngine, limiter: Limiter, settings: Settings) -> None:
        """`engine` autocommits."""
        self._engine = engine
        self._limiter = limiter
        self._settings = settings
        # By the key as it is written: until when it is remembered (time.monotonic). Unknown keys
        # stand apart: anybody can make up any number of them, and they must not push valid ones
        # out.
        self._valid: OrderedDict[str, tuple[float, Key]] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._looking: dict[str, asyncio.Task[Key | None]] = {}
        self._turns = asyncio.Semaphore(max(1, min(LOOK_UPS, settings.pool_size - 2)))
        self._used: set[UUID] = set()

    async def admit(
        self, request: Request, *, writing: bool = False, submitting: bool = False
    ) -> Key:
        """Returns the key of the call. It must have the scope `write` where the call is `writing`,
        or `submitting`, which means that it makes a job.

        Raises ApiError 401, Forbidden for lack of scope, RateLimited.
        """
        key = await self._caller_key(request)
        if submitting:
            kind, rate = "submit", key.submit_rate or self._settings.rate_limit_submit
        else:
            kind, rate = "read", key.read_rate or self._settings.rate_limit_read
        allowance = await self._limiter.count(f"{kind}:{key.id}", rate)
        request.scope["allowance"] = allowance
        # The call is counted all the same, as its answer says how much is left.
        if (writing or submitting) and key.scope != "write":
            raise Forbidden
        if allowance.refused:
            raise RateLimited(allowance)
        return key

    async def admit_again(self, request: Request) -> None:
        """Checks the key of a call once more, as its body may have taken long to arrive.

        Raises ApiError 401 where the key is not active any more, Forbidden where its reach has
        changed.
        """
        admitted: Key = request.scope["key"]
        if (await self.key_now(request)).reach != admitted.reach:
            raise Forbidden

    async def key_now(self, request: Request) -> Key:
        """The key of a call that was admitted a while ago. Raises ApiError 401 where it is not
        active any more.
        """
        key = await self._find(request.headers["x-api-key"])
        if key is None:
            raise inactive_key()
        return key

    async def note_uses(self) -> None:
        """Writes down, again and again, which keys were used; ends only when cancelled."""
        while True:
            await asyncio.sleep(USES_NOTED_EVERY)
            await self.note_used()

    async def note_used(self) -> None:
        """Writes down which keys were used since the last time."""
        used, self._used = self._used, set()
        if not used:
            return
        try:
            await rows(self._engine, _NOTE_USE, {"ids": text_array(map(str, used))})
        except (SQLAlchemyError, TimeoutError) as error:
            log.warning("use of keys not noted", error=type(error).__name__)

    async def _caller_key(self, request: Request) -> Key:
        written = request.headers.getlist("x-api-key")
        if not written:
            raise ApiError(401, "Missing API key")
        key = await self._find(written[0]) if len(written) == 1 else None
        if key is None:
            raise inactive_key()
        request.scope["key"] = key
        self._used.add(key.id)
        return key

    async def _find(self, written: str) -> Key | None:
        until, key = self._valid.get(written, (self._unknown.get(written, 0.0), None))
        if until > time.monotonic():
            return key
        looking = self._looking.get(written)
        if looking is None:
            looking = asyncio.create_task(self._look_up(written, was_valid=key is not None))
            self._looking[written] = looking
            looking.add_done_callback(lambda _: self._looking.pop(written))
        return await asyncio.shield(looking)  # others may be waiting for it

    async def _look_up(self, written: str, *, was_valid: bool) -> Key | None:
        async with nullcontext() if was_valid else self._turn():
            until = time.monotonic() + REMEMBERED_FOR
            active = await rows(self._engine, _FIND_KEY, {"hash": hash_key(written)})
        key = _key_of(active[0]) if active else None
        self._valid.pop(written, None)
        self._unknown.pop(written, None)
        if key:
            _remember(self._valid, written, (until, key))
        else:
            _remember(self._unknown, written, until)
        return key

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Holds one of the turns. Raises Unavailable where others take too long."""
        try:
            async with asyncio.timeout(LOOK_UP_TIMEOUT):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable from None
        try:
            yield
        finally:
            self._turns.release()


Remembered = TypeVar("Remembered")


def _remember(memory: OrderedDict[str, Remembered], written: str, value: Remembered) -> None:
    """Adds the newest key, unless it is very long, and forgets the oldest where there are too
    many.
    """
    if len(written) > REMEMBERED_LENGTH:
        return
    memory[written] = value
    if len(memory) > REMEMBERED_KEYS:
        memory.popitem(last=False)


def inactive_key() -> ApiError:
    """The same answer for unknown, revoked and expired keys."""
    return ApiError(401, "Invalid or inactive API key")


def _key_of(row: AnyRow) -> Key:
    return Key(
        id=row.id,
        company_id=row.company_id,
        campaign_id=row.campaign_id,
        scope=row.scope,
        name=row.name,
        submit_rate=_rate(row.rate_limit_submit),
        read_rate=_rate(row.rate_limit_read),
    )


def _rate(written: str | None) -> Rate | None:
    """The rate of a key, which an operator may have written by hand."""
    try:
        return parse_rate(written) if written else None
    except ValueError as error:
        log.warning(
            "limit of a key not understood",
            error=str(error),
            hint="correct rate_limit_submit and rate_limit_read",
        )
        return None


async def reader(request: Request) -> Key:
    """Admits a call that only reads. Raises as Authenticator.admit does."""
    services: Services = request.app.state.services
    return await services.authenticator.admit(request)


async def writer(request: Request) -> Key:
    """Admits a call by a key that may write. Raises as Authenticator.admit does."""
    services: Services = request.app.state.services
    return await services.authenticator.admit(request, writing=True)


Reader = Annotated[Key, Depends(reader)]
Writer = Annotated[Key, Depends(writer)]
