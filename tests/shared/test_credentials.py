"""Signatures that the official library verifies, and secrets that the database does not hold in
clear.
"""

import base64
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from shared.credentials import Vault, new_secret, new_secrets_key, sign
from shared.settings import parse_secrets_key

BODY = '{"type":"job.completed","data":{"deletedIdentifiers":["ü \U0001f600"]}}'.encode()


def test_the_official_library_verifies_what_either_secret_signed():
    old, new = new_secret(), new_secret()
    headers = sign([new, old], "msg", datetime.now(UTC), BODY)
    for secret in (old, new):
        assert Webhook(secret).verify(BODY, headers)["type"] == "job.completed"
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(BODY + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(BODY, headers | {"webhook-id": "other"})


def test_the_signature_is_that_of_the_specification():
    """Its own example, with its secret."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    headers = sign(
        [secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", datetime.fromtimestamp(1614265330, UTC), body
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_secret_is_32_random_bytes():
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert {len(base64.b64decode(secret.removeprefix("whsec_"))) for secret in secrets} == {32}


def test_what_is_locked_opens_with_the_key_it_was_locked_with_also_when_that_is_an_old_one():
    old, new = new_secrets_key(), new_secrets_key()
    locked = Vault(old).lock("whsec_x")
    assert b"whsec" not in locked
    assert Vault(old).unlock(locked) == Vault(f"{new},{old}").unlock(locked) == "whsec_x"
    with pytest.raises(ValueError, match="LEADSWEEP_SECRETS_KEY is not the key"):
        Vault(new).unlock(locked)


@pytest.mark.parametrize(
    "key", ["x", "A" * 43, "A" * 42 + "==", "whsec_", "A" * 43 + "=,", "A" * 43 + "= , x", "ä" * 44]
)
def test_what_is_no_key_is_refused_with_the_command_that_makes_one(key):
    with pytest.raises(ValueError, match="openssl rand -base64 32"):
        parse_secrets_key(key)


def test_a_key_may_be_written_in_either_alphabet():
    key = base64.b64encode(b"\xfb\xff" * 16).decode()
    url_safe = key.replace("+", "-").replace("/", "_")
    assert parse_secrets_key(f"{key},{url_safe}")
    assert Vault(url_safe).unlock(Vault(key).lock("x")) == "x"
