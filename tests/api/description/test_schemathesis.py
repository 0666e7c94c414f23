"""Schemathesis over the description: whatever it makes of it, valid or not, every answer is one
that is described.
"""

from copy import deepcopy
from uuid import uuid4

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.python.asgi import shutdown_lifespans
from schemathesis.specs.openapi import checks
from sqlalchemy import text

from api.app import create_app
from shared.process.heartbeats import beat
from shared.settings import parse_rate
from shared.states import Action
from tests.support.counts import many, ran
from tests.support.jobs import add_campaign, add_leads, queue_job, work_off
from tests.support.stack import make_key

UNLIMITED = dict.fromkeys(
    ("rate_limit_submit", "rate_limit_read", "rate_limit_health"), parse_rate("1000000/hour")
)
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.positive_data_acceptance,
    checks.unsupported_method,
]
ACTIONS = [f"{action}Job" for action in Action]
OF_WEBHOOKS = [
    "getWebhook",
    "changeWebhook",
    "deleteWebhook",
    "rotateWebhook",
    "testWebhook",
    "listWebhookDeliveries",
]
OPERATIONS = [
    "bulkDeleteLeads",
    "bulkDeleteRecords",
    *ACTIONS,
    "getJob",
    "listJobs",
    "listResults",
    "getHealth",
]
OPERATIONS += ["bulkDeleteLeadsFile", "bulkDeleteRecordsFile", "changeJob"]
OPERATIONS += [
    "createLeads",
    "createRecords",
    "listLeads",
    "listRecords",
    "deleteLead",
    "deleteRecord",
]
OPERATIONS += ["createWebhook", "listWebhooks", *OF_WEBHOOKS, "listJobDeliveries", "redeliver"]
URLS = ["https://1.1.1.1/", "http://127.0.0.1:9/hook?a=b"]
OF_LEADS = [
    "listLeads",
    "listRecords",
    "deleteLead",
    "deleteRecord",
    "bulkDeleteLeadsFile",
    "bulkDeleteRecordsFile",
]
TO_DELETE = [f"lead-{i}" for i in range(20)]
OF_LEADS_ENUMS = {"campaignId": ["cmp_1"], "externalId": TO_DELETE, "callbackUrl": URLS}
CALLS = many("described calls") // (2 * len(OPERATIONS) - 1)  # for each operation and mode
SEARCH = settings(
    max_examples=CALLS,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@schemathesis.serializer("text/csv", "application/x-ndjson")
def as_it_is(_context, value):
    """Files are texts to their schema."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


class Described:
    """The API as it describes itself, with a key and a job; everything is up."""

    def __init__(self, configuration, engine):
        with engine.begin() as connection:
            add_campaign(connection, "cmp_1")
            add_leads(
                connection,
                [("a", None), ("b", None), *((name, None) for name in TO_DELETE)],
                campaign="cmp_1",
            )
            jobs = {
                "cancelJob": self._queue(connection, wanted="cancel"),
                "executeJob": self._queue(connection, "a", dry_run=True),
                "restoreJob": self._queue(connection, "b", mode="archive"),
                "retryJob": self._queue(connection),
            }
            exhausted = {"id": jobs["retryJob"]}
            connection.execute(text("UPDATE chunks SET attempts = 5 WHERE job_id = :id"), exhausted)
        work_off(engine)
        with engine.begin() as connection:
            self._job_of = jobs | {"pauseJob": self._queue(connection, state="paused")}
            self._any_job = self._queue(connection)
            self._webhook, self._delivery = self._add_webhook(connection)
            self.headers = {"x-api-key": make_key(connection, "co")}
            beat(connection, "worker")
            beat(connection, "deliverer")
            beat(connection, "ticker")
        app = create_app(configuration.model_copy(update=UNLIMITED))
        description = deepcopy(app.openapi())
        campaign = description["components"]["schemas"]["BulkDelete"]["properties"]["campaignId"]
        campaign["anyOf"] = [
            {"const": "cmp_1"},
            {},
        ]  # or hardly a body would name one that there is
        self._narrow(description)
        self.schema = schemathesis.openapi.from_dict(description)
        self.schema.app = app

    @staticmethod
    def _queue(connection, *identifiers, **columns):
        entries = [(identifier, None) for identifier in identifiers] or [
            ("nobody", None),
            (None, "+101"),
        ]
        return queue_job(connection, entries, campaign="cmp_1", **columns)

    @staticmethod
    def _add_webhook(connection):
        """A webhook with a delivery; their ids."""
        ids = {"webhook": uuid4(), "delivery": uuid4()}
        webhook = (
            "INSERT INTO webhooks (id, company_id, url, events, secret)"
            " VALUES (:webhook, 'co', 'https://1.1.1.1/', '{}', '')"
        )
        connection.execute(text(webhook), ids)
        delivery = (
            "INSERT INTO deliveries (id, company_id, webhook_id, event)"
            " VALUES (:delivery, 'co', :webhook, 'webhook.test')"
        )
        connection.execute(text(delivery), ids)
        return ids.values()

    def _narrow(self, description):
        """What no schema can say: which zones there are, that clocks differ, that U+0000 is
        nowhere.

        And nobody waits for a job that no worker runs.
        """
        schemas = description["components"]["schemas"]
        schemas["Schedule"]["properties"]["runAt"]["enum"] = [
            "2020-01-31T22:00:00+01:00",
            "2999-12-31T23:59:59Z",
        ]
        schemas["NewWebhook"]["properties"]["url"]["enum"] = URLS
        for name, field in (("WebhookChange", "url"), ("BulkDelete", "callbackUrl")):
            schemas[name]["properties"][field]["enum"] = [*URLS, None]
        window = schemas["Window"]["properties"]
        window["start"]["enum"], window["end"]["enum"] = ["22:00", "00:00"], ["06:00", "24:00"]
        window["timeZone"]["enum"] = ["UTC", "America/New_York", None]
        schemas["NewLeads"]["properties"]["campaignId"]["enum"] = ["cmp_1"]
        schemas["NewLead"]["properties"]["phoneNumber"]["enum"] = ["+15555551234", None]
        schemas["NewLead"]["properties"]["metadata"]["enum"] = [{"a": ["b", {"c": None}]}, {}, None]
        for methods in description["paths"].values():
            for operation in methods.values():
                for form in operation.get("requestBody", {}).get("content", {}).values():
                    if "example" in form:
                        form["schema"] = {"enum": [form["example"]]}
                for parameter in operation.get("parameters", ()):
                    if operation["operationId"] in OF_LEADS and parameter["name"] in OF_LEADS_ENUMS:
                        parameter["schema"] = {"enum": OF_LEADS_ENUMS[parameter["name"]]}
                parameters = operation.get("parameters", ())
                operation["parameters"] = [
                    parameter for parameter in parameters if parameter["name"] != "Prefer"
                ]

    def operation(self, name):
        return self.schema.find_operation_by_id(name)

    def cases(self, name, mode):
        """A strategy of calls; half of those of one job, webhook or delivery are about one that
        there is.
        """
        operation = self.operation(name)
        cases = operation.as_strategy(generation_mode=mode)
        there_is = {
            "jobId": self._job_of.get(name, self._any_job),
            "webhookId": self._webhook,
            "deliveryId": self._delivery,
        }
        for parameter, value in there_is.items():
            if f"{{{parameter}}}" in operation.path:
                cases |= operation.as_strategy(
                    generation_mode=mode, path_parameters={parameter: str(value)}
                )
        return cases

    def status(self, case):
        """Sends `case`, checks the answer, and returns its status."""
        # A cursor is any text to callers and refused where it is not one of ours; a wrong parameter
        # may vanish when it is sent; an idempotency key may have been used before.
        unsure = (
            [checks.positive_data_acceptance, checks.negative_data_rejection] if case.query else []
        )
        unsure += (
            [checks.positive_data_acceptance] if "Idempotency-Key" in (case.headers or {}) else []
        )
        # Other URLs than those that it was narrowed to are as good.
        unsure += (
            [checks.negative_data_rejection]
            if isinstance(case.body, dict) and {"url", "callbackUrl"} & set(case.body)
            else []
        )
        # Other numbers than the one that it was narrowed to are, too.
        unsure += (
            [checks.negative_data_rejection]
            if "leads/bulk" in case.path and "delete" not in case.path
            else []
        )
        unsure += [checks.negative_data_rejection] if case.path.endswith("records/bulk") else []
        return case.call_and_validate(
            headers=self.headers, checks=CHECKS, excluded_checks=unsure
        ).status_code


@pytest.fixture
def described(settings, engine):
    yield Described(settings, engine)
    shutdown_lifespans()


@pytest.mark.proof("described calls")
@pytest.mark.parametrize("name", OPERATIONS)
def test_random_calls_that_the_description_allows_get_described_answers(described, name):
    statuses = set()

    @SEARCH
    @given(described.cases(name, GenerationMode.POSITIVE))
    def every_answer_is_described(case):
        statuses.add(described.status(case))
        ran()

    every_answer_is_described()
    assert statuses & {200, 201, 202}, "some calls succeed"


@pytest.mark.proof("described calls")
@pytest.mark.parametrize(
    "name", [name for name in OPERATIONS if name != "getHealth"]
)  # it takes nothing that could be wrong
def test_random_calls_that_the_description_forbids_get_described_answers(described, name):
    statuses = set()

    @SEARCH
    @given(described.cases(name, GenerationMode.NEGATIVE))
    def every_answer_is_described(case):
        statuses.add(described.status(case))
        ran()

    every_answer_is_described()
    assert statuses & {400, 401, 404}, "some calls are refused"


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_bound_and_every_single_deviation_gets_a_described_answer(described, name):
    operation = described.operation(name)
    generation = described.schema.config.generation_for(operation=operation)
    modes = list(GenerationMode)
    cases = described.schema.iter_coverage_cases(
        operation, generation_modes=modes, generation_config=generation
    )
    statuses = {described.status(case) for case in cases}
    assert 405 in statuses, "other methods are tried too"
