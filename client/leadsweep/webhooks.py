"""Verifies webhooks by the specification Standard Webhooks 1.0."""

import re
from collections.abc import Iterable, Mapping

import msgspec
from standardwebhooks import Webhook, WebhookVerificationError

from leadsweep.errors import NotVerified
from leadsweep.models import Ended, Event

_SIGNATURE = re.compile(r"v1,[A-Za-z0-9+/]{43}=")  # HMAC-SHA256 in base64


class _Sent(msgspec.Struct):
    type: str
    timestamp: str
    data: msgspec.Raw


def verify(body: bytes, headers: Mapping[str, str], *secrets: str) -> Event:
    """The event in `body`, the raw bytes, if one of `secrets` signed it within the last five
    minutes.

    Raises NotVerified, and nothing else, whatever came. A `webhook-id` that you have seen before is
    a repetition.
    """
    signer(body, headers, secrets)
    try:
        return _event(body)
    except (msgspec.MsgspecError, RecursionError):
        raise NotVerified("signed, but not what Leadsweep sends") from None


def signer(body: bytes, headers: Mapping[str, str], secrets: Iterable[str]) -> str:
    """The first of `secrets` that signed `body` within the last five minutes. Raises
    NotVerified.
    """
    flaw = "no secret to verify with"
    for secret in secrets:
        try:
            Webhook(secret).verify(body, _well_formed(headers), json_parse=False)
        except WebhookVerificationError as error:
            flaw = str(error)
        except Exception:  # noqa: BLE001 - the library lets out whatever base64, the clock and its own code raise
            flaw = "the secret, a header or the body is malformed"
        else:
            return secret
    raise NotVerified(flaw)


def _well_formed(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers without signatures of other kinds: the library gives up at the first of them,
    though a valid one may follow.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    if signatures := lowered.get("webhook-signature"):
        ours = [signature for signature in signatures.split(" ") if _SIGNATURE.fullmatch(signature)]
        # v0 is a version that the library passes over.
        lowered["webhook-signature"] = " ".join(ours) or "v0,"
    return lowered


def _event(body: bytes) -> Event:
    sent = msgspec.json.decode(body, type=_Sent)
    about_a_job = sent.type.startswith("job.")
    job = msgspec.json.decode(sent.data, type=Ended) if about_a_job else None
    return msgspec.convert({"type": sent.type, "timestamp": sent.timestamp, "job": job}, Event)
