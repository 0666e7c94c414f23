"""Receives files: each in a thread of its own, so that the event loop goes on answering others.

An upload holds a database connection, and a transaction while its entries arrive: so few go on at
once.
"""

from functools import partial

import anyio
from anyio import to_thread
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.http.callback_urls import check_host
from api.files.body import Upload
from api.files.load import load
from api.files.rows import Manner
from api.http.places import Places
from api.jobs.idempotency import Accepted, Asked, in_progress, is_in_progress, is_taken, replayed
from api.jobs.submission import Options
from api.jobs.submit import draft, region_of
from shared.database.engines import create_sync_engine
from shared.settings import Settings

AT_ONCE = 8  # uploads of one process
OF_ONE_COMPANY = 3  # of these: it takes three companies to have another's file wait


class Receiver:
    """Takes the uploads of one process."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        """`engine` is for what comes before and after."""
        self._engine = engine
        self._settings = settings
        self._loading = create_sync_engine(
            settings,
            "upload",
            isolation_level="READ COMMITTED",  # what a key may do is looked at again at the end
            pool_size=AT_ONCE,
            max_overflow=0,
        )
        self._places = Places(AT_ONCE, OF_ONE_COMPANY)
        self._uploads: set[Upload] = set()
        self._threads = anyio.CapacityLimiter(AT_ONCE)

    def end(self) -> None:
        """Ends what is still coming in, as the process is about to stop."""
        for upload in self._uploads:
            upload.end()

    def close(self) -> None:
        """Ends its connections."""
        self._loading.dispose()

    async def receive(
        self, upload: Upload, asked: Asked, campaign_id: str, options: Options, manner: Manner
    ) -> Accepted:
        """Makes the job, which is durable then, or finds the answer that the Idempotency-Key
        already had.

        The file is read in that `manner`, but that its region may be the campaign's. Raises
        Forbidden, InvalidRequest, Unavailable, ApiError 401, 408, 409, 413 and 422, DBAPIError.
        """
        values = await draft(self._engine, self._settings, asked, campaign_id, options)
        region = options.phone_region or await region_of(
            self._engine, asked.key.company_id, campaign_id
        )
        values |= {"phone_region": region, "region_named": True}
        taken = await is_taken(self._engine, asked)
        if options.callback_url and not taken:  # what was accepted once is not looked at again
            await check_host("callbackUrl", options.callback_url, self._settings.webhook_allow)
        load_it = partial(
            load,
            self._loading,
            values,
            upload,
            manner._replace(region=region),
            chunk_size=self._settings.chunk_size,
            most=self._settings.max_file_entries,
        )
        self._uploads.add(upload)
        try:
            await upload.begin()  # a place is for what has begun to arrive
            async with self._places.taken_by(asked.key.company_id):
                if not taken and (
                    loaded := await to_thread.run_sync(load_it, limiter=self._threads)
                ):
                    return Accepted(asked.job_id, *loaded, asked.wait, queue=values["queue"])
                await to_thread.run_sync(upload.exhaust, limiter=self._threads)
        except DBAPIError as error:
            if is_in_progress(error):
                raise in_progress() from None
            raise
        finally:
            self._uploads.discard(upload)
        earlier = await replayed(self._engine, asked._replace(idempotency=upload.idempotency))
        if earlier is None:
            raise in_progress()
        return earlier
