"""Every error that callers can get, and how it is answered: the envelope, never a trace, never an
identifier.

ApiError                 any status: `Job not found` (404), `Request body is too large` (413), …
├── InvalidRequest       400, with the text that says what to mend
├── Forbidden            403, one text for all reasons: whether a campaign exists never leaks
├── RateLimited          429, with the limit beside the text
└── Unavailable          503, there is no place or memory left, or the database cannot be reached

BrokenOff                ends an answer that has begun
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from api.http.answers import Answer, time_text
from api.http.rate_limits import Allowance


class ApiError(Exception):
    """Ends a request with `status` and `message`."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """`headers` go into the answer."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers

    def answer(self) -> Answer:
        """The response."""
        return Answer(
            {"success": False, "data": None, "error": self.message} | self.extras(),
            self.status,
            self.headers,
        )

    def extras(self) -> dict[str, Any]:
        """What stands beside the three fields of the envelope."""
        return {}


class InvalidRequest(ApiError):
    """The request says something that it must not, or leaves out something that it must."""

    def __init__(self, message: str) -> None:
        """`message` is one of the contract's texts."""
        super().__init__(400, message)


class Forbidden(ApiError):
    """The key may not do this here."""

    def __init__(self) -> None:
        """Always the same text."""
        super().__init__(403, "Forbidden")


class RateLimited(ApiError):
    """The key, or the address, has used up its calls."""

    def __init__(self, allowance: Allowance) -> None:
        """`allowance` is one that is refused."""
        retry_after = str(max(1, ceil(allowance.seconds_left)))
        super().__init__(
            429, "Rate limit exceeded. Please try again later.", {"Retry-After": retry_after}
        )
        self.allowance = allowance

    def extras(self) -> dict[str, Any]:
        """As the published API has them."""
        return {
            "limit": self.allowance.limit,
            "remaining": 0,
            "reset": time_text(self.allowance.reset),
        }


class Unavailable(ApiError):
    """No place or memory is left, we are about to stop, or the database cannot be reached.

    Where it is the database, a submission may have been accepted all the same.
    """

    def __init__(self) -> None:
        """Asks the caller to come back in a few seconds."""
        super().__init__(503, "Service temporarily unavailable", {"Retry-After": "5"})


class BrokenOff(Exception):
    """An answer that has begun cannot go on: the connection ends, as what was sent must not look
    whole.
    """

    def __init__(self, reason: str) -> None:
        """`reason` is for the log."""
        super().__init__(reason)
        self.reason = reason
