"""Every call that the clients have, written once."""

from leadsweep.calls.jobs import JobCalls
from leadsweep.calls.leads import LeadCalls
from leadsweep.calls.webhooks import WebhookCalls


class Calls(JobCalls, LeadCalls, WebhookCalls):
    """What both clients can do. Everything raises LeadsweepError; see leadsweep.errors."""
