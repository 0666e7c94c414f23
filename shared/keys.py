"""API keys: how one is made, and the hash that is all that is stored of it.

A key carries 192 random bits, so one round of SHA-256 is enough: there is nothing to guess.
"""

import hashlib
import secrets

PREFIX = "lsk_"  # lets secret scanners and people see what a leaked string is


def new_key() -> str:
    """A new key: `lsk_` and 32 URL-safe characters."""
    return PREFIX + secrets.token_urlsafe(24)


def hash_key(key: str) -> bytes:
    """The 32 bytes by which `key` is looked up."""
    return hashlib.sha256(key.encode()).digest()
