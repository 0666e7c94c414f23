"""Where a webhook may be sent. A caller chooses the URL, and we connect to it from inside the
operator's network. So an address is forbidden unless it is known to be public. Python's `is_global`
is not enough: it lets NAT64, 6to4 and some metadata services pass.

The addresses of a host are looked up when its URL is registered, to tell the caller of a mistake,
and again at every connection, to be safe.
"""

import re
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL = 2048  # characters
PORTS = {443, 8443}
LOOPBACK = "127.0.0.0/8,::1/128"

# RFC 6890 and the registries it started; 168.63.129.16 is where a cloud keeps its hosts' metadata.
_FORBIDDEN_4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
_GLOBAL_6 = IPv6Network("2000::/3")
_FORBIDDEN_6 = [
    IPv6Network(network)
    for network in (
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "2620:4f:8000::/48",
        "3fff::/20",
    )  # Teredo, 6to4, examples …
]

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
_MAX_LABEL = 63  # characters between two dots; with more, or none, a look-up raises UnicodeError
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_PRINTABLE = re.compile(r"[!-~]+")


class Destination(NamedTuple):
    """A URL, taken apart. `host` has no brackets; `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str


def parse_destination(url: str) -> Destination:
    """Takes `url` apart. Raises ValueError that says what it must be. `may_use` says whether it may
    be used.
    """
    if len(url) > MAX_URL:
        raise ValueError(f"is longer than {MAX_URL} characters")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
        valid = (
            bool(_PRINTABLE.fullmatch(url))
            and "\\" not in url
            and parts.scheme in {"http", "https"}
            and _is_host(host)
        )
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(
            "must be a URL such as https://example.com/hook, its host written in ASCII"
        )
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or a password")
    if parts.fragment or url.endswith("#"):
        raise ValueError("must not contain a fragment")
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Destination(parts.scheme, host, port, target)


def _is_host(host: str) -> bool:
    """Whether it is a name, or an address in its usual form. Other spellings that resolvers take
    for an address (0x7f.1, 2130706433) are not names either.
    """
    if ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            return "%" not in host and bool(ip_address(host))
        except ValueError:
            return False
    return bool(_HOST.fullmatch(host)) and all(
        0 < len(label) <= _MAX_LABEL for label in host.split(".")
    )


def resolve(destination: Destination) -> list[Address]:
    """The addresses of its host, each once. Raises OSError (socket.gaierror) where it has none."""
    answers = socket.getaddrinfo(destination.host, destination.port, type=socket.SOCK_STREAM)
    hosts = [str(address[0]).partition("%")[0] for *_, address in answers]
    return [ip_address(host) for host in dict.fromkeys(hosts)]


def may_use(
    destination: Destination, addresses: Iterable[Address], allowed: Sequence[Network]
) -> bool:
    """Whether all of `addresses` are public, over https on one of PORTS. In `allowed` networks any
    scheme and port is allowed.
    """
    plain = destination.scheme != "https" or destination.port not in PORTS
    if plain and not allowed:
        return False
    return all(
        _is_in(address, allowed) or (not plain and is_public(address)) for address in addresses
    )


def is_public(address: Address) -> bool:
    """Whether the address belongs to the open Internet, and does not lead back to a private one."""
    address = unmapped(address)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _FORBIDDEN_4)
    return address in _GLOBAL_6 and not any(address in network for network in _FORBIDDEN_6)


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(unmapped(address) in network for network in networks)


def unmapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one such as ::ffff:127.0.0.1 stands for; else the address
    itself.
    """
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def parse_networks(text: object) -> tuple[Network, ...]:
    """Reads `127.0.0.0/8,::1/128`. Raises ValueError that says how to write it."""
    if isinstance(text, tuple):
        return text
    try:
        return tuple(ip_network(part.strip()) for part in str(text).split(",") if part.strip())
    except ValueError:
        raise ValueError("write networks as 127.0.0.0/8,::1/128") from None
