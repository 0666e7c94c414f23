"""Where hostile URLs lead: what a caller may try so that we connect to an address of our own network."""

FORBIDDEN_ADDRESSES = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "168.63.129.16", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.1.1", "192.175.48.1",
    "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1", "100::1", "2001::1", "2001:1ff::1", "2001:db8::1", "2002:7f00:1::1", "2620:4f:8000::1", "3fff::1",
    "5f00::1", "fc00::1", "fd12:3456:789a::1", "fe80::1", "fec0::1", "ff02::1",
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

# Of each the host leads to loopback, for some resolver or some parser. `{port}` is where a listener counts connections.
TRICKS = [
    "http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://LOCALHOST:{port}/", "http://localhost.:{port}/",
    "http://127.0.0.1.:{port}/", "http://2130706433:{port}/", "http://017700000001:{port}/", "http://0x7f000001:{port}/",
    "http://0x7f.0.0.1:{port}/", "http://0177.0.0.1:{port}/", "http://127.1:{port}/", "http://127.0.1:{port}/", "http://0:{port}/",
    "http://0.0.0.0:{port}/", "http://[::]:{port}/", "http://[::1]:{port}/", "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/", "http://[0:0:0:0:0:ffff:127.0.0.1]:{port}/", "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/", "http://[2002:7f00:1::]:{port}/", "http://[::1%25lo]:{port}/", "http://[fe80::1%lo]:{port}/",
    "http://１２７.０.０.１:{port}/", "http://①②⑦.⓪.⓪.①:{port}/", "http://127。0。0。1:{port}/", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/",
    "http://user@127.0.0.1:{port}/", "http://user:password@127.0.0.1:{port}/", "http://example.com@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@example.com/", "http://127.0.0.1:{port}\\@example.com/", "http://example.com\\@127.0.0.1:{port}/",
    "http:\\\\127.0.0.1:{port}/", "http:127.0.0.1:{port}/", "http:/127.0.0.1:{port}/", "http:///127.0.0.1:{port}/",
    "//127.0.0.1:{port}/", "127.0.0.1:{port}", " http://127.0.0.1:{port}/", "http://127.0.0.1:{port}/ ", "http://127.0.0.1:\t{port}/",
    "http://127.0.0.1\r\nhost: example.com\r\n:{port}/", "http://127.0.0.1:{port}/\r\nx: y", "http://127.0.0.1:{port}/\0",
    "https://127.0.0.1:{port}/", "HTTPS://127.0.0.1:{port}/", "ftp://127.0.0.1:{port}/", "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/_x", "javascript:alert(1)", "http+unix://%2Ftmp%2Fsocket/", "http://%31%32%37.0.0.1:{port}/",
    "http://127.0.0.1:0{port}/", "http://127.0.0.1:{port}.", "http://[127.0.0.1]:{port}/", "http://127.0.0.1:{port}:{port}/",
    "http://a..b:{port}/", "http://a.:{port}/", "http://" + "a" * 64 + ":{port}/", "http://a." + "b" * 64 + ".example:{port}/",
    "http://-a:{port}/", "http://:{port}/", "http://", "https://", "", "http://[", "http://[::1", "http://]:{port}/",
    "http://127.0.0.1:99999/", "http://127.0.0.1:-1/", "http://127.0.0.1:１２３/",
]  # fmt: skip
