"""Every row of the error table, and which error wins where there are several."""

import asyncio
import itertools
import json
from datetime import timedelta

import pytest

from shared.settings import Rate
from tests.support.stack import make_key

LEADS = [{"externalId": "a"}]

MAY_BE_ID = "may be the externalId; name it so, or leave it out"
MAY_BE_NUMBER = "may be the phoneNumber; name it so, or leave it out"


def body(**fields):
    return json.dumps({"campaignId": "cmp", "leads": LEADS} | fields).encode()


def raw(**fields):
    """`body` with JSON written by hand."""
    written = {"campaignId": '"cmp"', "leads": '[{"externalId": "a"}]'} | fields
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in written.items()) + "}").encode()


RUN_AT = "schedule.runAt must be an ISO 8601 time with an offset, as 2026-01-31T22:00:00+01:00"
ODD_MOMENTS = [
    "2026-01-01T00:00:00",
    "soon",
    1,
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "2026-01-01\x0000:00:00Z",
]
ODD_MOMENTS += [
    "2026-01-01\u202e00:00:00Z",
    "2026-01-01",
    "T00:00Z",
    " 2026-01-01T00:00:00Z",
    "2026-01-01T00:00:00Z\n",
    "",
]
WINDOW = {"start": "22:00", "end": "06:00"}
NOT_JSON = "Request body is not valid JSON"
BODIES = [
    (b"", NOT_JSON),
    (b"{", NOT_JSON),
    (b"\xef\xbb\xbf" + body(), NOT_JSON),
    (body() + b"x", NOT_JSON),
    (raw(campaignId="NaN"), NOT_JSON),
    (raw(campaignId="Infinity"), NOT_JSON),
    (raw(leads='[{"externalId": "a", "score": 1e400}]'), NOT_JSON),
    (raw(leads='[{"externalId": "a", "score": -1e400}]'), NOT_JSON),
    (raw(campaignId='"\\ud800"'), NOT_JSON),
    (raw(leads='[{"externalId": "\\udfff"}]'), NOT_JSON),
    (raw(leads='[{"note\\ud800": 1, "externalId": "a"}]'), NOT_JSON),
    (b'{"campaignId": "\xff"}', NOT_JSON),
    (b"[" * 100_000, NOT_JSON),
    (b'{"campaignId":' + b"[" * 50_000 + b"]" * 50_000 + b"}", NOT_JSON),
    (b'{"campaignId": "a", "campaignId": "cmp", "leads": [{"externalId": "a"}]}', NOT_JSON),
    (b'{"campaign\\u0049d": "a", "campaignId": "cmp", "leads": [{"externalId": "a"}]}', NOT_JSON),
    (b'{"x": 1, "x": 2}', NOT_JSON),
    (b"'single'", NOT_JSON),
    (b"[]", "Request body must be an object"),
    (b"null", "Request body must be an object"),
    (b'"text"', "Request body must be an object"),
    (body(dry_run=True), "Unknown field: dry_run"),
    (raw(**{"a\\u0000\\n": "1"}), "Unknown field: a??"),
    (body(clientReference=1), "clientReference must be a string"),
    (body(clientReference="x" * 256), "clientReference is longer than 255 characters"),
    (raw(clientReference='"\\u0000"'), "clientReference contains U+0000"),
    (body(phoneFallback="yes"), "phoneFallback must be true, false or onlyIfUnidentified"),
    (body(dryRun="true"), "dryRun must be a boolean"),
    (body(mode="destroy"), "mode must be delete or archive"),
    (body(mode="restore"), "mode must be delete or archive"),
    (body(mode=["delete"]), "mode must be delete or archive"),
    (body(schedule="now"), "schedule must be an object"),
    (body(schedule={}), "schedule must have exactly one of runAt, offPeak, window"),
    (body(schedule={"runAt": None}), "schedule must have exactly one of runAt, offPeak, window"),
    (
        body(schedule={"runAt": "2026-01-01T00:00:00Z", "offPeak": True}),
        "schedule must have exactly one of runAt, offPeak, window",
    ),
    (body(schedule={"run_at": "2026-01-01T00:00:00Z"}), "Unknown field: schedule.run_at"),
    (body(schedule={"offPeak": 1}), "schedule.offPeak must be true"),
    *((body(schedule={"runAt": moment}), RUN_AT) for moment in ODD_MOMENTS),
    (body(schedule={"window": []}), "schedule.window must be an object"),
    (body(schedule={"window": {"start": "22:00"}}), "schedule.window.end must be written as HH:MM"),
    (
        body(schedule={"window": {"start": "9:00", "end": "10:00"}}),
        "schedule.window.start must be written as HH:MM",
    ),
    (
        body(schedule={"window": {"start": "09:00", "end": "09:00"}}),
        "schedule.window.start and end must differ",
    ),
    (
        body(schedule={"window": WINDOW | {"timeZone": "../etc"}}),
        "schedule.window.timeZone is not a known time zone",
    ),
    (
        body(schedule={"window": WINDOW | {"timeZone": 1}}),
        "schedule.window.timeZone is not a known time zone",
    ),
    (body(schedule={"window": WINDOW | {"days": "mon"}}), "schedule.window.days must be an array"),
    (
        body(schedule={"window": WINDOW | {"days": [1]}}),
        "schedule.window.days must be of mon, tue, wed, thu, fri, sat, sun",
    ),
    (body(schedule={"window": WINDOW | {"zone": "UTC"}}), "Unknown field: schedule.window.zone"),
    (
        body(phoneFallback="only_if_unidentified"),
        "phoneFallback must be true, false or onlyIfUnidentified",
    ),
    (body(phoneRegion="de"), "phoneRegion must be an ISO 3166 country code, as DE"),
    (body(phoneRegion=49), "phoneRegion must be an ISO 3166 country code, as DE"),
    *(
        (
            body(leads=[{"externalId": "a"}, {name: "x", "phoneNumber": "+15555550100"}]),
            f"leads[1]: {name} {MAY_BE_ID}",
        )
        for name in (
            "externalID",
            "external_id",
            "external id",
            "'externalId'",
            "extId",
            "external-id",
            "Lead ID",
            "id",
            "CRM_ID",
        )
    ),
    (body(leads=[{"external\u200bId": "x"}]), f"leads[0]: external?Id {MAY_BE_ID}"),
    (body(leads=[{"externalId": "a", "External.Id": "b"}]), f"leads[0]: External.Id {MAY_BE_ID}"),
    *(
        (
            body(leads=[{"externalId": "a", name: "+15555550100"}]),
            f"leads[0]: {name} {MAY_BE_NUMBER}",
        )
        for name in ("phone_number", "Phone Number", "phone", "mobile", "MSISDN", "tel.", "Cell")
    ),
    (raw(leads='[{"externalId": "a", "externalId": "b"}]'), "leads[0]: externalId is given twice"),
    (
        raw(leads='[{"phoneNumber": "1"}, {"phoneNumber": "2", "phone\\u004eumber": "3"}]'),
        "leads[1]: phoneNumber is given twice",
    ),
    (body(phoneFallback=0), "phoneFallback must be true, false or onlyIfUnidentified"),
    (b'{"leads": [{"externalId": "a"}]}', "campaignId is required"),
    (body(campaignId=None), "campaignId is required"),
    (body(campaignId=" \u00a0"), "campaignId is required"),
    (body(campaignId=7), "campaignId must be a string"),
    (body(campaignId=["cmp"]), "campaignId must be a string"),
    (b'{"campaignId": "cmp"}', "leads array is required"),
    (body(leads=None), "leads array is required"),
    (body(leads={"externalId": "a"}), "leads array is required"),
    (body(leads=[]), "leads array cannot be empty"),
    (
        body(leads=[{"externalId": str(i)} for i in range(1001)]),
        "Maximum 1000 leads per bulk delete request",
    ),
    (body(leads=[*LEADS, "b"]), "leads[1] must be an object"),
    (body(leads=[*LEADS, None]), "leads[1] must be an object"),
    (body(leads=[{"externalId": 1}]), "leads[0]: externalId must be a string"),
    (body(leads=[{"phoneNumber": 15551234}]), "leads[0]: phoneNumber must be a string"),
    (body(leads=[{"phoneNumber": 1, "externalId": 1}]), "leads[0]: externalId must be a string"),
    (body(leads=[{}]), "leads[0]: At least one of phoneNumber or externalId is required"),
    (
        body(leads=[{"externalId": None}]),
        "leads[0]: At least one of phoneNumber or externalId is required",
    ),
    (
        body(leads=[{"externalId": "\t", "phoneNumber": "()-"}]),
        "leads[0]: At least one of phoneNumber or externalId is required",
    ),
    (
        body(leads=[*LEADS, {"externalId": "x" * 256}]),
        "leads[1]: externalId is longer than 255 characters",
    ),
    (
        body(leads=[{"externalId": "a" + " " * 255}]),
        "leads[0]: externalId is longer than 255 characters",
    ),
    (body(leads=[{"phoneNumber": "1" * 33}]), "leads[0]: phoneNumber is longer than 32 characters"),
    (body(leads=[{"externalId": "a\0"}]), "leads[0]: externalId contains U+0000"),
    (
        body(leads=[{"externalId": "a", "phoneNumber": "\0"}]),
        "leads[0]: phoneNumber contains U+0000",
    ),
]


@pytest.mark.parametrize("path", ["/api/v1/leads/bulk-delete", "/api/v1/records/bulk-delete"])
async def test_a_body_that_is_wrong_is_refused_with_the_text_that_says_how(service, path):
    for sent, message in BODIES:
        answer = await service.post(sent, path=path)
        assert (answer.status_code, answer.json()) == (
            400,
            {"success": False, "data": None, "error": message},
        ), sent[:200]
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "sent",
    [
        body(leads=[{"externalId": "x" * 255, "phoneNumber": "1" * 32}]),
        body(leads=[{"externalId": "😀" * 255}]),
        body(leads=[{"externalId": str(i)} for i in range(1000)]),
        body(
            leads=[
                {
                    "externalId": "a",
                    "note": {"deep": [1, 2], "externalId": "b"},
                    "tag": "externalId",
                }
            ]
        ),
        body(leads=[{"externalId": "a", "phoneNumber": None, "id": 7, "mobile": "+15555550100"}]),
        body(leads=[{"phoneNumber": "N/A"}]),
        body(phoneFallback="onlyIfUnidentified", phoneRegion="DE"),
        body(leads=[{"externalId": "leads"}, {"externalId": "campaignId"}]),
        body(leads=[{"externalId": "a", "phoneNumber": " "}]),
        body(clientReference=None, phoneFallback=None),
        body(clientReference=""),
        b" \r\n\t" + body() + b"\n",
    ],
)
async def test_a_body_at_the_edge_of_the_rules_is_accepted(service, sent):
    assert (await service.post(sent)).status_code == 202


async def test_keys_are_checked_before_anything_else(service):
    missing = await service.http.post("/api/v1/leads/bulk-delete", content=b"{")
    assert (missing.status_code, missing.json()["error"]) == (401, "Missing API key")
    with service.engine.begin() as connection:
        revoked = make_key(connection, "co", revoked_at="2020-01-01T00:00:00Z")
        expired = make_key(connection, "co", expires_at="2020-01-01T00:00:00Z")
    for key in ("", "nonsense", "lsk_" + "x" * 5000, revoked, expired):
        answer = await service.http.post(
            "/api/v1/leads/bulk-delete", content=b"{", headers={"x-api-key": key}
        )
        assert (answer.status_code, answer.json()["error"]) == (401, "Invalid or inactive API key")
    for header in (
        [("x-api-key", service.write), ("x-api-key", service.write)],
        [(b"x-api-key", b"\xff\xfe")],
    ):
        answer = await service.http.get("/api/v1/jobs", headers=header)
        assert (answer.status_code, answer.json()["error"]) == (401, "Invalid or inactive API key")


async def test_forbidden_is_one_answer_whatever_the_reason(service):
    answers = [
        await service.post(body(), key=service.read),
        await service.post(body(campaignId="no-such-campaign")),
        await service.post(body(campaignId="foreign")),
        await service.post(body(campaignId="cmp"), key=service.limited),
        await service.post(raw(campaignId='"c\\u0000"')),
        await service.post(body(campaignId=" cmp ")),
    ]
    assert {(a.status_code, a.text) for a in answers} == {
        (403, '{"success":false,"data":null,"error":"Forbidden"}')
    }


async def test_routing_errors_are_answered_in_the_envelope(service):
    for method, path, status, message in [
        ("GET", "/nothing", 404, "Not found"),
        ("GET", "/api/v1/jobs/", 404, "Not found"),
        ("GET", "/%ff%00", 404, "Not found"),
        ("GET", "/api/v1/leads/bulk-delete", 405, "Method not allowed"),
        ("DELETE", "/api/v1/jobs", 405, "Method not allowed"),
        ("OPTIONS", "/api/v1/jobs", 405, "Method not allowed"),
    ]:
        answer = await service.http.request(method, path)
        assert (answer.status_code, answer.json()["error"]) == (status, message), path
        assert answer.headers["x-request-id"]


async def test_head_is_answered_wherever_get_is_and_as_get_but_without_a_body(service):
    job_id = await service.submit({"externalId": "a"})
    await service.work()
    key = {"x-api-key": service.write}
    paths = [
        "/docs",
        "/docs/docs.js",
        "/docs/swagger-ui.css",
        "/docs/none",
        "/openapi.json",
        "/api/health",
        "/nothing",
    ]
    paths += [
        "/api/v1/jobs",
        f"/api/v1/jobs/{job_id}",
        f"/api/v1/jobs/{job_id}/results",
        "/api/v1/jobs/none",
    ]
    paths += ["/api/v1/leads?campaignId=cmp", "/api/v1/webhooks", "/api/v1/leads/bulk-delete"]
    own = {"x-request-id", "x-ratelimit-remaining", "x-ratelimit-reset", "etag", "last-modified"}
    for path in paths:
        for headers in ({}, key, key | {"accept": "text/csv"}):
            got, head = [
                await service.http.request(method, path, headers=headers)
                for method in ("GET", "HEAD")
            ]
            assert (head.status_code, head.content) == (got.status_code, b""), path
            assert {n: v for n, v in head.headers.items() if n not in own} == {
                n: v for n, v in got.headers.items() if n not in own
            }
            assert head.headers["x-request-id"] != got.headers["x-request-id"]
    assert (await service.http.head("/docs")).status_code == 200
    refused = await service.http.post("/docs")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    refused = await service.http.head("/api/v1/leads/bulk-delete")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


async def test_jobs_that_are_not_yours_are_not_found(service):
    own = await service.submit({"externalId": "a"})
    other_campaign = own  # of campaign cmp, which the limited key does not reach
    for key, job in [
        (service.foreign, own),
        (service.limited, other_campaign),
        (service.write, "00000000-0000-0000-0000-000000000000"),
        (service.write, "nonsense"),
        (service.write, "%00"),
        (service.write, "%ff"),
    ]:
        for path in (f"/api/v1/jobs/{job}", f"/api/v1/jobs/{job}/results"):
            answer = await service.get(path, key)
            assert (answer.status_code, answer.json()["error"]) == (404, "Job not found"), path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/v1/jobs?limit=0", "limit"),
        ("/api/v1/jobs?limit=ten", "limit"),
        ("/api/v1/jobs?limit=", "limit"),
        ("/api/v1/jobs?limit=1000000", "limit"),
        ("/api/v1/jobs?limit=5&limit=6", "limit"),
        ("/api/v1/jobs?status=done", "status"),
        ("/api/v1/jobs?cursor=nonsense", "cursor"),
        ("/api/v1/jobs?cursor=%00%ff", "cursor"),
        ("/api/v1/jobs?campaignid=cmp", "campaignid"),
        ("/api/v1/jobs/{job}?wait=1", "wait"),
        ("/api/v1/jobs/{job}/results?limit=10001", "limit"),
        ("/api/v1/jobs/{job}/results?cursor=", "cursor"),
        ("/api/v1/jobs/{job}/results?cursor=-1", "cursor"),
        ("/api/v1/jobs/{job}/results?cursor=99999999999999999999", "cursor"),
        ("/api/v1/jobs/{job}/results?outcome=lost", "outcome"),
        ("/api/v1/jobs/{job}/results?outcome=", "outcome"),
        ("/api/v1/jobs/{job}/results?offset=1", "offset"),
    ],
)
async def test_a_query_parameter_that_is_wrong_is_named(service, path, name):
    job = await service.submit({"externalId": "a"})
    answer = await service.get(path.format(job=job))
    assert (answer.status_code, answer.json()["error"]) == (400, f"Invalid query parameter: {name}")


async def test_an_option_that_is_put_into_the_query_is_refused_and_deletes_nothing(service):
    answer = await service.http.post(
        "/api/v1/leads/bulk-delete?dryRun=true",
        content=body(),
        headers={"x-api-key": service.write, "content-type": "application/json"},
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "Invalid query parameter: dryRun")
    assert (await service.get("/api/v1/jobs")).json()["data"]["items"] == []


# In the contract's order. Each spoils one thing of a request; where two are spoilt, the earlier
# must be the answer.
SPOILT = [
    ("no key", {"no_key": True}, (401, "Missing API key")),
    ("scope", {"scope": "read"}, (403, "Forbidden")),
    (
        "content type",
        {"content_type": "text/plain"},
        (415, "Content-Type must be application/json"),
    ),
    ("size", {"padding": 1024 * 1024}, (413, "Request body is too large")),
    ("JSON", {"after": "}"}, (400, NOT_JSON)),
    ("unknown field", {"fields": {"typo": 1}}, (400, "Unknown field: typo")),
    (
        "option",
        {"fields": {"phoneFallback": 1}},
        (400, "phoneFallback must be true, false or onlyIfUnidentified"),
    ),
    ("campaignId", {"fields": {"campaignId": 1}}, (400, "campaignId must be a string")),
    ("leads", {"fields": {"leads": []}}, (400, "leads array cannot be empty")),
    (
        "entry",
        {"fields": {"leads": [{}]}},
        (400, "leads[0]: At least one of phoneNumber or externalId is required"),
    ),
    ("access", {"campaign": "foreign"}, (403, "Forbidden")),
]


async def test_of_two_errors_the_earlier_in_the_contract_is_the_answer(service):
    for (name, first, answer_due), (other, second, _) in itertools.combinations(SPOILT, 2):
        answer = await send_spoilt(service, first, second)
        assert (answer.status_code, answer.json()["error"]) == answer_due, f"{name} with {other}"


async def test_a_call_over_the_rate_limit_is_refused_after_key_and_scope_but_before_its_body(
    service,
):
    service.app.state.services.settings.rate_limit_submit = Rate(1, timedelta(hours=1))
    assert (await service.post(body())).status_code == 202
    for name, spoil, (status, message) in SPOILT:
        answer = await send_spoilt(service, spoil)
        due = (
            (status, message)
            if name in {"no key", "scope"}
            else (429, "Rate limit exceeded. Please try again later.")
        )
        assert (answer.status_code, answer.json()["error"]) == due, name


async def send_spoilt(service, *spoils):
    """Sends a request that is right but for what it is given."""
    fields = {"campaignId": "cmp", "leads": LEADS}
    for spoil in reversed(
        spoils
    ):  # so that the earlier one of two wrong values for one field stands
        fields |= spoil.get("fields", {})
        if "campaign" in spoil and isinstance(fields["campaignId"], str):
            fields["campaignId"] = spoil["campaign"]
    merged = {name: value for spoil in spoils for name, value in spoil.items()}
    sent = (
        json.dumps(fields).encode()
        + merged.get("after", "").encode()
        + b" " * merged.get("padding", 0)
    )
    headers = {"content-type": merged.get("content_type", "application/json")}
    if not merged.get("no_key"):
        headers["x-api-key"] = service.read if "scope" in merged else service.write
    return await service.http.post("/api/v1/leads/bulk-delete", content=sent, headers=headers)


def entry_error_cases():
    both_wrong = {"externalId": 1, "phoneNumber": 1}
    yield [both_wrong, "no object"], "leads[0]: externalId must be a string"
    yield ["no object", both_wrong], "leads[0] must be an object"
    yield [{"externalId": "x" * 256, "phoneNumber": 1}], "leads[0]: phoneNumber must be a string"
    yield [{"externalId": "\0" * 256}], "leads[0]: externalId is longer than 255 characters"
    yield (
        [{"externalId": "\0", "phoneNumber": "1" * 33}],
        "leads[0]: phoneNumber is longer than 32 characters",
    )
    yield [{"externalId": "\0", "phoneNumber": "\0"}], "leads[0]: externalId contains U+0000"
    yield (
        [{"externalId": " " * 256}],
        "leads[0]: At least one of phoneNumber or externalId is required",
    )
    yield [{"externalId": "ok"}, {"externalId": "\0"}, {}], "leads[1]: externalId contains U+0000"


@pytest.mark.parametrize(("entries", "message"), list(entry_error_cases()))
async def test_entries_are_checked_one_by_one_in_the_contracts_order(service, entries, message):
    assert (await service.post(body(leads=entries))).json()["error"] == message


async def test_content_types_that_mean_json_are_taken(service):
    for written in ("application/json", "Application/JSON; charset=utf-8", "application/json;"):
        assert (await service.post(body(), headers={"content-type": written})).status_code == 202
    for written in (
        "",
        "text/json",
        "application/jsonp",
        "application/x-www-form-urlencoded",
        "application/problem+json",
    ):
        answer = await service.post(body(), headers={"content-type": written})
        assert (answer.status_code, answer.json()["error"]) == (
            415,
            "Content-Type must be application/json",
        )


async def test_a_body_of_one_mebibyte_is_read_and_one_byte_more_is_not(service):
    limit = 1024 * 1024
    assert (await service.post(body().ljust(limit))).status_code == 202
    for content in (body().ljust(limit + 1), in_parts(body().ljust(limit + 1))):
        answer = await service.http.post(
            "/api/v1/leads/bulk-delete",
            content=content,
            headers={"x-api-key": service.write, "content-type": "application/json"},
        )
        assert (answer.status_code, answer.json()["error"]) == (413, "Request body is too large")


async def in_parts(sent):
    for start in range(0, len(sent), 65536):
        await asyncio.sleep(0)
        yield sent[start : start + 65536]


async def test_a_request_id_is_the_callers_where_it_is_sane(service):
    for written, kept in [
        ("trace-1", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("two words", False),
        ("", False),
    ]:
        answer = await service.http.get("/nothing", headers={"x-request-id": written})
        assert (answer.headers["x-request-id"] == written) is kept
