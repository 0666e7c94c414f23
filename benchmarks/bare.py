"""The floor of acceptance: an ASGI app with the same decoder that does the same INSERTs on a
psycopg pool, and nothing else.

python -m benchmarks.bare PORT
"""

import os
import sys
from uuid import uuid4

import msgspec
import uvicorn
from psycopg_pool import AsyncConnectionPool

decode = msgspec.json.Decoder().decode

INSERT_JOB = "INSERT INTO jobs (id, company_id, campaign_id, total) VALUES (%s, 'bench', %s, %s)"
INSERT_CHUNK = (
    "INSERT INTO chunks (job_id, number, first_index, external_ids, phone_numbers, outcomes)"
    " VALUES (%s, 0, 0, %s, %s, %s)"
)


class Bare:
    """Decodes, inserts, commits, answers."""

    def __init__(self):
        self._pool = AsyncConnectionPool(
            os.environ["DATABASE_URL"], min_size=10, max_size=10, open=False
        )

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await self._pool.open(wait=True)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._pool.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        request = decode(body)
        leads = request["leads"]
        job_id = uuid4()
        async with self._pool.connection() as connection:
            await connection.execute(INSERT_JOB, (job_id, request["campaignId"], len(leads)))
            await connection.execute(
                INSERT_CHUNK,
                (
                    job_id,
                    [x.get("externalId") for x in leads],
                    [x.get("phoneNumber") for x in leads],
                    [0] * len(leads),
                ),
            )
        answer = msgspec.json.encode(
            {"success": True, "data": {"jobId": str(job_id)}, "error": None}
        )
        await send(
            {
                "type": "http.response.start",
                "status": 202,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(
        Bare(),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="info",
    )
