"""Verifies webhooks, as Standard Webhooks 1.0 has it."""

from collections.abc import Mapping

import msgspec
from standardwebhooks import Webhook, WebhookVerificationError

from client.models import Ended, Event


class _Sent(msgspec.Struct):
    type: str
    timestamp: str
    data: msgspec.Raw


def verify(body: bytes, headers: Mapping[str, str], *secrets: str) -> Event:
    """What `body`, as it came, tells, if one of `secrets` signed it within the last five minutes.

    Raises standardwebhooks.WebhookVerificationError. A `webhook-id` that you have seen is a repetition.
    """
    wrong: Exception = WebhookVerificationError("no secret to verify with")
    for secret in secrets:
        try:
            Webhook(secret).verify(body, dict(headers), json_parse=False)
        except WebhookVerificationError as error:
            wrong = error
        else:
            return _event(body)
    raise wrong


def _event(body: bytes) -> Event:
    sent = msgspec.json.decode(body, type=_Sent)
    about_a_job = sent.type.startswith("job.")
    job = msgspec.json.decode(sent.data, type=Ended) if about_a_job else None
    return msgspec.convert({"type": sent.type, "timestamp": sent.timestamp, "job": job}, Event)
