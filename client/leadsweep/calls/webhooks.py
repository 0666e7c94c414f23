"""Calls about webhooks, and about what was delivered to them. All of them need a company-wide write
key, except the lists of deliveries.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import msgspec

from leadsweep.calls.methods import Retrying, call, listing, page
from leadsweep.models import Delivery, Webhook
from leadsweep.steps import Call, Steps, answer_to, content_of

ITEMS_IN_A_PAGE = 200

_PATH = "/api/v1/webhooks"


class WebhookCalls(Retrying):
    """Managing webhooks, which report the ends of all jobs of a company."""

    @call
    def create_webhook(
        self,
        url: str,
        *,
        events: Iterable[str] | None = None,
        description: str | None = None,
        enabled: bool = True,
    ) -> Steps[Webhook]:
        """Makes a webhook; only this answer has its `secret`. Without `events` it gets all of them.

        The call is not tried again where it may have been done, as that could make a second
        webhook: it raises ServerNotReached or ServerFailed then.
        """
        body = _fields(url, events, description, enabled=enabled)
        answered = yield from answer_to(_sent("POST", _PATH, body), self._retries, once=True)
        return content_of(answered, Webhook)

    @listing
    def webhooks(self, cursor: str | None) -> Steps[tuple[list[Webhook], str | None]]:
        """The company's webhooks, newest first."""
        return (yield from page(self._retries, _PATH, Webhook, cursor, ITEMS_IN_A_PAGE, {}))

    @call
    def webhook(self, webhook_id: str) -> Steps[Webhook]:
        """The webhook as it stands. Raises NotFound."""
        answered = yield from answer_to(Call("GET", _path_of(webhook_id)), self._retries)
        return content_of(answered, Webhook)

    @call
    def change_webhook(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        events: Iterable[str] | None = None,
        description: str | None = None,
        enabled: bool | None = None,
    ) -> Steps[Webhook]:
        """Changes what is given, and leaves the rest. A webhook that is disabled does not get the
        events that were still waiting. Raises NotFound.
        """
        body = _fields(url, events, description, enabled=enabled)
        request = _sent("PATCH", _path_of(webhook_id), body)
        return content_of((yield from answer_to(request, self._retries)), Webhook)

    @call
    def delete_webhook(self, webhook_id: str) -> Steps[None]:
        """Removes the webhook and the record of its deliveries.

        Raises NotFound, also where an earlier attempt removed it and its answer was lost.
        """
        yield from answer_to(Call("DELETE", _path_of(webhook_id)), self._retries)

    @call
    def rotate_secret(self, webhook_id: str) -> Steps[Webhook]:
        """Gives the webhook a new `secret`; the old one goes on signing too for 24 hours. Raises
        NotFound.
        """
        request = Call("POST", f"{_path_of(webhook_id)}/rotate")
        return content_of((yield from answer_to(request, self._retries)), Webhook)

    @call
    def test_webhook(self, webhook_id: str) -> Steps[Delivery]:
        """Sends an event of the type `webhook.test` at once. Raises NotFound."""
        request = Call("POST", f"{_path_of(webhook_id)}/test")
        return content_of((yield from answer_to(request, self._retries)), Delivery)

    @listing
    def deliveries(
        self,
        cursor: str | None,
        webhook_id: str,
        *,
        status: str | None = None,
        event: str | None = None,
    ) -> Steps[tuple[list[Delivery], str | None]]:
        """What was sent to a webhook, newest first. Raises NotFound."""
        path, filters = f"{_path_of(webhook_id)}/deliveries", {"status": status, "event": event}
        return (yield from page(self._retries, path, Delivery, cursor, ITEMS_IN_A_PAGE, filters))

    @listing
    def deliveries_of_job(
        self,
        cursor: str | None,
        job_id: str,
        *,
        status: str | None = None,
        event: str | None = None,
    ) -> Steps[tuple[list[Delivery], str | None]]:
        """What was sent when a job ended, to its callback and to webhooks. Raises NotFound."""
        path = f"/api/v1/jobs/{quote(job_id, safe='')}/deliveries"
        filters = {"status": status, "event": event}
        return (yield from page(self._retries, path, Delivery, cursor, ITEMS_IN_A_PAGE, filters))

    @call
    def redeliver(self, delivery_id: str) -> Steps[Delivery]:
        """Sends the same event again, with the same `webhook-id`, at once. Raises NotFound, and
        Conflict where the webhook is disabled.
        """
        request = Call("POST", f"/api/v1/deliveries/{quote(delivery_id, safe='')}/redeliver")
        return content_of((yield from answer_to(request, self._retries)), Delivery)


def _path_of(webhook_id: str) -> str:
    return f"{_PATH}/{quote(webhook_id, safe='')}"


def _sent(method: str, path: str, body: dict[str, Any]) -> Call:
    headers = {"content-type": "application/json"}
    return Call(method, path, headers=headers, content=msgspec.json.encode(body))


def _fields(
    url: str | None, events: Iterable[str] | None, description: str | None, *, enabled: bool | None
) -> dict[str, Any]:
    """The fields that are given, under the API's names."""
    fields = {
        "url": url,
        "events": None if events is None else list(events),
        "description": description,
        "enabled": enabled,
    }
    return {name: value for name, value in fields.items() if value is not None}
