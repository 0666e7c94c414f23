"""Every route of the application, each with calls that it takes, for what holds for all of them. A new route joins
by itself.
"""

import re
from typing import NamedTuple

from fastapi.routing import iter_route_contexts

FORMS = ("application/json", "text/csv", "application/x-ndjson")
NAME = re.compile(r"\{(\w+)\}")


class Call(NamedTuple):
    """`names` are those in the path, which is still to be filled; `options` are httpx2's."""

    operation: str
    method: str
    path: str
    names: set
    options: dict


def calls(app, campaign="cmp"):
    """One of each route and method, of lists that have several forms one each."""
    for route in iter_route_contexts(app.routes):
        operation = route.operation_id or route.path
        for method in sorted(set(route.methods) - {"HEAD"}):
            for options in _options(campaign).get(operation, [{}]):
                yield Call(operation, method, route.path, set(NAME.findall(route.path)), options)


def _options(campaign):
    """What a route wants besides its path, by operation; nothing where there is no word of it."""
    submission = [{"json": {"campaignId": campaign, "leads": [{"externalId": "new", "phoneNumber": None}]}}]
    file = [{"content": b"externalId\na\n", "params": {"campaignId": campaign}, "headers": {"content-type": "text/csv"}}]
    of_campaign, of_lead = {"campaignId": campaign}, {"campaignId": campaign, "externalId": "a"}
    return {
        "bulkDeleteLeads": submission,
        "bulkDeleteRecords": submission,
        "createLeads": submission,
        "createRecords": submission,
        "bulkDeleteLeadsFile": file,
        "bulkDeleteRecordsFile": file,
        "listLeads": [{"params": of_campaign}, {"params": of_lead}, {"params": of_campaign | {"phoneNumber": "+101"}}],
        "listRecords": [{"params": of_campaign}],
        "deleteLead": [{"params": of_lead}, {"params": of_campaign | {"phoneNumber": "+101"}}],
        "deleteRecord": [{"params": of_lead}],
        "getJob": [{}, {"headers": {"prefer": "wait=1"}}],
        "changeJob": [{"json": {"maxLeadsPerSecond": 1}}],
        "listResults": [{"headers": {"accept": form}} for form in FORMS],
        "createWebhook": [{"json": {"url": "http://127.0.0.1:9/"}}],
        "changeWebhook": [{"json": {"description": "x"}}],
    }


async def send(service, call, key, **names):
    """Its answer, with the path filled by `names`."""
    options = call.options | {"headers": {"x-api-key": key} | call.options.get("headers", {})}
    return await service.http.request(call.method, call.path.format(**names), **options)
