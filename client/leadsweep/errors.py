"""Everything that a call can raise.

LeadsweepError
├── Refused             the server says no, and why (4xx; 3xx: it is elsewhere)
│   ├── KeyRefused      401 and 403: no such key, or it may not do this
│   ├── NotFound        404
│   ├── Conflict        409
│   └── RateLimited     429, and the wait would be too long
├── ServerFailed        5xx, again and again; or something else answers in its place
├── ServerNotReached    no answer, again and again
│   └── NotConnected    not even a connection: nothing was sent
├── WaitTimedOut        the job goes on: nothing is said of how it will end
└── NotVerified         a webhook that is not ours, or not of now: raised by `verify` alone
"""

import re
from http import HTTPStatus

from standardwebhooks import WebhookVerificationError

from leadsweep.models import Job

# Control characters, turns of the writing direction, separators of lines, and what is seen as
# nothing.
_STEERING = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff]"
)


class LeadsweepError(Exception):
    """The root. What was submitted, and may have been accepted, is sent again with the same
    `idempotency_key`.
    """

    idempotency_key: str | None = None

    def __str__(self) -> str:
        """As a traceback may print it: nothing of what a server said steers a terminal. `args` have
        its own words.
        """
        return _STEERING.sub(
            lambda found: found[0].encode("unicode_escape").decode(), super().__str__()
        )


class Refused(LeadsweepError):
    """The server's own words, its HTTP status, and the id under which it logged the request."""

    def __init__(self, message: str, status: int, request_id: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id


class KeyRefused(Refused):
    """No such key, or it may not do this."""


class NotFound(Refused):
    """There is no such thing, or not for this key."""


class Conflict(Refused):
    """The state of the job, or something else, forbids it."""


class RateLimited(Refused):
    """The key has used up its calls for longer than is worth waiting."""


class ServerFailed(LeadsweepError):
    """The server could not answer. What was asked for may have been done: send it again with the
    same idempotency key.
    """


class ServerNotReached(LeadsweepError):
    """There was no answer. What was asked for may have been done: send it again with the same
    idempotency key.
    """


class NotConnected(ServerNotReached):
    """No connection could be made, so nothing was sent, and nothing can have been done."""


class WaitTimedOut(LeadsweepError, TimeoutError):
    """The time for waiting is over; `job` is how it stood then. It goes on."""

    def __init__(self, job: Job) -> None:
        super().__init__(
            f"job {job.job_id} is still {job.status}, "
            f"{job.processed} of {job.total} entries are processed; it goes on"
        )
        self.job = job


class NotVerified(LeadsweepError, WebhookVerificationError):
    """No secret signed this within the last five minutes, or it is not a webhook at all."""


_BY_STATUS: dict[int, type[Refused]] = {
    401: KeyRefused,
    403: KeyRefused,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
}


def failure(status: int, message: str, request_id: str | None) -> LeadsweepError:
    """The error for an answer that does not say success."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ServerFailed(f"{message} (HTTP {status}, request {request_id})")
    return _BY_STATUS.get(status, Refused)(message, status, request_id)
