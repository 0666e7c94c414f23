"""Calls about jobs."""

import csv
import io
import math
import tempfile
import time
from collections.abc import (
    AsyncIterable,
    Iterable,
    Mapping,
)
from datetime import datetime
from pathlib import Path
from typing import (
    Any,
    BinaryIO,
    Unpack,
)
from urllib.parse import quote
from uuid import uuid4

import msgspec

from leadsweep.calls.methods import Retrying, call, listing, page, some_of
from leadsweep.errors import (
    LeadsweepError,
    RateLimited,
    ServerFailed,
    ServerNotReached,
    WaitTimedOut,
)
from leadsweep.models import Accepted, Job, Lead, Options, Result, Submitted
from leadsweep.steps import Call, Pause, Steps, asked, content_of, retry_after

IN_A_REQUEST = 1000  # leads; more are sent as a file
LARGEST_REQUEST = 1 << 20  # bytes; likewise
IN_MEMORY = 1 << 23  # bytes of such a file; the rest is on disk
A_PAGE = 10_000  # results
LONG_POLL = 30  # seconds for which the server is asked to hold an answer back
LONGEST_PAUSE = 10.0  # seconds between two tries while `wait` finds the server away

# Whatever the server does by default, it is to answer at once: for waiting there is `wait`.
_AT_ONCE = {"prefer": "wait=0"}

MEDIA_TYPES = {
    ".csv": "text/csv",
    ".tsv": "text/csv",
    ".ndjson": "application/x-ndjson",
    ".jsonl": "application/x-ndjson",
}

_FIELD_OF = {
    name: name.split("_")[0] + "".join(map(str.title, name.split("_")[1:]))
    for name in Options.__annotations__
}

_encode_lines = msgspec.json.Encoder().encode_lines


class JobCalls(Retrying):
    """Submitting jobs, waiting for them, changing them, and reading what became of them."""

    @call
    def submit(
        self,
        campaign_id: str,
        leads: Iterable[Lead] | AsyncIterable[Lead],
        *,
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> Steps[Submitted]:
        """Submits any number of leads as one job: up to 1000 in a request, more as a file. What is
        async is for an AsyncClient.

        Without an `idempotency_key` one is made, so that what is sent again after a lost connection
        is done once; errors have it.
        """
        keyed = _keyed(idempotency_key)
        fields = _fields(options)
        entries = aiter(leads) if isinstance(leads, AsyncIterable) else iter(leads)
        some = yield from some_of(entries, IN_A_REQUEST + 1)
        if len(some) <= IN_A_REQUEST:
            body = msgspec.json.encode({"campaignId": campaign_id, "leads": some} | fields)
            if len(body) <= LARGEST_REQUEST:
                headers = {"content-type": "application/json"} | keyed
                return (
                    yield from self._submitted(
                        Call("POST", "/api/v1/leads/bulk-delete", headers=headers, content=body)
                    )
                )
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
            while some:
                file.write(_encode_lines(some))
                yield Pause(0)  # others have their turn: a list may be long
                some = yield from some_of(entries, A_PAGE)
            return (yield from self._file(campaign_id, file, "application/x-ndjson", fields, keyed))

    @call
    def submit_file(
        self,
        campaign_id: str,
        file: str | Path | BinaryIO,
        *,
        media_type: str | None = None,
        compressed: bool = False,
        on_invalid: str = "fail",
        columns: Mapping[str, str] | None = None,
        ignore: Iterable[str] = (),
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> Steps[Submitted]:
        """Submits a file as one job: a path, or an open file that can be read again from its
        beginning.

        `media_type` is text/csv or application/x-ndjson, `compressed` that it is gzip; a path says
        both by its suffixes. `columns` says what the file calls the identifiers, as {"externalId":
        "CRM id"}; those in `ignore` are not identifiers. Raises ValueError where nothing says
        what the file is, or where the file cannot be sent again; OSError.
        """
        fields = _fields(options) | {"onInvalid": on_invalid}
        if columns:
            fields["columns"] = _csv_line(
                f"{identifier}:{name}" for identifier, name in columns.items()
            )
        if ignored := list(ignore):
            fields["ignore"] = _csv_line(ignored)
        headers = _keyed(idempotency_key) | ({"content-encoding": "gzip"} if compressed else {})
        if not isinstance(file, str | Path):
            if not file.seekable():
                raise ValueError(
                    "the file cannot be read again from its beginning, as another attempt must; "
                    "copy it first"
                )
            return (
                yield from self._file(campaign_id, file, _checked(media_type, ""), fields, headers)
            )
        path = Path(file)
        if path.suffix == ".gz":
            headers["content-encoding"] = "gzip"
        suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
        with path.open("rb") as opened:
            return (
                yield from self._file(
                    campaign_id, opened, _checked(media_type, suffix), fields, headers
                )
            )

    @call
    def job(self, job_id: str, *, timeout: float | None = None) -> Steps[Job]:
        """The job as it stands now. Raises ServerNotReached, or ServerFailed, after `timeout`
        seconds.
        """
        return content_of(
            (yield from asked(_get_job(job_id), self._retries, _deadline(timeout))), Job
        )

    @call
    def wait(
        self, job_id: str, *, timeout: float | None = None, long_poll: bool = True
    ) -> Steps[Job]:
        """The job once it is final. Waits by long poll, or by asking as often as the server says.

        A server that has answered once may be away then, for as long as it takes. Raises
        WaitTimedOut after `timeout` seconds: the job goes on, and nothing is said of how it will
        end.
        """
        deadline = _deadline(timeout)
        answered = yield from asked(_get_job(job_id), self._retries, deadline)
        patient = self._retries._replace(longest=LONGEST_PAUSE, unreached=math.inf)
        while not (job := content_of(answered, Job)).final:
            if (left := deadline - time.monotonic()) <= 0:
                raise WaitTimedOut(job)
            pause = 0.0 if long_poll else retry_after(answered, 1.0)
            yield Pause(min(left, pause))
            seconds = int(min(LONG_POLL, max(0.0, deadline - time.monotonic()))) if long_poll else 0
            try:
                answered = yield from asked(
                    _get_job(job_id, seconds), patient, deadline, patient=True
                )
            except (ServerNotReached, ServerFailed, RateLimited):
                raise WaitTimedOut(job) from None
        return job

    @call
    def act(
        self,
        job_id: str,
        action: str,
        *,
        schedule: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Steps[Submitted]:
        """Asks for `cancel`, `pause` or `resume`; or for the job that follows: `retry`, `execute`
        or `restore`.

        `execute` may have a `schedule`, written as the API has it.
        """
        headers, content = _keyed(idempotency_key), None
        if schedule is not None:
            headers |= {"content-type": "application/json"}
            content = msgspec.json.encode({"schedule": schedule})
        return (
            yield from self._submitted(
                Call("POST", f"{_path_of(job_id)}/{action}", headers=headers, content=content)
            )
        )

    @call
    def change_pace(self, job_id: str, max_leads_per_second: int | None) -> Steps[Job]:
        """Lets an unfinished job work on so many leads a second; None: as fast as it goes."""
        body = msgspec.json.encode({"maxLeadsPerSecond": max_leads_per_second})
        headers = {"content-type": "application/json"}
        answered = yield from asked(
            Call("PATCH", _path_of(job_id), headers=headers, content=body), self._retries
        )
        return content_of(answered, Job)

    @listing
    def jobs(
        self,
        cursor: str | None,
        *,
        status: str | None = None,
        campaign_id: str | None = None,
        client_reference: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> Steps[tuple[list[Job], str | None]]:
        """All jobs, newest first, without their lists. Times are aware; from the first on, until
        just before the second.
        """
        filters = {
            "status": status,
            "campaignId": campaign_id,
            "clientReference": client_reference,
            "createdAfter": created_after.isoformat() if created_after else None,
            "createdBefore": created_before.isoformat() if created_before else None,
        }
        return (yield from page(self._retries, "/api/v1/jobs", Job, cursor, 200, filters))

    @listing
    def results(
        self, cursor: str | None, job_id: str, *, outcome: str | None = None
    ) -> Steps[tuple[list[Result], str | None]]:
        """What became of each entry, in request order; of those with one `outcome`, if that is
        given.
        """
        return (
            yield from page(
                self._retries,
                f"{_path_of(job_id)}/results",
                Result,
                cursor,
                A_PAGE,
                {"outcome": outcome},
            )
        )

    def _submitted(self, call: Call) -> Steps[Submitted]:
        try:
            answered = yield from asked(
                call._replace(headers=_AT_ONCE | dict(call.headers)), self._retries
            )
            accepted = content_of(answered, Accepted)
            if accepted.total is None:  # whoever sent this key first has waited
                answered = answered._replace(
                    body=(yield from asked(_get_job(accepted.job_id), self._retries)).body
                )
            submitted = content_of(answered, Submitted)
        except LeadsweepError as error:
            error.idempotency_key = call.headers["idempotency-key"]
            raise
        return msgspec.structs.replace(
            submitted, replayed="idempotency-replayed" in answered.headers
        )

    def _file(
        self,
        campaign_id: str,
        file: Any,
        media_type: str,
        options: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> Steps[Submitted]:
        query = {
            name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
            for name, value in options.items()
        }
        sent = {"content-type": media_type} | dict(headers)
        params = {"campaignId": campaign_id} | query
        return (
            yield from self._submitted(
                Call("POST", "/api/v1/leads/bulk-delete/files", params, sent, file)
            )
        )


def _deadline(timeout: float | None) -> float:
    """By the monotonic clock."""
    return math.inf if timeout is None else time.monotonic() + timeout


def _path_of(job_id: str) -> str:
    return f"/api/v1/jobs/{quote(job_id, safe='')}"


def _get_job(job_id: str, wait: int = 0) -> Call:
    headers = {"prefer": f"wait={wait}"} if wait else {}
    return Call("GET", _path_of(job_id), headers=headers, wait=wait)


def _fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """As the server names them; what is None is left out."""
    return {_FIELD_OF[name]: value for name, value in options.items() if value is not None}


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _keyed(key: str | None) -> dict[str, str]:
    return {"idempotency-key": key or str(uuid4())}


def _checked(media_type: str | None, suffix: str) -> str:
    known = media_type or MEDIA_TYPES.get(suffix.lower())
    if known is None:
        raise ValueError(
            "what the file is cannot be told from its name; give a media_type, "
            + " or ".join(sorted(set(MEDIA_TYPES.values())))
        )
    return known
