"""Where hostile URLs lead: what a caller may try so that we connect to an address of our own
network. And a network with no way out to try them in.
"""

import socket

import httpcore2

from shared import destinations

FORBIDDEN_ADDRESSES = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "168.63.129.16",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.31.196.1",
    "192.52.193.1", "192.88.99.1", "192.168.1.1", "192.175.48.1", "198.18.0.1", "198.19.255.255",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "100::1", "2001::1", "2001:1ff::1", "2001:db8::1",
    "2002:7f00:1::1", "2620:4f:8000::1", "3fff::1", "5f00::1", "fc00::1", "fd12:3456:789a::1",
    "fe80::1", "fec0::1", "ff02::1",
]  # fmt: skip

PUBLIC_ADDRESSES = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "192.0.1.1",
    "198.17.255.255",
    "2606:4700::1111",
    "2a00:1450::1",
    "2001:200::1",
]

# Of each the host leads to loopback, for some resolver or some parser. `{port}` is where a listener
# counts connections; they are https, since nothing else is so much as looked up.
TRICKS = [
    "https://127.0.0.1:{port}/", "https://localhost:{port}/", "https://LOCALHOST:{port}/",
    "https://localhost.:{port}/", "https://127.0.0.1.:{port}/", "https://2130706433:{port}/",
    "https://017700000001:{port}/", "https://0x7f000001:{port}/", "https://0x7f.0.0.1:{port}/",
    "https://0177.0.0.1:{port}/", "https://127.1:{port}/", "https://127.0.1:{port}/",
    "https://0:{port}/", "https://0.0.0.0:{port}/", "https://[::]:{port}/", "https://[::1]:{port}/",
    "https://[::ffff:127.0.0.1]:{port}/", "https://[::ffff:7f00:1]:{port}/",
    "https://[0:0:0:0:0:ffff:127.0.0.1]:{port}/", "https://[::127.0.0.1]:{port}/",
    "https://[64:ff9b::127.0.0.1]:{port}/", "https://[2002:7f00:1::]:{port}/",
    "https://[::1%25lo]:{port}/", "https://[fe80::1%lo]:{port}/", "https://１２７.０.０.１:{port}/",
    "https://①②⑦.⓪.⓪.①:{port}/", "https://127。0。0。1:{port}/", "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/",
    "https://user@127.0.0.1:{port}/", "https://user:password@127.0.0.1:{port}/",
    "https://example.com@127.0.0.1:{port}/", "https://127.0.0.1:{port}#@example.com/",
    "https://127.0.0.1:{port}\\@example.com/", "https://example.com\\@127.0.0.1:{port}/",
    "https:\\\\127.0.0.1:{port}/", "https:127.0.0.1:{port}/", "https:/127.0.0.1:{port}/",
    "https:///127.0.0.1:{port}/", "//127.0.0.1:{port}/", "127.0.0.1:{port}",
    " https://127.0.0.1:{port}/", "https://127.0.0.1:{port}/ ", "https://127.0.0.1:\t{port}/",
    "https://127.0.0.1\r\nhost: example.com\r\n:{port}/", "https://127.0.0.1:{port}/\r\nx: y",
    "https://127.0.0.1:{port}/\0", "http://127.0.0.1:{port}/", "HTTP://127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/", "file:///etc/passwd", "gopher://127.0.0.1:{port}/_x",
    "javascript:alert(1)", "http+unix://%2Ftmp%2Fsocket/", "https://%31%32%37.0.0.1:{port}/",
    "https://127.0.0.1:0{port}/", "https://127.0.0.1:{port}.", "https://[127.0.0.1]:{port}/",
    "https://127.0.0.1:{port}:{port}/", "https://a..b:{port}/", "https://a.:{port}/",
    "https://-a:{port}/", "https://" + "a" * 64 + ":{port}/",
    "https://a." + "b" * 64 + ".example:{port}/", "https://:{port}/", "http://", "https://", "",
    "https://[", "https://[::1", "https://]:{port}/", "https://127.0.0.1:99999/",
    "https://127.0.0.1:-1/", "https://127.0.0.1:１２３/",
]  # fmt: skip

# Resolvers take these for 1.1.1.1, so that it is not for where they lead that they are refused.
SPELLINGS = [
    f"https://{host}:{{port}}/"
    for host in (
        "16843009",
        "0100200401",
        "0x01010101",
        "0x1.0x1.0x1.0x1",
        "01.01.01.01",
        "1.1",
        "1.1.257",
        "1.1.1.1.",
    )
]


def shut_network(monkeypatch, port):
    """Lets webhooks go to `port`, but no connection be made, nor any name looked up that is not
    this machine's.

    Returns the addresses that a connection was tried to, which grow.
    """
    tried, look_up = [], socket.getaddrinfo

    def look_up_here(host, port, *further, **options):
        if str(host).lower().rstrip(".") != "localhost":
            options["flags"] = socket.AI_NUMERICHOST
        return look_up(host, port, *further, **options)

    def connect(_backend, host, *_):
        tried.append(host)
        raise httpcore2.ConnectError

    monkeypatch.setattr(destinations, "PORTS", {port})
    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    return tried
