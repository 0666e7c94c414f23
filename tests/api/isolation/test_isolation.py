"""Each route by each kind of key: what is somebody else's is answered as what is not there, and
stays as it is.

The routes are those of the app: one that has no row in ROUTES fails a test, and so does a table
that nobody looks after.
"""

import asyncio
import re
from datetime import UTC, datetime
from itertools import product
from types import SimpleNamespace
from uuid import uuid4

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import text

from api.app import create_app
from shared.database.models import metadata
from tests.api.calls import API, ROUTES
from tests.support.jobs import add_campaign, add_leads, one_tick
from tests.support.stack import make_key

OWNER, CAMPAIGN = "theirs-company", "theirs-campaign"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
LATER = {"schedule": {"runAt": "2999-01-01T00:00:00Z"}}  # so that it is not done meanwhile


# What belongs to a company, by table; and the tables in which nothing is a company's.
OWNED = {
    "companies": "id = :company",
    **dict.fromkeys(
        ("campaigns", "api_keys", "jobs", "idempotency_keys", "webhooks", "deliveries"),
        "company_id = :company",
    ),
    "leads": "campaign_id IN (SELECT id FROM campaigns WHERE company_id = :company)",
    **dict.fromkeys(
        ("chunks", "archived_leads"), "job_id IN (SELECT id FROM jobs WHERE company_id = :company)"
    ),
}
NOBODYS = {"canonical_forms", "heartbeats"}


def routes(app):
    return {
        (method, route.path)
        for route in iter_route_contexts(app.routes)
        for method in route.methods
        if not route.path.startswith("/guide")  # files, which are everybody's
    }


def test_each_route_has_a_row_and_each_table_an_owner(settings):
    assert routes(create_app(settings)) == ROUTES.keys(), (
        "a route is called on what is somebody else's: say how"
    )
    assert OWNED.keys() | NOBODYS == metadata.tables.keys(), (
        "say in OWNED whose the rows of a table are"
    )


def rows_of(engine, company):
    """All that the company has; when a key was last used is no change."""
    with engine.connect() as connection:
        return {
            table: sorted(
                connection.scalars(
                    text(
                        "SELECT CAST(to_jsonb(each) - 'last_used_at' AS text)"
                        f" FROM {table} AS each WHERE {owned}"
                    ),
                    {"company": company},
                )
            )
            for table, owned in OWNED.items()
        }


class World:
    """A company with one of everything, for each key that may change it, and all kinds of keys."""

    def __init__(self, service):
        self.service = service
        with service.engine.begin() as connection:
            add_campaign(connection, CAMPAIGN, OWNER)
            add_campaign(connection, "second-of-theirs", OWNER)
            own = {
                kind: make_key(connection, OWNER, name=f"theirs-key-{number}", **columns)
                for number, (kind, columns) in enumerate(OWN_KEYS.items())
            }
            self.outsiders = {
                "nobody": None,
                "unknown": "lsk_unknown",
                "revoked": make_key(connection, OWNER, revoked_at=LONG_AGO),
                "expired": make_key(connection, OWNER, expires_at=LONG_AGO),
                "reader of another campaign": make_key(
                    connection, OWNER, "read", "second-of-theirs"
                ),
                "writer of another campaign": make_key(
                    connection, OWNER, "write", "second-of-theirs"
                ),
                "reader of another company": service.read,
                "writer of another company": service.write,
                "writer of a campaign of another company": service.limited,
            }
        self.own = own

    async def call(self, place, it, key, form=0, **headers):
        """The answer of the route on the thing."""
        (method, path), route = place, ROUTES[place]
        sent = route.forms[form](it)
        headers |= sent.pop("headers", {}) | ({} if key is None else {"x-api-key": key})
        path = re.sub(r"{\w+}", lambda _: getattr(it, route.thing), path)
        return await self.service.http.request(method, path, headers=headers, **sent)

    async def made(self, path, body=None, **headers):
        """What the company's own key makes."""
        answer = await self.service.post(
            body or {}, self.own["writer"], path=f"{API}/{path}", headers=headers
        )
        assert answer.is_success, answer.text
        return answer.json()["data"]

    async def job(self, lead, **options):
        body = {
            "campaignId": CAMPAIGN,
            "leads": [{"externalId": lead}],
            "clientReference": "theirs-reference",
        }
        key = {"idempotency-key": f"theirs-{lead}"}
        return (await self.made("leads/bulk-delete", body | options, **key))["jobId"]

    async def things(self, name):
        """One of everything, all of them done that can be."""
        leads = [(f"theirs-{name}-{number}", f"+49301234{name}{number}") for number in range(5)]
        with self.service.engine.begin() as connection:
            add_leads(connection, leads, CAMPAIGN)
        hook = {"url": "http://127.0.0.1:9/theirs-hook"}
        webhooks = [(await self.made("webhooks", hook))["webhookId"] for _ in range(2)]
        it = SimpleNamespace(
            campaign=CAMPAIGN,
            reference="theirs-reference",
            lead=leads[0][0],
            key=f"theirs-{leads[2][0]}",
            number=leads[1][1],
            webhook=webhooks[0],
            second_webhook=webhooks[1],
            asset="docs.js",
            finished=await self.job(leads[2][0], callbackUrl=hook["url"]),
            preview=await self.job(leads[3][0], dryRun=True),
            archive=await self.job(leads[4][0], mode="archive"),
            scheduled=await self.job(f"theirs-{name}-scheduled", **LATER),
            paused=await self.job(f"theirs-{name}-paused", **LATER),
            cancelled=await self.job(f"theirs-{name}-cancelled", **LATER),
        )
        await self.made(f"jobs/{it.paused}/pause")
        await self.made(f"jobs/{it.cancelled}/cancel")
        await self.service.work()
        await asyncio.to_thread(one_tick, self.service.engine)
        sent = await self.service.get(f"{API}/jobs/{it.finished}/deliveries", self.own["writer"])
        it.delivery = next(
            one["deliveryId"] for one in sent.json()["data"]["items"] if one["webhookId"] is None
        )
        it.cursor = (await self.service.get(f"{API}/jobs?limit=1", self.own["writer"])).json()[
            "data"
        ]["nextCursor"]
        return it

    async def secrets(self):
        """Whatever would give away something of the company, if it stood in an answer."""
        rows = rows_of(self.service.engine, OWNER)
        ids = [
            found
            for table in ("jobs", "deliveries", "webhooks")
            for row in rows[table]
            for found in re.findall(ID, row)
        ]
        listed = await self.service.get(
            f"{API}/leads", self.own["writer"], params={"campaignId": CAMPAIGN}
        )
        return {*ids, *(lead["id"] for lead in listed.json()["data"]["leads"]), "theirs-", "+4930"}


ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
OWN_KEYS = {
    "reader": {"scope": "read"},
    "reader of the campaign": {"scope": "read", "campaign": CAMPAIGN},
    "writer": {"scope": "write"},
    "writer of the campaign": {"scope": "write", "campaign": CAMPAIGN},
}


def nothing_like(it):
    """The same, but that none of it is there."""
    names = {
        name: str(uuid4()) if re.fullmatch(ID, value) else value for name, value in vars(it).items()
    }
    return SimpleNamespace(
        **names | {"campaign": "nowhere", "reference": "none", "asset": "none.js"}
    )


def told(answer):
    """All of an answer but what is of this call alone."""
    of_the_call = {"x-request-id", "x-ratelimit-remaining", "x-ratelimit-reset", "date"}
    headers = {name: value for name, value in answer.headers.items() if name not in of_the_call}
    return answer.status_code, headers, answer.content


@pytest.fixture
async def world(service, monkeypatch):
    monkeypatch.setattr("api.jobs.actions.control.IN_FORCE_WITHIN", 0.01)  # nobody works meanwhile
    return World(service)


async def test_what_is_somebody_elses_is_answered_as_what_is_not_there_and_stays_as_it_is(world):
    it = await world.things(0)
    absent = nothing_like(it)
    before, secrets = rows_of(world.service.engine, OWNER), await world.secrets()
    wrong = []
    for place, route in ROUTES.items():
        for (kind, key), form, also in product(
            world.outsiders.items(), range(len(route.forms)), ({}, *route.also)
        ):
            headers = {"idempotency-key": it.key} | also
            foreign, missing = [
                await world.call(place, one, key, form, **headers) for one in (it, absent)
            ]
            if not is_right(route, kind, foreign, missing):
                wrong.append((place, form, also, kind, told(foreign), told(missing)))
            shown = [secret for secret in secrets if secret in foreign.text + str(foreign.headers)]
            if shown and not route.is_public:
                wrong.append((place, form, also, kind, "shows", shown))
        if (now := rows_of(world.service.engine, OWNER)) != before:
            wrong.append(
                (place, "changed", [table for table in now if now[table] != before[table]])
            )
            before = now
    assert not wrong, "\n".join(map(str, wrong))


def is_right(route, kind, foreign, missing):
    """Whether these are the answers about what is somebody else's, and about what is not there."""
    if route.is_public:
        return foreign.status_code in {200, 503}  # nobody works, says the health
    if kind in {"nobody", "unknown", "revoked", "expired"}:
        return foreign.status_code == 401 and told(foreign) == told(missing)
    if route.seen_by_company and kind in {
        "reader of another campaign",
        "writer of another campaign",
    }:
        return foreign.json()["data"]["items"] == []
    if route.makes:
        return foreign.status_code == missing.status_code
    return told(foreign) == told(missing)


async def test_who_owns_it_may_call_each_route_as_far_as_the_key_reaches(world):
    """Else the test above would show nothing. A key that reaches less changes nothing either."""
    wrong = []
    for number, (kind, key) in enumerate(world.own.items()):
        it = await world.things(number)
        for place, route in ROUTES.items():
            may = not (
                (route.writes and "reader" in kind) or (route.of_company and "campaign" in kind)
            )
            before = rows_of(world.service.engine, OWNER)
            answer = await world.call(place, it, key)
            if answer.is_success != may and not route.is_public:
                wrong.append((place, kind, answer.status_code, answer.text))
            if not may and (
                answer.status_code != 403 or rows_of(world.service.engine, OWNER) != before
            ):
                wrong.append((place, kind, "not refused", answer.status_code))
    assert not wrong, "\n".join(map(str, wrong))
