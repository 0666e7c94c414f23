"""Puts the API together: what a process opens at its start and closes at its end, and how errors
become answers.
"""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from psycopg import errors
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from api import health
from api.description import pages
from api.description.openapi import ABOUT, TAGS, Described
from api.files import routes as files
from api.files.receive import Receiver
from api.http.answers import Answer, ApiError, Envelope, InvalidRequest, Unavailable
from api.http.auth import Authenticator
from api.http.places import Places
from api.http.rate_limits import Limiter, open_redis
from api.http.request import Bodies
from api.http.services import Services
from api.jobs import routes as jobs
from api.jobs.results import EXPORTS_AT_ONCE, EXPORTS_OF_ONE_COMPANY
from api.jobs.waiting import Waiter
from api.leads import routes as leads
from api.webhooks import routes as webhooks
from shared.broker.sender import Sender
from shared.database.engines import create_api_engine
from shared.database.sqlstates import is_locked, is_of_a_function, sqlstate
from shared.settings import Settings
from shared.settings import settings as environment

log = structlog.get_logger()


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI application; `settings` are those of the environment unless given."""
    app = Described(
        title="Leadsweep",
        version=version("leadsweep-server"),
        description=ABOUT,
        openapi_tags=TAGS,
        lifespan=partial(_lifespan, settings=settings or environment()),
        openapi_url=None,  # api.description.pages serves it, and the page without a CDN
        redirect_slashes=False,
    )
    for routes in (jobs, files, leads, webhooks, health, pages):
        app.include_router(routes.router)
    app.add_middleware(Envelope)
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid_parameter)
    app.add_exception_handler(HTTPException, _answer_routing_error)
    for kind in (DBAPIError, PoolTimeoutError, TimeoutError):
        app.add_exception_handler(kind, _answer_database_error)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    # Each statement of the API is a transaction of its own: no round trips for BEGIN and COMMIT,
    # none left open.
    engine = create_api_engine(
        settings,
        "api",
        isolation_level="AUTOCOMMIT",
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=4,
    )
    redis = open_redis(settings.limiter_url) if settings.limiter_url else None
    limiter = Limiter(redis)
    services = Services(
        settings=settings,
        engine=engine,
        limiter=limiter,
        authenticator=Authenticator(engine, limiter, settings),
        bodies=Bodies(),
        exports=Places(EXPORTS_AT_ONCE, EXPORTS_OF_ONE_COMPANY),
        receiver=Receiver(engine, settings),
        waiter=Waiter(engine, settings.limiter_url),
        sender=Sender(settings.broker_url),
    )
    app.state.services = services
    tasks = [
        asyncio.create_task(work)
        for work in (services.authenticator.note_uses(), services.waiter.run())
    ]
    # What is loaded by now stays loaded. If it were not frozen, the thousand dicts of each body
    # would make the collector walk through all of it again and again.
    gc.collect()
    gc.freeze()
    log.info("api ready")
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await services.authenticator.note_used()
        services.sender.close()
        services.receiver.close()
        if redis:
            await redis.aclose()
        await engine.dispose()


async def _answer_api_error(_request: Request, error: Any) -> Answer:
    answer: Answer = error.answer()
    return answer


async def _answer_invalid_parameter(_request: Request, error: Any) -> Answer:
    return InvalidRequest(f"Invalid query parameter: {error.errors()[0]['loc'][-1]}").answer()


async def _answer_routing_error(_request: Request, error: Any) -> Answer:
    message = {404: "Not found", 405: "Method not allowed"}.get(
        error.status_code, "Request refused"
    )
    headers = error.headers
    if headers and headers.get("Allow") == "GET":
        headers = {"Allow": "GET, HEAD"}  # which api.http.answers makes of it
    return ApiError(error.status_code, message, headers).answer()


async def _answer_database_error(_request: Request, error: Any) -> Answer:
    """Answers 503 where the database is away, not well, or not migrated. Any other error is a fault
    of ours: it is raised again, and answered with 500.
    """
    hint = _hint_of(error)
    if hint is None:
        raise error
    cause = type(getattr(error, "orig", error)).__name__
    log.warning("database not usable", error=cause, sqlstate=sqlstate(error), hint=hint)
    return Unavailable().answer()


def _hint_of(error: Any) -> str | None:
    """What the operator can do about the error; None where it is a fault of ours."""
    cause = getattr(error, "orig", error)
    if isinstance(cause, errors.UndefinedTable | errors.UndefinedColumn):
        return "run: leadsweep migrate"
    if isinstance(cause, errors.ReadOnlySqlTransaction):
        return "DATABASE_URL leads to a standby; point it at the primary"
    if is_locked(error):
        return "end the transaction that holds the lock; docs/operations.md shows how to find it"
    is_away = isinstance(error, TimeoutError | OperationalError | InterfaceError | PoolTimeoutError)
    if is_away or error.connection_invalidated:
        return "check DATABASE_URL"
    if isinstance(error, InternalError) or is_of_a_function(error):
        return "check the database's log, and the triggers of leads"
    return None
