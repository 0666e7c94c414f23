"""Reads BROKER_URL and REDIS_URL, so that they mean the same to every part: kombu and redis-py each
read them in their own way.

A parameter that one of them would misread or ignore is refused by name. A server is
verified unless its URL says `ssl_cert_reqs=none`: kombu, left alone, verifies no `rediss://`, and
not the name of an `amqps://`.
"""

import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from shared.printable import brief

_REDIS = ("redis", "rediss")
_AMQP = ("amqp", "amqps", "pyamqp")
_VERIFIED = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS = ("ssl_cert_reqs", "ssl_check_hostname", *_FILES)


def is_redis(url: str) -> bool:
    """Whether it leads to a Redis."""
    return url.startswith(tuple(f"{scheme}://" for scheme in _REDIS))


def parse_broker_url(text: object) -> str:
    """`text`, with everything about TLS written out that it leaves to its readers. Raises
    ValueError that says what is wrong with it.

    Several nodes of one RabbitMQ may stand one after another with `;` between them.
    """
    urls = (
        str(text).split(";")
        if str(text).startswith(tuple(f"{scheme}:" for scheme in _AMQP))
        else [str(text)]
    )
    parsed = [_parse(url, (*_REDIS, *_AMQP)) for url in urls if url]
    if len({(urlsplit(url).scheme, urlsplit(url).query) for url in parsed}) > 1:
        raise ValueError("all nodes must have one scheme and the same parameters")
    # kombu would look for the name of the first node in the certificates of all.
    if len(parsed) > 1 and "ssl_check_hostname=true" in parsed[0]:
        raise ValueError("several nodes of amqps:// need ssl_check_hostname=false")
    return ";".join(parsed)


def parse_redis_url(text: object) -> str:
    """As parse_broker_url, for a URL that can only be of a Redis."""
    return _parse(str(text), _REDIS) if text else ""


def celery_options(url: str) -> dict[str, Any]:
    """`broker_url` and, for AMQP over TLS, `broker_use_ssl`, from what `parse_broker_url` has
    returned.
    """
    parts = urlsplit(url.partition(";")[0])
    if parts.scheme != "amqps":
        return {"broker_url": url}  # kombu hands a Redis's parameters on to redis-py
    given = dict(parse_qsl(parts.query))
    options: dict[str, Any] = {"cert_reqs": _VERIFIED[given["ssl_cert_reqs"]]}
    if given["ssl_check_hostname"] == "true":
        options["server_hostname"] = parts.hostname
    options |= {name.removeprefix("ssl_"): given[name] for name in _FILES if name in given}
    nodes = [urlsplit(node)._replace(query="").geturl() for node in url.split(";")]
    return {"broker_url": ";".join(nodes), "broker_use_ssl": options}


def _parse(url: str, schemes: tuple[str, ...]) -> str:
    parts = _split(url, schemes)
    given = parse_qsl(parts.query, keep_blank_values=True)
    secure = parts.scheme in {"rediss", "amqps"}
    for name, value in given:
        if name not in _TLS:
            known = f"known are {', '.join(_TLS)}" if secure else f"{parts.scheme}:// takes none"
            raise ValueError(f"unknown parameter {brief(name)}; {known}")
        if not secure:
            raise ValueError(f"{name} needs {'rediss' if parts.scheme in _REDIS else 'amqps'}://")
        if name in _FILES and not Path(value).is_file():
            raise ValueError(f"{name} must be the path of a file")
    if parts.scheme in _REDIS and not re.fullmatch(r"/?[0-9]*", parts.path):
        raise ValueError(
            "the path of a Redis URL must be the number of a database, as in redis://host:6379/0"
        )
    return (
        parts._replace(query=urlencode(_verifying(dict(given)), safe="/")).geturl()
        if secure
        else url
    )


def _split(url: str, schemes: tuple[str, ...]) -> SplitResult:
    scheme, separator, _ = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise ValueError(f"is not a URL; write {schemes[0]}://:password@host:port/0")
    if scheme not in schemes:
        allowed = ", ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"{brief(scheme)}:// is not supported; write one of {allowed}")
    try:
        parts = urlsplit(url)
        usable = parts.port != 0 and not parts.fragment
    except ValueError:  # of urlsplit or of the port
        usable = False
    if not usable:
        raise ValueError("is not a URL; in a password, write %2F for /, %23 for # and so on")
    return parts


def _verifying(given: dict[str, str]) -> dict[str, str]:
    """The parameters of TLS, completed by the two that say what is verified. Raises ValueError for
    one that cannot be read.
    """
    verified = given.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if verified not in _VERIFIED:
        raise ValueError(f"ssl_cert_reqs must be one of {', '.join(_VERIFIED)}")
    named = given.get("ssl_check_hostname", "true").lower()
    if named not in {"true", "false"}:
        raise ValueError("ssl_check_hostname must be true or false")
    if verified == "none":
        named = "false"
    return given | {"ssl_cert_reqs": verified, "ssl_check_hostname": named}
