"""Every route of the application, and how it is called, for what holds for all of them: what is
somebody else's, what does not exist, and a database that is read-only. A new route joins by itself,
but for the test that asks for its row.
"""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

from fastapi.routing import iter_route_contexts

API = "/api/v1"
CSV, NDJSON = "text/csv", "application/x-ndjson"
FORMS = ("application/json", CSV, NDJSON)  # of results
NAME = re.compile(r"\{(\w+)\}")


def nothing(_):
    return {}


class Route(NamedTuple):
    """`forms` are the ways to call it: each makes httpx2's options of a thing, whose attributes say
    what is meant.
    """

    forms: tuple[Callable, ...] = (nothing,)
    thing: str = ""  # the attribute that stands in the path
    also: tuple = ()  # headers with which the same is asked for in another way
    writes: bool = False  # keys that read may not call it
    of_company: bool = False  # keys of a campaign may not call it
    seen_by_company: bool = False  # keys of another campaign may, and find what is theirs
    makes: bool = False  # whoever calls it makes something that is their own
    is_public: bool = False


def leads_of(it):
    return {"json": {"campaignId": it.campaign, "leads": [{"externalId": it.lead}]}}


def new_leads_of(it):
    leads = [{"externalId": it.lead}, {"externalId": f"{it.lead}-new", "phoneNumber": None}]
    return {"json": {"campaignId": it.campaign, "leads": leads}}


def file_of(it):
    content = f"externalId\n{it.lead}\n".encode()
    return {
        "params": {"campaignId": it.campaign},
        "content": content,
        "headers": {"content-type": CSV},
    }


def campaign_of(it):
    return {"params": {"campaignId": it.campaign}}


def lead_of(it):
    return {"params": {"campaignId": it.campaign, "externalId": it.lead}}


def number_of(it):
    return {"params": {"campaignId": it.campaign, "phoneNumber": it.number}}


def page_of(it):
    return {"params": {} if it.cursor is None else {"cursor": it.cursor}}


def jobs_of(it):
    return {
        "params": {"campaignId": it.campaign, "clientReference": it.reference}
        | page_of(it)["params"]
    }


def webhook_of(_):
    return {"json": {"url": "http://127.0.0.1:9/", "description": "one's own"}}


def pace_of(_):
    return {"json": {"maxLeadsPerSecond": 7}}


def description_of(_):
    return {"json": {"description": "changed"}}


JOB, WEBHOOK = f"{API}/jobs/{{jobId}}", f"{API}/webhooks/{{webhookId}}"
ROUTES = {
    **{
        ("POST", f"{API}/{name}/bulk-delete"): Route((leads_of,), writes=True)
        for name in ("leads", "records")
    },
    **{
        ("POST", f"{API}/{name}/bulk-delete/files"): Route((file_of,), writes=True)
        for name in ("leads", "records")
    },
    **{
        ("POST", f"{API}/{name}/bulk"): Route((new_leads_of,), writes=True)
        for name in ("leads", "records")
    },
    **{
        ("GET", f"{API}/{name}"): Route((lead_of, campaign_of, number_of))
        for name in ("leads", "records")
    },
    # Where each is to succeed, only the first form is called: so of different leads, as what is
    # gone is not found.
    ("DELETE", f"{API}/leads"): Route((lead_of, number_of), writes=True),
    ("DELETE", f"{API}/records"): Route((number_of, lead_of), writes=True),
    ("GET", f"{API}/jobs"): Route((jobs_of,)),
    ("GET", JOB): Route(thing="finished", also=({"prefer": "wait=1"}, {"if-none-match": "*"})),
    ("GET", f"{JOB}/results"): Route(thing="finished", also=({"accept": CSV}, {"accept": NDJSON})),
    ("GET", f"{JOB}/deliveries"): Route(thing="finished"),
    ("PATCH", JOB): Route((pace_of,), "scheduled", writes=True),
    ("POST", f"{JOB}/pause"): Route(thing="scheduled", writes=True),
    ("POST", f"{JOB}/resume"): Route(thing="paused", writes=True),
    ("POST", f"{JOB}/cancel"): Route(thing="scheduled", writes=True),
    ("POST", f"{JOB}/retry"): Route(thing="cancelled", writes=True),
    ("POST", f"{JOB}/execute"): Route(thing="preview", writes=True),
    ("POST", f"{JOB}/restore"): Route(thing="archive", writes=True),
    ("POST", f"{API}/webhooks"): Route((webhook_of,), writes=True, of_company=True, makes=True),
    ("GET", f"{API}/webhooks"): Route((page_of,), writes=True, of_company=True),
    ("GET", WEBHOOK): Route(thing="webhook", writes=True, of_company=True),
    ("PATCH", WEBHOOK): Route((description_of,), "webhook", writes=True, of_company=True),
    ("POST", f"{WEBHOOK}/rotate"): Route(thing="webhook", writes=True, of_company=True),
    ("POST", f"{WEBHOOK}/test"): Route(thing="webhook", writes=True, of_company=True),
    ("DELETE", WEBHOOK): Route(thing="second_webhook", writes=True, of_company=True),
    ("GET", f"{WEBHOOK}/deliveries"): Route(thing="webhook", seen_by_company=True),
    ("POST", f"{API}/deliveries/{{deliveryId}}/redeliver"): Route(thing="delivery", writes=True),
    ("GET", "/api/health"): Route(is_public=True),
    ("GET", "/openapi.json"): Route(is_public=True),
    ("GET", "/docs"): Route(is_public=True),
    ("GET", "/docs/{name}"): Route(thing="asset", is_public=True),
}


class Call(NamedTuple):
    """`names` are those in the path, which is still to be filled; `options` are httpx2's."""

    operation: str
    method: str
    path: str
    names: set
    options: dict


def calls(app, campaign="cmp"):
    """Each route and method in each of its forms, about leads of the campaign."""
    it = SimpleNamespace(campaign=campaign, lead="a", number="+1101", reference="none", cursor=None)
    for context in iter_route_contexts(app.routes):
        if context.path.startswith("/guide"):  # files, which need not be built: test_guide has them
            continue
        for method in sorted(set(context.methods) - {"HEAD"}):
            route = ROUTES.get((method, context.path), Route())
            sent = [form(it) for form in route.forms] + [
                {"headers": headers} for headers in route.also
            ]
            for options in sent:
                operation = context.operation_id or context.path
                yield Call(
                    operation, method, context.path, set(NAME.findall(context.path)), options
                )


async def send(service, call, key, **names):
    """Its answer, with the path filled by `names`."""
    options = call.options | {"headers": {"x-api-key": key} | call.options.get("headers", {})}
    return await service.http.request(call.method, call.path.format(**names), **options)
