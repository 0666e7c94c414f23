"""Where webhooks may go: public addresses alone, whatever the URL looks like."""

import socket
from ipaddress import ip_address

import pytest

from shared.destinations import (
    is_public,
    may_use,
    parse_destination,
    parse_networks,
    resolve,
)
from tests.support.hosts import (
    FORBIDDEN_ADDRESSES,
    PUBLIC_ADDRESSES,
    SPELLINGS,
    TRICKS,
    shut_network,
)

LOOPBACK = parse_networks("127.0.0.0/8,::1/128")


@pytest.mark.parametrize("address", FORBIDDEN_ADDRESSES)
def test_an_address_that_is_not_public_is_refused(address):
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_a_public_address_is_not(address):
    assert is_public(ip_address(address))


@pytest.mark.proof("hostile urls")
@pytest.mark.parametrize("written", TRICKS + SPELLINGS)
def test_no_way_of_writing_a_url_leads_to_loopback(monkeypatch, written):
    shut_network(monkeypatch, 8443)
    url = written.format(port=8443)
    try:
        destination = parse_destination(url)
        addresses = resolve(destination)
    except (ValueError, OSError):
        return
    assert addresses
    assert not may_use(destination, addresses, ())


@pytest.mark.parametrize("written", SPELLINGS)
def test_what_only_resolvers_take_for_an_address_is_no_host_wherever_it_leads(written):
    with pytest.raises(ValueError, match="must be a URL such as"):
        parse_destination(written.format(port=8443))


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://example.com", ("https", "example.com", 443, "/")),
        ("https://Example.COM:8443/a/b?c=d&e", ("https", "example.com", 8443, "/a/b?c=d&e")),
        (
            "https://xn--bcher-kva.example/%C3%A4",
            ("https", "xn--bcher-kva.example", 443, "/%C3%A4"),
        ),
        ("https://[2606:4700::1111]/", ("https", "2606:4700::1111", 443, "/")),
        ("https://1.1.1.1/?", ("https", "1.1.1.1", 443, "/")),
        ("http://my_service:9000/hook", ("http", "my_service", 9000, "/hook")),
    ],
)
def test_a_url_is_taken_apart(url, parts):
    assert parse_destination(url) == parts


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://example.com/", True),
        ("https://example.com:443/", True),
        ("https://example.com:8443/", True),
        ("https://example.com:22/", False),
        ("https://example.com:0/", False),
        ("http://example.com/", False),
        ("http://example.com:443/", False),
    ],
)
def test_only_https_on_its_ports_goes_to_the_open_internet(url, allowed):
    for networks in ((), LOOPBACK):
        assert may_use(parse_destination(url), [ip_address("1.1.1.1")], networks) is allowed


def test_one_forbidden_address_of_several_is_enough_to_refuse():
    addresses = [ip_address("1.1.1.1"), ip_address("10.0.0.1"), ip_address("2606:4700::1")]
    assert not may_use(parse_destination("https://example.com/"), addresses, ())


def test_networks_that_are_allowed_are_so_over_http_to_any_port_and_no_others_with_them():
    for url in ("http://localhost:9000/", "https://localhost:9000/", "https://localhost/"):
        destination = parse_destination(url)
        assert may_use(
            destination,
            [ip_address("127.0.0.1"), ip_address("::1"), ip_address("::ffff:127.0.0.2")],
            LOOPBACK,
        )
        assert not may_use(destination, [ip_address("127.0.0.1"), ip_address("10.0.0.1")], LOOPBACK)
    assert not may_use(
        parse_destination("http://localhost:9000/"),
        [ip_address("127.0.0.1"), ip_address("1.1.1.1")],
        LOOPBACK,
    )


def test_a_name_is_resolved_to_each_of_its_addresses_once(monkeypatch):
    answers = [(2, 1, 6, "", (a, 443)) for a in ("1.1.1.1", "8.8.8.8", "1.1.1.1")] + [
        (10, 1, 6, "", ("fe80::1%eth0", 443, 0, 2))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    found = resolve(parse_destination("https://example.com/"))
    assert [str(address) for address in found] == ["1.1.1.1", "8.8.8.8", "fe80::1"]
