"""Where the API listens, and how it is called from this machine."""

import errno
import socket
from typing import NamedTuple

from leadsweep.terminal.failure import Failure

from cli.stack.processes import reserve_port

# What to call where the API listens on all addresses.
_ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - as above


class Address(NamedTuple):
    """Where the API listens. Port 0 means any that is free."""

    host: str = "127.0.0.1"
    port: int = 8000

    @property
    def url(self) -> str:
        """The URL of the API from this machine, without a slash at the end."""
        host = _ANY_ADDRESS.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def reserve(address: Address) -> socket.socket:
    """A socket that keeps the port for the API. Raises Failure where the port is taken, or the host
    is not ours.
    """
    try:
        return reserve_port(address.port, address.host)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Failure(
                f"port {address.port} is taken",
                "stop what listens there, or choose another: --port 0 is any",
            ) from None
        raise Failure(
            f"cannot listen on {address.host}, port {address.port}: {error.strerror}"
        ) from None


def listens(address: Address) -> bool:
    """Whether a process accepts connections there."""
    try:
        socket.create_connection(
            (_ANY_ADDRESS.get(address.host, address.host), address.port), timeout=2
        ).close()
    except OSError:
        return False
    return True
