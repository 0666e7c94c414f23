"""What surrounds every request: a last net, and one line in the log that tells no secrets."""

import json

import httpx2

from tests.support.jobs import add_campaign
from tests.support.stack import environment, free_port, listens, make_key, running, wait_for


async def test_a_fault_of_ours_is_answered_in_the_envelope_and_says_nothing(service):
    async def fault():
        raise RuntimeError("secret")

    service.app.add_api_route("/fault", fault)
    answer = await service.http.get("/fault", headers={"x-request-id": "trace-7"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "trace-7")
    assert answer.json() == {"success": False, "data": None, "error": "Internal server error"}


def test_each_request_is_one_line_in_the_log_without_identifiers_and_keys(settings, engine):
    with engine.begin() as connection:
        add_campaign(connection)
        key = make_key(connection, "co")
    port = free_port()
    with (
        running("api", "--port", port, env=environment(settings)) as process,
        httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": key}, trust_env=False
        ) as http,
    ):
        wait_for(lambda: listens(port))
        body = {
            "campaignId": "cmp",
            "clientReference": "Smith",
            "leads": [{"externalId": "Miller"}, {"phoneNumber": "+15551"}],
        }
        assert (
            http.post(
                "/api/v1/leads/bulk-delete", json=body, headers={"x-request-id": "one"}
            ).status_code
            == 202
        )
        body["leads"].append({"externalId": "Miller" * 50})
        assert (
            http.post(
                "/api/v1/leads/bulk-delete", json=body, headers={"x-request-id": "two"}
            ).status_code
            == 400
        )
        assert http.get("/api/v1/jobs", params={"clientReference": "Smith"}).status_code == 200
        assert http.get("/" + "x" * 5000).status_code == 404
        wait_for(lambda: process.log.read_text().count('"event": "request"') == 4)
        log = process.log.read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["method"], line["status"], line["request"]) for line in requests[:2]] == [
        ("POST", 202, "one"),
        ("POST", 400, "two"),
    ]
    assert len({line["key"] for line in requests[:3]}) == 1
    assert all(line["ms"] > 0 for line in requests)
    assert len(requests[3]["path"]) == 200
    assert not [secret for secret in (key, "Miller", "Smith", "15551") if secret in log]
