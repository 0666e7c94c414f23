"""Receives files: each in a thread of its own, so that the event loop goes on answering others.

An upload holds a database connection, and a transaction while its entries arrive, so only a few go
on at once.
"""

from functools import partial
from typing import Any

import anyio
from anyio import to_thread
from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.files.body import Upload
from api.files.load import load
from api.files.rows import Manner
from api.http.answers import Accepted
from api.http.callback_urls import check_host
from api.http.places import Places
from api.http.request import Caller
from api.jobs.idempotency import in_progress, is_taken, replayed
from api.jobs.submit import draft, region_of
from shared.database.engines import create_sync_engine
from shared.settings import Settings

UPLOADS_AT_ONCE = 8  # of one process
UPLOADS_OF_ONE_COMPANY = 3  # so it takes three companies to make another one's file wait


class Receiver:
    """Takes the uploads of one process."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        """`engine` is for the statements before and after an upload, which has an engine of its
        own.
        """
        self._engine = engine
        self._settings = settings
        self._loading = create_sync_engine(
            settings,
            "upload",
            isolation_level="READ COMMITTED",  # what the key may do is checked again at the end
            pool_size=UPLOADS_AT_ONCE,
            max_overflow=0,
        )
        self._places = Places(UPLOADS_AT_ONCE, UPLOADS_OF_ONE_COMPANY)
        self._uploads: set[Upload] = set()
        self._threads = anyio.CapacityLimiter(UPLOADS_AT_ONCE)

    def end(self) -> None:
        """Ends the uploads that are still coming in, as the process is about to stop."""
        for upload in self._uploads:
            upload.end()

    def close(self) -> None:
        """Closes the connections of uploads."""
        self._loading.dispose()

    async def receive(
        self,
        upload: Upload,
        caller: Caller,
        campaign_id: str,
        options: dict[str, Any],
        manner: Manner,
    ) -> Accepted:
        """Makes the job, which is durable then, or finds the answer that the Idempotency-Key
        already had.

        The file is read in that `manner`, with the region of the options, or of the campaign where
        they name none. Raises Forbidden, InvalidRequest, Unavailable, ApiError 400, 401, 408, 409,
        413 and 422, DBAPIError.
        """
        settings, company_id = self._settings, caller.key.company_id
        values = await draft(self._engine, settings, caller, campaign_id, options)
        region = options["phone_region"] or await region_of(self._engine, company_id, campaign_id)
        values |= {"phone_region": region, "region_named": True}
        key_is_taken = await is_taken(self._engine, caller)
        # The URL of a request that was accepted before is not checked again.
        if options["callback_url"] and not key_is_taken:
            await check_host("callbackUrl", options["callback_url"], settings.webhook_allow)
        load_it = partial(
            load,
            self._loading,
            values,
            upload,
            manner._replace(region=region),
            chunk_size=settings.chunk_size,
            max_entries=settings.max_file_entries,
        )
        self._uploads.add(upload)
        try:
            # Only an upload that has begun to arrive takes a place.
            await upload.begin()
            async with self._places.taken_by(company_id):
                loaded = None
                if not key_is_taken:
                    loaded = await to_thread.run_sync(load_it, limiter=self._threads)
                if loaded:
                    return Accepted(
                        job_id=caller.job_id,
                        **loaded._asdict(),
                        wait=caller.wait,
                        queue=values["queue"],
                    )
                # What is left is read for its hash, which says whether the request is the same.
                await to_thread.run_sync(upload.exhaust, limiter=self._threads)
        except DBAPIError as error:
            if isinstance(error.orig, LockNotAvailable):
                raise in_progress() from None
            raise
        finally:
            self._uploads.discard(upload)
        whole = caller._replace(idempotency=upload.idempotency)
        if earlier := await replayed(self._engine, whole):
            return earlier
        raise in_progress()
