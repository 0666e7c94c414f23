"""The tables. Migrations create them; `make check` holds the two against each other.

Invariants are CHECK constraints. What `companies`, `campaigns` and `leads` have beyond the
published columns has a default.
"""

from shared.database.models.accounts import api_keys, companies
from shared.database.models.chunks import chunks
from shared.database.models.heartbeats import heartbeats
from shared.database.models.jobs import idempotency_keys, jobs
from shared.database.models.leads import archived_leads, campaigns, canonical_forms, leads
from shared.database.models.schema import metadata
from shared.database.models.webhooks import deliveries, webhooks

__all__ = [
    "api_keys",
    "archived_leads",
    "campaigns",
    "canonical_forms",
    "chunks",
    "companies",
    "deliveries",
    "heartbeats",
    "idempotency_keys",
    "jobs",
    "leads",
    "metadata",
    "webhooks",
]
