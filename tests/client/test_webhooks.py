"""`client.verify`: what is ours is taken whatever else the headers hold, and everything else is one
error.
"""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from leadsweep import LeadsweepError, NotVerified, verify
from standardwebhooks import WebhookVerificationError

from shared.credentials import new_secret, sign

BODY = json.dumps(
    {"type": "webhook.test", "timestamp": "2026-01-01T02:00:00.000Z", "data": {"webhookId": "w"}}
).encode()
SECRET = new_secret()
WRONG = [
    sign([new_secret()], "msg_1", datetime.now(UTC), BODY)["webhook-signature"],
    "rubbish",
    "v1",
    "v1,",
    "v1,a",
    "v1,!!!!",
    "v1,ä",
    "v1,a,b",
    "v2,a",
    "v1a," + base64.b64encode(b"x" * 64).decode(),
    ",",
    "",
]


def headers(**changed):
    signed = sign([SECRET], "msg_1", datetime.now(UTC), BODY)
    return signed | {name.replace("_", "-"): value for name, value in changed.items()}


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_a_wrong_signature_beside_a_right_one_does_no_harm_and_alone_is_refused(wrong):
    right = headers()["webhook-signature"]
    for signatures in (f"{wrong} {right}", f"{right} {wrong}", f"{wrong} {wrong} {right} {wrong}"):
        assert verify(BODY, headers(webhook_signature=signatures), SECRET).type == "webhook.test"
    for signatures in (wrong, f"{wrong} {wrong}"):
        with pytest.raises(NotVerified):
            verify(BODY, headers(webhook_signature=signatures), SECRET)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_a", "whsec_!", "ä", "whsec_ä", None, 7, b""]
)
def test_a_secret_that_is_none_is_refused_and_does_no_harm_beside_a_right_one(secret):
    with pytest.raises(NotVerified):
        verify(BODY, headers(), secret)
    for secrets in ((secret, SECRET), (SECRET, secret)):
        assert verify(BODY, headers(), *secrets).type == "webhook.test"


@pytest.mark.parametrize(
    "time",
    [
        "",
        "now",
        "nan",
        "inf",
        "-1",
        "9" * 400,
        "\u0661",
        "1e400",
        None,
        7,
        b"7",
        [7],
        "0x10",
        "1_0",
    ],
)
def test_a_time_that_is_none_is_refused(time):
    with pytest.raises(NotVerified):
        verify(BODY, headers(webhook_timestamp=time), SECRET)


def test_what_is_too_old_too_new_or_changed_is_refused():
    now = datetime.now(UTC)
    for sent in (
        sign([SECRET], "msg_1", now - timedelta(minutes=6), BODY),
        sign([SECRET], "msg_1", now + timedelta(minutes=6), BODY),
        headers(webhook_id="msg_2"),
        {},
        {"webhook-id": "msg_1"},
        {name: value.encode() for name, value in headers().items()},
    ):
        with pytest.raises(NotVerified):
            verify(BODY, sent, SECRET)
    with pytest.raises(NotVerified):
        verify(BODY + b" ", headers(), SECRET)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"type": 7}', b'{"type": "job.completed", "timestamp": "x", "data": {}}'],
)
def test_what_is_signed_but_says_nothing_is_refused(body):
    with pytest.raises(NotVerified):
        verify(body, sign([SECRET], "msg_1", datetime.now(UTC), body), SECRET)
    with pytest.raises(NotVerified):
        verify(b"\xff" + body, headers(), SECRET)


@given(
    st.binary(),
    st.dictionaries(
        st.sampled_from(["webhook-id", "Webhook-Timestamp", "webhook-signature"]), st.text()
    ),
    st.text(),
)
def test_whatever_comes_raises_nothing_but_its_own_error(body, sent, secret):
    for said in (sent, headers() | sent):
        for secrets in ((), (secret,), (secret, SECRET)):
            with pytest.raises(NotVerified):
                verify(body, said, *secrets)


def test_its_error_is_caught_as_the_clients_and_as_the_librarys():
    assert issubclass(NotVerified, LeadsweepError)
    assert issubclass(NotVerified, WebhookVerificationError)
