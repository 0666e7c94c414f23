"""API keys, by which callers prove who they are, and the secrets of webhooks, by which we prove it
to their receivers.

Of a key only the hash is stored. A key has 192 random bits, which nobody can guess, so one round of
SHA-256 is enough. A secret must be read again, to sign with, so it is stored encrypted (Fernet).
Secrets and signatures follow the Standard Webhooks specification 1.0. The key that encrypts secrets
also makes the ids by which callers know leads.
"""

import base64
import hashlib
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import ColumnElement, cast, func
from sqlalchemy.dialects.postgresql import JSONPATH
from standardwebhooks import Webhook

from shared.settings import SECRETS_KEY_BYTES

BOTH_SIGN = timedelta(hours=24)  # after a rotation, so that receivers can change over
OLD_SECRETS_KEPT = 5  # earlier secrets that sign too: each makes the header longer

PREFIX = "lsk_"  # lets secret scanners and people see what a leaked string is


def new_key() -> str:
    """A new API key: `lsk_` and 32 URL-safe characters."""
    return PREFIX + secrets.token_urlsafe(24)


def hash_key(key: str) -> bytes:
    """The 32 bytes by which an API key is looked up."""
    return hashlib.sha256(key.encode()).digest()


def new_secret() -> str:
    """A new secret: `whsec_` and 32 random bytes in base64."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def new_secrets_key() -> str:
    """A new LEADSWEEP_SECRETS_KEY."""
    return base64.b64encode(secrets.token_bytes(SECRETS_KEY_BYTES)).decode()


_STANDARD = str.maketrans("-_", "+/")
_URL_SAFE = str.maketrans("+/", "-_")


class Vault:
    """Encrypts and decrypts secrets. Of several keys the first one encrypts, and all can decrypt,
    so that the key can be changed.
    """

    def __init__(self, secrets_key: str) -> None:
        """`secrets_key` as in the settings, not empty."""
        self._fernet = MultiFernet(
            [Fernet(key.translate(_URL_SAFE)) for key in secrets_key.split(",")]
        )

    def lock(self, secret: str) -> bytes:
        """The secret, encrypted for the database."""
        return self._fernet.encrypt(secret.encode())

    def unlock(self, locked: bytes) -> str:
        """The secret. Raises ValueError where it was encrypted with another key."""
        try:
            return self._fernet.decrypt(locked).decode()
        except InvalidToken:
            raise ValueError(
                "LEADSWEEP_SECRETS_KEY is not the key that this secret was encrypted with"
            ) from None


def pseudonyms(secrets_key: str, numbers: Iterable[int]) -> list[str]:
    """Ids that stand for numbers which callers must not be able to compare: for one number always
    the same.

    They are made with the oldest of the keys, so that a new key in front of it changes nothing.
    """
    oldest = base64.b64decode(secrets_key.rpartition(",")[2].translate(_STANDARD))
    # `person` sets this use of the key apart from any other.
    keyed = hashlib.blake2b(digest_size=16, key=oldest, person=b"pseudonym")

    def stands_for(number: int) -> str:
        each = keyed.copy()
        each.update(str(number).encode())
        return each.hexdigest()

    return [stands_for(number) for number in numbers]


def retired(secret: ColumnElement[bytes], old_secrets: ColumnElement[Any]) -> ColumnElement[Any]:
    """What `old_secrets` becomes when `secret`, which is encrypted, is replaced: it comes first,
    with the time until which it signs.
    """
    end = func.clock_timestamp() + BOTH_SIGN
    # Fernet writes ASCII.
    newest = func.jsonb_build_object("secret", func.convert_from(secret, "UTF8"), "until", end)
    return func.jsonb_path_query_array(
        func.jsonb_build_array(newest).op("||")(old_secrets),
        cast(f"$[0 to {OLD_SECRETS_KEPT - 1}]", JSONPATH),
    )


def in_force(old_secrets: Iterable[dict[str, str]], now: datetime) -> list[bytes]:
    """Those of `old_secrets` that still sign; they are encrypted."""
    return [
        old["secret"].encode() for old in old_secrets if datetime.fromisoformat(old["until"]) > now
    ]


def last_end(old_secrets: Sequence[dict[str, str]]) -> datetime | None:
    """Until when the newest of `old_secrets` signs too."""
    return datetime.fromisoformat(old_secrets[0]["until"]) if old_secrets else None


def sign(
    signing_secrets: Iterable[str], webhook_id: str, moment: datetime, body: bytes
) -> dict[str, str]:
    """The three headers of the specification, with a signature for each secret."""
    moment = moment.astimezone(UTC)
    signatures = [
        Webhook(secret).sign(webhook_id, moment, body.decode()) for secret in signing_secrets
    ]
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
