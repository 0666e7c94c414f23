"""The Python client of Leadsweep, for callers: submits, waits, reads results, verifies webhooks.

    from leadsweep import Client

    with Client("http://127.0.0.1:8000", key) as leadsweep:
        job = leadsweep.wait(leadsweep.submit("spring", [{"externalId": "CRM_001"}]).job_id)
        for result in leadsweep.results(job.job_id, outcome="notFound"):
            print(result.identifier)

`AsyncClient` has the same methods, to be awaited. Neither knows anything of the server but its HTTP
API.
"""

from leadsweep.clients import AsyncClient, Client
from leadsweep.errors import (
    Conflict,
    KeyRefused,
    LeadsweepError,
    NotConnected,
    NotFound,
    NotVerified,
    RateLimited,
    Refused,
    ServerFailed,
    ServerNotReached,
    WaitTimedOut,
)
from leadsweep.models import (
    Attempt,
    Change,
    Created,
    Delivery,
    Ended,
    Event,
    Job,
    Lead,
    NewLead,
    Options,
    Result,
    StoredLead,
    Submitted,
    Webhook,
)
from leadsweep.steps import Retries
from leadsweep.webhooks import verify

__all__ = [
    "AsyncClient",
    "Attempt",
    "Change",
    "Client",
    "Conflict",
    "Created",
    "Delivery",
    "Ended",
    "Event",
    "Job",
    "KeyRefused",
    "Lead",
    "LeadsweepError",
    "NewLead",
    "NotConnected",
    "NotFound",
    "NotVerified",
    "Options",
    "RateLimited",
    "Refused",
    "Result",
    "Retries",
    "ServerFailed",
    "ServerNotReached",
    "StoredLead",
    "Submitted",
    "WaitTimedOut",
    "Webhook",
    "verify",
]
