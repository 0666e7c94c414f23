"""Leads over HTTP: created a thousand at a time, listed page by page, deleted one by one."""

import asyncio
import re

import pytest
from sqlalchemy import text

from api.leads import find
from shared.credentials import new_secrets_key
from tests.support.jobs import add_leads, remaining_leads
from tests.support.stack import lock_waits, until


async def create(service, *leads, key=None, path="/api/v1/leads/bulk", **fields):
    return await service.post({"campaignId": "cmp", "leads": list(leads)} | fields, key, path=path)


async def delete(service, key=None, path="/api/v1/leads", **query):
    return await service.http.delete(
        path, params=query, headers={"x-api-key": key or service.write}
    )


def left(service):
    with service.engine.connect() as connection:
        return remaining_leads(connection)


async def test_leads_are_created_and_those_whose_identifiers_are_taken_are_skipped(service):
    answer = await create(
        service,
        {
            "externalId": " new ",
            "phoneNumber": "00 49 1",
            "metadata": {"city": "Paris", "n": 12345678901234567890},
        },
        {"externalId": "a"},
        {"phoneNumber": "+102"},
        {"externalId": "new"},
        {"phoneNumber": "+103"},
    )
    assert answer.status_code == 200
    told = answer.json()["data"]
    assert (told["created"], told["skipped"], told["skippedIdentifiers"]) == (
        2,
        3,
        ["a", "+102", "new"],
    )
    assert left(service) >= {("new", "+491"), (None, "+103")}
    (lead,) = (
        await service.get("/api/v1/leads", params={"campaignId": "cmp", "externalId": "new"})
    ).json()["data"]["leads"]
    assert lead.pop("createdAt").endswith("Z")
    assert lead == {
        "id": told["createdIds"][0],
        "campaignId": "cmp",
        "externalId": "new",
        "phoneNumber": "+491",
        "metadata": {"city": "Paris", "n": 12345678901234567890},
    }
    again = await create(service, {"externalId": "new"}, path="/api/v1/records/bulk")
    assert again.json()["data"] == {
        "created": 0,
        "skipped": 1,
        "createdIds": [],
        "skippedIdentifiers": ["new"],
    }


@pytest.mark.parametrize(
    ("leads", "error"),
    [
        ([], "leads array cannot be empty"),
        ([{"externalId": "x"}] * 1001, "Maximum 1000 leads per bulk request"),
        ([{"externalId": "x"}, 7], "leads[1] must be an object"),
        ([{"externalId": 7}], "leads[0]: externalId must be a string"),
        ([{"metadata": {}}], "leads[0]: At least one of phoneNumber or externalId is required"),
        ([{"externalId": "x", "external_id": "y"}], "leads[0]: Unknown field: external_id"),
        ([{"externalId": "x", "metadata": 7}], "leads[0]: metadata must be an object"),
        ([{"externalId": "x", "metadata": {"a": ["\0"]}}], "leads[0]: metadata contains U+0000"),
        ([{"externalId": "x" * 256}], "leads[0]: externalId is longer than 255 characters"),
    ],
)
async def test_what_is_no_lead_is_refused_and_nothing_is_created(service, leads, error):
    before = left(service)
    answer = (
        await create(service, {"externalId": "first"}, *leads)
        if leads[:1] == [7]
        else await create(service, *leads)
    )
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert left(service) == before


async def test_a_backslash_before_u0000_is_not_a_nul(service):
    answer = await create(service, {"externalId": "x", "metadata": {"a": "\\u0000"}})
    assert answer.status_code == 200
    found = await service.get("/api/v1/leads", params={"campaignId": "cmp", "externalId": "x"})
    assert found.json()["data"]["leads"][0]["metadata"] == {"a": "\\u0000"}


async def ids_of(service, key, campaign):
    """Those of all leads, by externalId."""
    answer = await service.get("/api/v1/leads", key, params={"campaignId": campaign})
    return {lead["externalId"]: lead["id"] for lead in answer.json()["data"]["leads"]}


async def test_ids_of_leads_do_not_tell_how_many_others_have(service):
    """In the database they are counted over all companies."""
    created = []
    for number in range(3):
        created += (await create(service, {"externalId": f"own-{number}"})).json()["data"][
            "createdIds"
        ]
        foreign = [{"externalId": f"x-{number}-{i}"} for i in range(10)]
        assert (
            await service.post(
                {"campaignId": "foreign", "leads": foreign},
                service.foreign,
                path="/api/v1/leads/bulk",
            )
        ).is_success
    with service.engine.connect() as connection:
        stored = {
            row.external_id: str(row.id)
            for row in connection.execute(text("SELECT id, external_id FROM leads"))
        }
    listed = await ids_of(service, service.write, "cmp") | await ids_of(
        service, service.foreign, "foreign"
    )
    assert [listed[f"own-{number}"] for number in range(3)] == created
    assert len({*listed.values()}) == len(stored) == len(listed)
    assert not {*listed.values()} & {*stored.values()}
    assert all(re.fullmatch("[0-9a-f]{32}", told) for told in listed.values()), (
        "nothing that could be counted"
    )
    key = service.app.state.services.settings.secrets_key
    service.app.state.services.settings.secrets_key = f"{new_secrets_key()},{key}"
    assert await ids_of(service, service.write, "cmp") == {
        name: listed[name] for name in listed if name[0] != "x"
    }
    service.app.state.services.settings.secrets_key = new_secrets_key()
    assert not {*(await ids_of(service, service.write, "cmp")).values()} & {*listed.values()}, (
        "without the key nobody can tell"
    )


async def test_all_leads_are_listed_once_page_by_page(service):
    with service.engine.begin() as connection:
        add_leads(connection, [(f"e{i:02d}", f"+49{i}" if i % 2 else None) for i in range(12)])
        add_leads(connection, [(None, f"+77{i:02d}") for i in range(9)])
    found, cursor, pages = [], None, 0
    while True:
        page = await service.get(
            "/api/v1/records",
            params={"campaignId": "cmp", "limit": 4} | ({"cursor": cursor} if cursor else {}),
            key=service.read,
        )
        told = page.json()["data"]
        found += [(lead["externalId"], lead["phoneNumber"]) for lead in told["leads"]]
        pages += 1
        assert told["count"] == len(told["leads"]) <= 4
        assert told["hasMore"] == (told["cursor"] is not None)
        if not told["hasMore"]:
            break
        cursor = told["cursor"]
    assert len(found) == len(set(found)) == 24
    assert (set(found), pages) == (left(service), 6)
    whole = (await service.get("/api/v1/leads", params={"campaignId": "cmp"})).json()["data"]
    assert (whole["count"], whole["hasMore"]) == (24, False)


@pytest.mark.parametrize("page", [find._BY_EXTERNAL_ID, find._BY_PHONE_NUMBER])
def test_a_page_reads_no_lead_that_it_does_not_list(service, page):
    with service.engine.begin() as connection:
        add_leads(connection, [(f"crm-{i:05d}", f"+49{i:05d}") for i in range(5000)])
        add_leads(connection, [(None, f"+77{i:02d}") for i in range(9)])
        connection.execute(text("ANALYZE leads"))
        values = {"campaign_id": "cmp", "company_id": "co", "after": "", "most": 9}
        plan = "\n".join(
            connection.scalars(text(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {page}"), values)
        )
    assert "on leads (actual rows=9.00" in plan, plan
    assert "Removed by Filter" not in plan


async def test_a_lead_is_found_by_either_identifier_however_it_is_written(service):
    async def found(**query):
        return [
            lead["externalId"] for lead in (await listed(service, **query)).json()["data"]["leads"]
        ]

    assert await found(phoneNumber="00 102") == ["b"]
    assert await found(externalId=" a ") == ["a"]
    assert await found(externalId="a", phoneNumber="+102") == []
    assert await found(externalId="nobody") == []
    assert await found(externalId="a\0") == []


async def test_a_number_is_read_as_in_the_region_of_the_call_or_of_the_campaign(service):
    async def numbers(**query):
        return [
            lead["phoneNumber"] for lead in (await listed(service, **query)).json()["data"]["leads"]
        ]

    with service.engine.begin() as connection:
        add_leads(connection, [(None, "+491701234567"), (None, "+12125550100")])
    assert await numbers(phoneNumber="0170 1234567") == []
    assert await numbers(phoneNumber="0170 1234567", phoneRegion="DE") == ["+491701234567"]
    assert (await listed(service, phoneNumber="1", phoneRegion="de")).status_code == 400
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE campaigns SET phone_region = 'DE' WHERE id = 'cmp'"))
    assert await numbers(phoneNumber="0170 1234567") == ["+491701234567"]
    assert await numbers(phoneNumber="(212) 555-0100", phoneRegion="US") == ["+12125550100"]
    created = await create(service, {"phoneNumber": "030 1234567"})
    assert created.json()["data"]["created"] == 1
    assert (None, "+49301234567") in left(service)
    assert (await delete(service, campaignId="cmp", phoneNumber="0170/1234567")).status_code == 200
    assert (None, "+491701234567") not in left(service)


async def test_a_lead_in_the_former_form_is_found_as_it_was_written_then(service):
    with service.engine.begin() as connection:
        connection.execute(text("ALTER TABLE leads DISABLE TRIGGER leads_keep_canonical"))
        add_leads(connection, [("\u2003old", "tel:+15555550100")])
        connection.execute(text("ALTER TABLE leads ENABLE TRIGGER leads_keep_canonical"))
    for query in ({"externalId": "\u2003old"}, {"phoneNumber": "tel:+1 555 555 0100"}):
        assert (await listed(service, **query)).json()["data"]["count"] == 1
    assert (
        await delete(service, campaignId="cmp", phoneNumber="tel:+15555550100")
    ).status_code == 200


@pytest.mark.parametrize(
    ("number", "error"),
    [
        ("N/A", "phoneNumber is not a phone number"),
        ("0000000", "phoneNumber is not a phone number"),
        (
            "15555550000.0",
            (
                "phoneNumber has a decimal point or an exponent, as spreadsheets write numbers;"
                " store it as text"
            ),
        ),
    ],
)
async def test_a_lead_is_not_created_with_what_is_no_phone_number(service, number, error):
    answer = await create(service, {"externalId": "ok"}, {"externalId": "x", "phoneNumber": number})
    assert (answer.status_code, answer.json()["error"]) == (400, f"leads[1]: {error}")
    assert ("ok", None) not in left(service)


async def test_a_plus_need_not_be_escaped(service):
    found = await service.get("/api/v1/leads?campaignId=cmp&phoneNumber=+102")
    assert [lead["externalId"] for lead in found.json()["data"]["leads"]] == ["b"]
    deleted = await service.http.delete(
        "/api/v1/leads?campaignId=cmp&phoneNumber=+102", headers={"x-api-key": service.write}
    )
    assert deleted.json()["data"] == {"deleted": True}
    assert left(service) == {("a", "+101"), ("c", None)}


async def listed(service, key=None, **query):
    return await service.get("/api/v1/leads", key, params={"campaignId": "cmp"} | query)


async def test_a_lead_is_deleted_at_once_by_external_id_first(service):
    assert (await delete(service, campaignId="cmp", externalId=" a ", phoneNumber="+102")).json()[
        "data"
    ] == {"deleted": True}
    assert left(service) == {("b", "+102"), ("c", None)}
    assert (
        await delete(service, campaignId="cmp", externalId="nobody", phoneNumber="+102")
    ).status_code == 200
    assert left(service) == {("c", None)}
    again = await delete(service, campaignId="cmp", externalId="a")
    assert (again.status_code, again.json()["error"]) == (404, "Lead not found")
    assert (
        await delete(service, campaignId="cmp", externalId="c", path="/api/v1/records")
    ).status_code == 200


@pytest.mark.proof("lead calls")
@pytest.mark.parametrize(
    ("meanwhile", "query", "status", "remaining"),
    [
        (
            "DELETE FROM leads WHERE external_id = 'a'",
            {"externalId": "a"},
            404,
            {("b", "+102"), ("c", None)},
        ),
        (
            "DELETE FROM leads WHERE external_id = 'a'",
            {"externalId": "a", "phoneNumber": "+102"},
            200,
            {("c", None)},
        ),
        (
            "UPDATE leads SET external_id = 'z' WHERE external_id = 'a'",
            {"externalId": "a"},
            404,
            {("z", "+101"), ("b", "+102"), ("c", None)},
        ),
        (
            "UPDATE leads SET metadata = '{\"n\": 1}' WHERE external_id = 'a'",
            {"externalId": "a"},
            200,
            {("b", "+102"), ("c", None)},
        ),
    ],
)
async def test_a_lead_that_is_changed_meanwhile_is_looked_at_again(
    service, meanwhile, query, status, remaining
):
    with service.engine.connect() as other:
        other.execute(text(meanwhile))
        deleting = asyncio.create_task(delete(service, campaignId="cmp", **query))
        await until(lambda: lock_waits(service.engine) == 1)
        other.commit()
    assert (await deleting).status_code == status
    assert left(service) == remaining


@pytest.mark.proof("lead calls")
async def test_a_lead_that_a_job_and_a_call_delete_at_once_is_recorded_by_one_of_them(service):
    job_id = await service.submit({"externalId": "a"})
    with service.engine.connect() as other:
        other.execute(text("SELECT FROM leads WHERE external_id = 'a' FOR UPDATE"))
        working = asyncio.create_task(service.work())
        deleting = asyncio.create_task(delete(service, campaignId="cmp", externalId="a"))
        await until(lambda: lock_waits(service.engine) == 2)
        other.rollback()
    await working
    deleted = (await service.job(job_id))["deleted"]
    assert ((await deleting).status_code, deleted) in {(200, 0), (404, 1)}
    assert left(service) == {("b", "+102"), ("c", None)}


UNNAMED = "At least one of phoneNumber or externalId query parameter is required"


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"externalId": "a"}, "campaignId query parameter is required"),
        ({"campaignId": " ", "externalId": "a"}, "campaignId query parameter is required"),
        ({"campaignId": "cmp"}, UNNAMED),
        ({"campaignId": "cmp", "externalId": " ", "phoneNumber": "()"}, UNNAMED),
        ({"campaignId": "cmp", "external_id": "a"}, "Invalid query parameter: external_id"),
    ],
)
async def test_a_deletion_that_names_nothing_deletes_nothing(service, query, error):
    answer = await delete(service, **query)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert len(left(service)) == 3


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "8001"}, {"cursor": "x"}, {"cursor": "eA\0"}, {"page": "1"}]
)
async def test_a_page_that_cannot_be_is_refused(service, query):
    answer = await listed(service, **query)
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        f"Invalid query parameter: {next(iter(query))}",
    )


async def test_nobody_sees_or_touches_the_leads_of_others(service):
    for key, status in ((service.read, 403), (service.limited, 403), (service.foreign, 403)):
        assert (await create(service, {"externalId": "x"}, key=key)).status_code == status
        assert (await delete(service, key, campaignId="cmp", externalId="a")).status_code == status
    for key in (service.limited, service.foreign):
        assert (await listed(service, key)).status_code == 403
        assert (await listed(service, key, externalId="a")).status_code == 403
    assert (await listed(service, campaignId="nowhere")).status_code == 403
    assert len(left(service)) == 3


async def test_what_the_database_refuses_is_409_and_not_a_fault(service):
    with service.engine.begin() as connection:
        connection.execute(text("CREATE TABLE calls (lead_id bigint REFERENCES leads)"))
        connection.execute(text("INSERT INTO calls SELECT id FROM leads WHERE external_id = 'a'"))
        connection.execute(text("ALTER TABLE leads ADD CONSTRAINT no_x CHECK (external_id <> 'x')"))
    for answer in (
        await delete(service, campaignId="cmp", externalId="a"),
        await create(service, {"externalId": "x"}),
    ):
        assert answer.status_code == 409
        assert answer.json()["error"].startswith("The database refuses this")


NO = """
    CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'no' USING ERRCODE = 'STATE';
    END $$;
    CREATE TRIGGER no BEFORE INSERT OR DELETE ON leads FOR EACH ROW EXECUTE FUNCTION no()
"""


@pytest.mark.parametrize("state", ["P0001", "P0002", "42501", "22023", "23514", "LS001"])
async def test_a_trigger_may_refuse_with_whatever_sqlstate_it_likes(service, state):
    with service.engine.begin() as connection:
        connection.execute(text(NO.replace("STATE", state)))
    for answer in (
        await delete(service, campaignId="cmp", externalId="a"),
        await create(service, {"externalId": "x"}),
    ):
        assert answer.status_code == 409
        assert answer.json()["error"].startswith("The database refuses this")


@pytest.mark.parametrize(
    "state",
    ["0A000", "26000", "28000", "42P01", "42704", "53100", "55006", "58030", "HV000", "XX000"],
)
async def test_what_a_database_that_is_not_well_says_is_503_and_never_500(service, state):
    with service.engine.begin() as connection:
        connection.execute(text(NO.replace("STATE", state)))
    for answer in (
        await delete(service, campaignId="cmp", externalId="a"),
        await create(service, {"externalId": "x"}),
    ):
        assert (answer.status_code, answer.json()["error"]) == (
            503,
            "Service temporarily unavailable",
        )


@pytest.mark.proof("lead calls")
async def test_who_create_the_same_leads_in_different_order_are_all_answered(service):
    leads = [{"externalId": f"crm-{i}"} for i in range(1000)]
    with service.engine.connect() as other:
        other.execute(
            text("INSERT INTO leads (campaign_id, external_id) VALUES ('cmp', 'crm-500')")
        )
        creating = [
            asyncio.create_task(create(service, *order)) for order in (leads, leads[::-1]) * 2
        ]
        await until(lambda: lock_waits(service.engine) == 4)
        other.rollback()
    answers = await asyncio.gather(*creating)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert sorted(answer.json()["data"]["created"] for answer in answers) == [0, 0, 0, 1000]
    assert left(service) == {
        ("a", "+101"),
        ("b", "+102"),
        ("c", None),
        *((f"crm-{i}", None) for i in range(1000)),
    }


@pytest.mark.proof("lead calls")
async def test_a_creation_that_meets_a_deadlock_is_tried_again(service):
    with service.engine.connect() as other:
        other.execute(
            text("SET LOCAL deadlock_timeout = '1min'")
        )  # it is the creation that must give way
        other.execute(text("INSERT INTO leads (campaign_id, external_id) VALUES ('cmp', 'last')"))
        creating = asyncio.create_task(
            create(service, {"externalId": "first"}, {"externalId": "last"}, {"externalId": "new"})
        )
        await until(lambda: lock_waits(service.engine) == 1)
        insert = text("INSERT INTO leads (campaign_id, external_id) VALUES ('cmp', 'first')")
        await asyncio.to_thread(other.execute, insert)
        other.commit()
    answer = await creating
    assert answer.status_code == 200
    assert answer.json()["data"]["skippedIdentifiers"] == ["first", "last"]


@pytest.mark.proof("lead calls")
async def test_a_change_whose_connection_breaks_is_not_done_twice(service):
    """Whether it was done is known to nobody: it is 503, and not `skipped` or 404 by a second
    try.
    """
    cut = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    for call in (
        lambda: create(service, {"externalId": "new"}),
        lambda: delete(service, campaignId="cmp", externalId="a"),
    ):
        with service.engine.connect() as other:
            other.execute(text("LOCK TABLE leads"))
            calling = asyncio.create_task(call())
            await until(lambda: lock_waits(service.engine) == 1)
            other.execute(cut)
            assert (await calling).status_code == 503
    assert left(service) == {("a", "+101"), ("b", "+102"), ("c", None)}


async def test_ids_that_an_operator_has_used_do_not_stand_in_the_way(service):
    with service.engine.begin() as connection:
        own = (
            "INSERT INTO leads (id, campaign_id, external_id) SELECT i, 'cmp', 'own-' || i"
            " FROM generate_series(1000, 3000) AS i"
        )
        connection.execute(text(own))
        connection.execute(text("SELECT setval('leads_id_seq', 998)"))
    told = (
        await create(
            service, {"externalId": "new"}, {"externalId": "own-1000"}, {"externalId": "x"}
        )
    ).json()["data"]
    assert (told["created"], told["skippedIdentifiers"]) == (2, ["own-1000"])
    with service.engine.connect() as connection:
        assert (
            connection.execute(text("SELECT id FROM leads WHERE external_id = 'new'")).scalar_one()
            == 999
        )
    assert left(service) >= {("new", None), ("x", None)}
