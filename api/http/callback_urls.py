"""Checks the URL to which a caller wants webhooks sent, when it is registered: its form, and what
its host leads to now.

The host is checked again at every connection, so one that cannot be looked up just now is let
through. Whatever is wrong with a host, the error is the same, so that nobody learns which names
exist in the operator's network.
"""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from api.http.answers import InvalidRequest
from shared.destinations import (
    Address,
    Destination,
    Network,
    may_use,
    parse_destination,
    resolve,
)

LOOK_UP_TIMEOUT = 2.0  # seconds
_CANNOT_TELL = {socket.EAI_AGAIN, socket.EAI_FAIL}

# Threads of their own: a slow name server holds up nothing else.
_look_ups = ThreadPoolExecutor(8, "look-up")


def checked_url(field: str, value: Any) -> str:
    """`value`, if it is a URL of the right form. Raises InvalidRequest that names `field`."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{field} must be a string")
    try:
        parse_destination(value)
    except ValueError as error:
        raise InvalidRequest(f"{field} {error}") from None
    return value


async def check_host(field: str, url: str, allowed: Sequence[Network]) -> None:
    """Checks that `url`, of the right form, leads to where webhooks may be sent, or cannot be
    looked up now. Raises InvalidRequest that names `field`.
    """
    destination = parse_destination(url)
    addresses = await _addresses(destination)
    if addresses is None or not may_use(destination, addresses, allowed):
        raise InvalidRequest(
            f"{field} must lead to a public address, over https on port 443 or 8443"
        )


async def _addresses(destination: Destination) -> list[Address] | None:
    """The addresses of the host. The list is empty where they cannot be looked up now; None means
    that there is no such host.
    """
    try:
        looking = asyncio.get_running_loop().run_in_executor(_look_ups, resolve, destination)
        return await asyncio.wait_for(looking, LOOK_UP_TIMEOUT)
    except TimeoutError:
        return []
    except socket.gaierror as error:
        return [] if error.errno in _CANNOT_TELL else None
    except UnicodeError:  # a name that no resolver can be asked for
        return None
