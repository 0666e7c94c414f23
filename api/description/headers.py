"""The headers of answers, as OpenAPI components, and which of them come together."""

from typing import Any

from api.description.shapes import Schema

_RATE_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


def _header(description: str, *, required: bool = True, **schema: Any) -> Schema:
    return {"description": description, "required": required, "schema": schema}


HEADERS = {
    "X-Request-ID": _header(
        "The one that the caller sent, if it matches the pattern; else a new one",
        type="string",
        pattern="^[!-~]{1,128}$",
    ),
    "X-RateLimit-Limit": _header("Calls allowed in each period", type="integer", minimum=1),
    "X-RateLimit-Remaining": _header("Calls left in this period", type="integer", minimum=0),
    "X-RateLimit-Reset": _header("When this period ends, in unix seconds", type="integer"),
    "Preference-Applied": _header("The `Prefer` that was honoured", required=False, type="string"),
    "Idempotency-Replayed": _header(
        "Present where the answer is that of an earlier call", required=False, const="true"
    ),
    "ETag": _header("For `If-None-Match`", type="string"),
    "Content-Disposition": _header("A name for the file of results", required=False, type="string"),
    "Location": _header("Where to read it", type="string", format="uri-reference"),
    "Retry-After": _header("Seconds to wait before the next call", type="integer", minimum=1),
    "Retry-After-Pending": _header(
        "Seconds to wait before asking again", required=False, type="integer", minimum=1
    ),
    "Retry-After-Unfinished": _header(
        "Seconds to wait before asking again; only while the job is not final",
        required=False,
        type="integer",
        minimum=1,
        maximum=10,
    ),
}
HEADERS |= {
    f"{name}-Counted": (
        HEADERS[name] | {"required": False, "description": "Present where the call was counted"}
    )
    for name in _RATE_HEADERS
}

# Each maps the name of a header to its component.
COUNTED = {name: name for name in _RATE_HEADERS}
MAYBE_COUNTED = {name: f"{name}-Counted" for name in _RATE_HEADERS}
RETRY = {"Retry-After": "Retry-After"}
REPLAYED = {"Idempotency-Replayed": "Idempotency-Replayed"}
DOWNLOAD = {"Content-Disposition": "Content-Disposition"}
APPLIED = REPLAYED | {"Preference-Applied": "Preference-Applied"}
JOB_HEADERS = (
    {"X-Request-ID": "X-Request-ID"}
    | COUNTED
    | {
        "Retry-After": "Retry-After-Unfinished",
        "ETag": "ETag",
        "Preference-Applied": "Preference-Applied",
    }
)
