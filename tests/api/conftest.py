"""The API in this process, over real servers, with a company, its campaigns and keys."""

import asyncio

import httpx2
import pytest

from api.app import create_app
from tests.support.jobs import add_campaign, add_leads, work_off
from tests.support.stack import make_key


class Service:
    """What a test calls: `http` has no key, `post` and `get` take one (`write` unless told
    otherwise).
    """

    def __init__(self, app, engine):
        self.app = app
        self.engine = engine
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://leadsweep")
        with engine.begin() as connection:
            add_campaign(connection, "cmp")
            add_campaign(connection, "second")
            add_campaign(connection, "foreign", company="other")
            add_leads(connection, [("a", "+101"), ("b", "+102"), ("c", None)])
            self.write = make_key(connection, "co", name="the tests")
            self.read = make_key(connection, "co", scope="read")
            self.limited = make_key(connection, "co", campaign="second")
            self.foreign = make_key(connection, "other")

    async def get(self, path, key=None, **options):
        return await self.http.get(path, headers={"x-api-key": key or self.write}, **options)

    async def post(self, body, key=None, *, path="/api/v1/leads/bulk-delete", headers=None):
        """POSTs `body`: bytes as they are, anything else as JSON."""
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        sent = {"x-api-key": key or self.write, "content-type": "application/json"} | (
            headers or {}
        )
        return await self.http.post(path, headers=sent, **content)

    async def act(self, job_id, action, key=None, body=None, **headers):
        """POSTs an action, with `body` as JSON where it has options."""
        path = f"/api/v1/jobs/{job_id}/{action}"
        return await self.http.post(
            path, headers={"x-api-key": key or self.write} | headers, json=body
        )

    async def job(self, job_id):
        """The job's answer."""
        return (await self.get(f"/api/v1/jobs/{job_id}")).json()["data"]

    async def results(self, job_id):
        """(identifier, outcome, matchedBy, reason) of each entry."""
        items = (await self.get(f"/api/v1/jobs/{job_id}/results?limit=10000")).json()["data"][
            "items"
        ]
        return [(i["identifier"], i["outcome"], i["matchedBy"], i["reason"]) for i in items]

    async def work(self):
        """A worker's part, in a thread of its own: it runs everything that can run now."""
        await asyncio.to_thread(work_off, self.engine)

    async def submit(self, *entries, **options):
        """Submits entries and returns the job's id."""
        answer = await self.post({"campaignId": "cmp", "leads": list(entries)} | options)
        assert answer.status_code == 202, answer.text
        return answer.json()["data"]["jobId"]


@pytest.fixture
async def service(settings, engine):
    """The API, started and stopped around the test."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        service = Service(app, engine)
        yield service
        await service.http.aclose()
