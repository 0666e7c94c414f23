"""The description is the API: its routes, statuses and examples; and `/docs` works without any
other host.
"""

import re

import httpx2
import jsonschema_rs
import pytest
from fastapi.routing import iter_route_contexts

from api.app import create_app
from api.description.schemas import JOB_ID
from api.webhooks import endpoints
from shared.settings import parse_rate
from shared.states import Action
from tests.support.stack import make_key

METHODS = {"get", "post", "put", "patch", "delete"}
LEADS = [{"externalId": "a"}, {"phoneNumber": "+102"}, {"externalId": "none"}]


@pytest.fixture
def description(settings):
    return create_app(settings).openapi()


def resolved(description, node):
    """`node` itself, or what it points to."""
    while "$ref" in node:
        target = description
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        node = target
    return node


def operations(description):
    return [
        (path, method, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]


def validator(description, schema):
    """Of `schema`, which points into `description`."""
    return jsonschema_rs.Draft202012Validator(
        schema | {"components": description["components"]}, validate_formats=True
    )


def media(description, response):
    return resolved(description, response)["content"]["application/json"]


async def test_every_route_is_described_and_nothing_else(description, settings):
    routed = {
        (route.path, method.lower())
        for route in iter_route_contexts(create_app(settings).routes)
        for method in route.methods
        if route.include_in_schema
    }
    assert routed == {(path, method) for path, method, _ in operations(description)}
    assert (
        len({operation["operationId"] for *_, operation in operations(description)})
        == len(routed)
        == 31
    )


def test_every_operation_says_which_statuses_it_has(description):
    bulk = {"200", "202", "400", "401", "403", "409", "413", "415", "422", "429", "503"}
    owned = {"400", "401", "403", "429", "503"}
    action = bulk - {"415"} | {"404"}
    assert {
        operation["operationId"]: set(operation["responses"])
        for *_, operation in operations(description)
    } == {
        "bulkDeleteLeads": bulk,
        "bulkDeleteRecords": bulk,
        "bulkDeleteLeadsFile": bulk | {"408"},
        "bulkDeleteRecordsFile": bulk | {"408"},
        "changeJob": owned | {"200", "404", "409", "413", "415"},
        **dict.fromkeys(("createLeads", "createRecords"), owned | {"200", "409", "413", "415"}),
        **dict.fromkeys(("listLeads", "listRecords"), owned | {"200"}),
        **dict.fromkeys(("deleteLead", "deleteRecord"), owned | {"200", "404", "409"}),
        **dict.fromkeys((f"{action}Job" for action in Action), action),
        "executeJob": action | {"415"},
        "getJob": {"200", "304", "400", "401", "404", "429", "503"},
        "listJobs": {"200", "400", "401", "429", "503"},
        "listResults": {"200", "400", "401", "404", "410", "429", "503"},
        "getHealth": {"200", "429", "503"},
        "createWebhook": owned | {"201", "409", "413", "415"},
        "listWebhooks": owned | {"200"},
        "getWebhook": owned | {"200", "404"},
        "changeWebhook": owned | {"200", "404", "413", "415"},
        "deleteWebhook": owned | {"200", "404", "413"},
        "rotateWebhook": owned | {"200", "404", "413"},
        "testWebhook": owned | {"202", "404", "413"},
        "listWebhookDeliveries": owned - {"403"} | {"200", "404"},
        "listJobDeliveries": owned - {"403"} | {"200", "404"},
        "redeliver": owned | {"202", "404", "409", "413"},
    }


def test_every_example_fits_its_schema(description):
    seen = 0
    for *_, operation in operations(description):
        for response in operation["responses"].values():
            if "content" not in resolved(description, response):  # 304
                continue
            content = media(description, response)
            for example in content["examples"].values():
                validator(description, content["schema"]).validate(example["value"])
                seen += 1
    for schema in description["components"]["schemas"].values():
        for example in schema.get("examples", ()):
            validator(description, schema).validate(example)
            seen += 1
    assert seen > 50


def test_every_pointer_leads_somewhere_and_every_component_is_used(description):
    pointers = set(re.findall(r"'\$ref': '([^']+)'", str(description)))
    for pointer in pointers:
        resolved(description, {"$ref": pointer})
    components = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "headers", "responses")
        for name in description["components"][kind]
    }
    assert pointers == components


async def test_bodies_that_the_description_allows_are_accepted_and_others_refused(
    description, service
):
    body = validator(description, description["components"]["schemas"]["BulkDelete"])
    entries = [
        {"externalId": "a"},
        {"phoneNumber": "+101"},
        {"externalId": None, "phoneNumber": "1"},
        {"externalId": "a", "x": 1},
    ]
    entries += [
        {},
        {"externalId": " "},
        {"externalId": "\u00a0\v"},
        {"phoneNumber": "(.) -"},
        {"externalId": "x" * 256},
        "a",
    ]
    entries += [
        {"externalId": "\u2003a"},
        {"externalId": "a\0"},
        {"phoneNumber": "1" * 33},
        {"externalId": 1},
        {"externalId": "."},
    ]
    bodies = [{"campaignId": "cmp", "leads": [entry]} for entry in entries]
    valid = bodies[0]
    bodies += [
        valid | {"phoneFallback": None},
        valid | {"clientReference": "x" * 255},
        valid | {"clientReference": "x" * 256},
    ]
    bodies += [
        valid | {"dryRun": True},
        valid | {"dryRun": 1},
        valid | {"mode": "archive"},
        valid | {"mode": "restore"},
    ]
    window = {"start": "22:00", "end": "06:00", "timeZone": "America/New_York", "days": ["fri"]}
    schedules = [
        {"offPeak": True},
        {"offPeak": False},
        {"runAt": "2026-01-31T22:00:00+01:00"},
        {"runAt": "tomorrow"},
        {},
        None,
        1,
    ]
    schedules += [
        {"window": window},
        {"window": window | {"days": ["friday"]}},
        {"window": window | {"start": "7:00"}},
    ]
    schedules += [
        {"window": window, "offPeak": True},
        {"window": window, "offPeak": None},
        {"window": None, "offPeak": True, "runAt": None},
        {"window": None, "runAt": "2026-01-31T22:00:00+01:00"},
        {"offPeak": None},
        {"window": window | {"timeZone": None, "days": None}},
        {"window": window | {"start": None}},
        {"window": {"end": "06:00"}},
        {"window": window | {"days": []}},
    ]
    schedules += [
        {"window": window | {"end": "24:00"}},
        {"window": window | {"end": "24:01"}},
        {"window": window | {"x": 1}},
    ]
    bodies += [valid | {"schedule": schedule} for schedule in schedules]
    bodies += [valid | {"campaignId": "\t"}, {"leads": LEADS}, valid | {"leads": []}, [valid], None]
    bodies += [
        valid | {"leads": LEADS * 333},
        valid | {"leads": LEADS * 334},
        valid | {"phoneFallback": 1},
    ]
    for tried in bodies:
        status = (await service.post(tried)).status_code
        assert status == (202 if body.is_valid(tried) else 400), tried


def check_described(description, path, answer):
    """Fails unless body and headers of `answer` are as described for its status."""
    operation = description["paths"][path][answer.request.method.lower()]
    response = resolved(description, operation["responses"][str(answer.status_code)])
    validator(description, media(description, response)["schema"]).validate(answer.json())
    for name, pointer in response["headers"].items():
        header = resolved(description, pointer)
        if header["required"] or name in answer.headers:
            written = answer.headers[name]
            validator(description, header["schema"]).validate(
                int(written) if header["schema"]["type"] == "integer" else written
            )
    hinted = {
        "x-request-id",
        "location",
        "retry-after",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
    }
    assert hinted & set(answer.headers) <= {name.lower() for name in response["headers"]}


async def test_refusals_are_as_described(description, service):
    bulk, jobs, leads = "/api/v1/leads/bulk-delete", "/api/v1/jobs", "/api/v1/leads/bulk"
    files = f"{bulk}/files"
    with service.engine.begin() as connection:
        slow = make_key(connection, "co", rate_limit_submit="1/hour", rate_limit_read="1/hour")
    body = {"campaignId": "cmp", "leads": LEADS}
    answers = [
        (bulk, await service.post(body, slow)),
        (bulk, await service.post(body, slow)),
        (bulk, await service.post(body, service.read)),
        (bulk, await service.post(body | {"campaignId": "foreign"})),
        (bulk, await service.post(body, "wrong")),
        (bulk, await service.post(b" " * 2**20 + b"1")),
        (bulk, await service.post(b"{}", headers={"content-type": "text/plain"})),
        (bulk, await service.post(b"{}")),
        (jobs, await service.get(jobs, slow)),
        (jobs, await service.get(jobs, slow)),
        (jobs, await service.get(f"{jobs}?limit=0")),
        (f"{jobs}/{{jobId}}", await service.get(f"{jobs}/{JOB_ID}")),
        (
            files,
            await service.post(
                b"externalId\n",
                path=f"{files}?campaignId=cmp",
                headers={"content-type": "text/csv"},
            ),
        ),
        (leads, await service.post({"campaignId": "cmp", "leads": [{}]}, path=leads)),
        ("/api/v1/leads", await service.get("/api/v1/leads")),
        ("/api/health", await service.http.get("/api/health")),
    ]
    expected = [202, 429, 403, 403, 401, 413, 415, 400, 200, 429, 400, 404, 400, 400, 400, 503]
    assert [answer.status_code for _, answer in answers] == expected
    for path, answer in answers:
        check_described(description, path, answer)


async def test_refusals_without_a_database_and_of_too_much_curiosity_are_as_described(
    description, settings
):
    changes = {
        "database_url": "postgresql://nobody@127.0.0.1:1/none",
        "rate_limit_health": parse_rate("1/hour"),
    }
    app = create_app(settings.model_copy(update=changes))
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://leadsweep") as http,
    ):
        for path, status in (("/api/v1/jobs", 503), ("/api/health", 503), ("/api/health", 429)):
            answer = await http.get(path, headers={"x-api-key": "any"})
            assert answer.status_code == status
            check_described(description, path, answer)


@pytest.mark.parametrize("schema", ["NewWebhook", "WebhookChange"])
def test_what_is_described_of_a_webhook_is_what_is_read(description, schema):
    assert set(description["components"]["schemas"][schema]["properties"]) == endpoints.FIELDS


async def test_the_description_is_served_and_is_the_same(description, service):
    answer = await service.http.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == description
    assert "HTTPValidationError" not in str(description)


async def test_docs_and_what_they_load_come_from_here_under_a_strict_policy(service):
    page = await service.http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    loaded = [name for name in re.findall(r'(?:src|href)="([^"]*)"', page.text) if name != "data:,"]
    assert loaded == ["/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/docs.js"]
    answers = [page, *[await service.http.get(name) for name in loaded]]
    assert [answer.status_code for answer in answers] == [200] * 4
    for answer in answers:
        policy = dict(
            part.strip().split(" ", 1)
            for part in answer.headers["content-security-policy"].split(";")
        )
        assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == (
            "'none'",
            "'self'",
            "'self'",
        )
        assert "x-request-id" in answer.headers
    for ours in (page, answers[3], answers[1]):
        assert not re.search(
            r"(?:https?:)?//[a-z0-9-]+\.", re.sub(r"http://www\.w3\.org/\d+/[a-z]+", "", ours.text)
        )
    assert not re.search(r"<script>|<style|\son\w+=", page.text), "nothing inline"


@pytest.mark.parametrize(
    "name", ["LICENSE", "docs.html", "..%2fapp.py", "%00", "swagger-ui/LICENSE"]
)
async def test_nothing_else_is_served_beside_docs(service, name):
    assert (await service.http.get(f"/docs/{name}")).json()["error"] == "Not found"
