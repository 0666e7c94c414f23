"""The description is the API: its routes, statuses and examples; and `/docs` works without any other host."""

import re

import jsonschema_rs
import pytest
from fastapi.routing import iter_route_contexts

from api.app import create_app

METHODS = {"get", "post", "put", "patch", "delete"}
LEADS = [{"externalId": "a"}, {"phoneNumber": "+2"}, {"externalId": "none"}]


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
    return [(path, method, operation) for path, methods in description["paths"].items() for method, operation in methods.items()]


def validator(description, schema):
    """Of `schema`, which points into `description`."""
    return jsonschema_rs.Draft202012Validator(schema | {"components": description["components"]}, validate_formats=True)


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
    assert len({operation["operationId"] for *_, operation in operations(description)}) == len(routed) == 6


def test_every_operation_says_which_statuses_it_has(description):
    bulk = {"202", "400", "401", "403", "413", "415", "429", "503"}
    assert {operation["operationId"]: set(operation["responses"]) for *_, operation in operations(description)} == {
        "bulkDeleteLeads": bulk,
        "bulkDeleteRecords": bulk,
        "getJob": {"200", "401", "404", "429", "503"},
        "listJobs": {"200", "400", "401", "429", "503"},
        "listResults": {"200", "400", "401", "404", "429", "503"},
        "getHealth": {"200", "429", "503"},
    }


def test_every_example_fits_its_schema(description):
    seen = 0
    for *_, operation in operations(description):
        for response in operation["responses"].values():
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
        f"#/components/{kind}/{name}" for kind in ("schemas", "headers", "responses") for name in description["components"][kind]
    }
    assert pointers == components


async def test_bodies_that_the_description_allows_are_accepted_and_others_refused(description, service):
    body = validator(description, description["components"]["schemas"]["BulkDelete"])
    entries = [{"externalId": "a"}, {"phoneNumber": "+1"}, {"externalId": None, "phoneNumber": "1"}, {"externalId": "a", "x": 1}]
    entries += [{}, {"externalId": " "}, {"externalId": "\u00a0\v"}, {"phoneNumber": "(.) -"}, {"externalId": "x" * 256}, "a"]
    entries += [
        {"externalId": "\u2003"},
        {"externalId": "a\0"},
        {"phoneNumber": "1" * 33},
        {"externalId": 1},
        {"externalId": "."},
    ]
    bodies = [{"campaignId": "cmp", "leads": [entry]} for entry in entries]
    valid = bodies[0]
    bodies += [valid | {"phoneFallback": None}, valid | {"clientReference": "x" * 255}, valid | {"clientReference": "x" * 256}]
    bodies += [valid | {"dryRun": True}, valid | {"campaignId": "\t"}, {"leads": LEADS}, valid | {"leads": []}, [valid], None]
    bodies += [valid | {"leads": LEADS * 333}, valid | {"leads": LEADS * 334}, valid | {"phoneFallback": 1}]
    for tried in bodies:
        status = (await service.post(tried)).status_code
        assert status == (202 if body.is_valid(tried) else 400), tried


async def test_the_description_is_served_and_is_the_same(description, service):
    answer = await service.http.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == description
    assert not re.search("HTTPValidationError|'422'", str(description))


async def test_docs_and_what_they_load_come_from_here_under_a_strict_policy(service):
    page = await service.http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    loaded = [name for name in re.findall(r'(?:src|href)="([^"]*)"', page.text) if name != "data:,"]
    assert loaded == ["/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/docs.js"]
    answers = [page, *[await service.http.get(name) for name in loaded]]
    assert [answer.status_code for answer in answers] == [200] * 4
    for answer in answers:
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
        assert "x-request-id" in answer.headers
    for ours in (page, answers[3], answers[1]):
        assert not re.search(r"(?:https?:)?//[a-z0-9-]+\.", re.sub(r"http://www\.w3\.org/\d+/[a-z]+", "", ours.text))
    assert not re.search(r"<script>|<style|\son\w+=", page.text), "nothing inline"


@pytest.mark.parametrize("name", ["LICENSE", "docs.html", "..%2fapp.py", "%00", "swagger-ui/LICENSE"])
async def test_nothing_else_is_served_beside_docs(service, name):
    assert (await service.http.get(f"/docs/{name}")).json()["error"] == "Not found"
