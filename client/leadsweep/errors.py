"""Everything that a call can raise.

LeadsweepError
├── Refused             the server refuses, and says why (4xx; 3xx: it redirects)
│   ├── KeyRefused      401 and 403: the key is unknown, or may not do this
│   ├── NotFound        404
│   ├── Conflict        409
│   └── RateLimited     429, and the server asks for too long a wait
├── ServerFailed        5xx, again and again; or something else answers in its place
├── ServerNotReached    no answer, again and again
│   └── NotConnected    not even a connection: nothing was sent
├── WaitTimedOut        the job has not ended yet, and goes on
└── NotVerified         the webhook is forged or old; only `verify` raises it
"""

import re
from http import HTTPStatus

from standardwebhooks import WebhookVerificationError

from leadsweep.models import Job

# Control characters, marks that turn the direction of writing, separators of lines, and invisible
# characters.
_STEERING = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff]"
)


class LeadsweepError(Exception):
    """The root. Where a submission failed, `idempotency_key` is its key: submitted again with the
    same key, it is done once.
    """

    idempotency_key: str | None = None

    def __str__(self) -> str:
        """The message without characters that steer a terminal, as a traceback may print it. `args`
        have what the server said.
        """
        return _STEERING.sub(
            lambda match: match[0].encode("unicode_escape").decode(), super().__str__()
        )


class Refused(LeadsweepError):
    """The server refused. `request_id` is the id under which it logged the request."""

    def __init__(self, message: str, status: int, request_id: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id


class KeyRefused(Refused):
    """The key is unknown, or may not do this."""


class NotFound(Refused):
    """There is no such thing, or not for this key."""


class Conflict(Refused):
    """The state of the job, or of something else, forbids it."""


class RateLimited(Refused):
    """The key has used up its calls, and the server asks for too long a wait."""


class ServerFailed(LeadsweepError):
    """The server failed. The request may have been carried out: send it again with the same
    idempotency key.
    """


class ServerNotReached(LeadsweepError):
    """There was no answer. The request may have been carried out: send it again with the same
    idempotency key.
    """


class NotConnected(ServerNotReached):
    """No connection could be made, so nothing was sent, and nothing can have been done."""


class WaitTimedOut(LeadsweepError, TimeoutError):
    """The time for waiting is over, and the job goes on; `job` is how it stood then."""

    def __init__(self, job: Job) -> None:
        super().__init__(
            f"job {job.job_id} is still {job.status}, "
            f"{job.processed} of {job.total} entries are processed; it goes on"
        )
        self.job = job


class NotVerified(LeadsweepError, WebhookVerificationError):
    """No secret signed this within the last five minutes, or it is not a webhook of Leadsweep's."""


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
