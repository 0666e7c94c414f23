"""Calls about jobs."""

import csv
import io
import math
import tempfile
import time
from collections.abc import AsyncIterable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Unpack
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
from leadsweep.steps import Call, Pause, Steps, answer_to, content_of, retry_after

LEADS_IN_A_REQUEST = 1000  # more are sent as a file
BYTES_IN_A_REQUEST = 1 << 20  # likewise
BYTES_IN_MEMORY = 1 << 23  # of such a file; the rest is on disk
LEADS_IN_A_BATCH = 10_000  # that are written to the file at once
RESULTS_IN_A_PAGE = 10_000
JOBS_IN_A_PAGE = 200
LONG_POLL = 30  # seconds for which the server is asked to hold an answer back
LONGEST_PAUSE = 10.0  # seconds between two tries while `wait` finds the server away

# The server is to answer at once, also where it waits by default: for waiting there is `wait`.
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
        """Submits any number of leads as one job: up to 1000 in a request, more as a file. An
        AsyncClient takes an async iterable too.

        Without an `idempotency_key` one is made, so that a request that is sent again after a lost
        connection is done once. Errors carry the key.
        """
        keyed = _keyed(idempotency_key)
        fields = _fields(options)
        entries = aiter(leads) if isinstance(leads, AsyncIterable) else iter(leads)
        batch = yield from some_of(entries, LEADS_IN_A_REQUEST + 1)
        if len(batch) <= LEADS_IN_A_REQUEST:
            body = msgspec.json.encode({"campaignId": campaign_id, "leads": batch} | fields)
            if len(body) <= BYTES_IN_A_REQUEST:
                headers = {"content-type": "application/json"} | keyed
                request = Call("POST", "/api/v1/leads/bulk-delete", headers=headers, content=body)
                return (yield from self._submitted(request))
        with tempfile.SpooledTemporaryFile(BYTES_IN_MEMORY) as file:
            while batch:
                file.write(_encode_lines(batch))
                yield Pause(0)  # other tasks have their turn, as a list may be long
                batch = yield from some_of(entries, LEADS_IN_A_BATCH)
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

        `media_type` is text/csv or application/x-ndjson; `compressed` says that the file is gzip.
        The suffixes of a path say both. `columns` says what the file calls the identifiers, as in
        {"externalId": "CRM id"}; the columns in `ignore` are not identifiers. Raises ValueError
        where nothing says what the file is, or where the file cannot be sent again; OSError.
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
            kind = _media_type(media_type, "")
            return (yield from self._file(campaign_id, file, kind, fields, headers))
        path = Path(file)
        if path.suffix == ".gz":
            headers["content-encoding"] = "gzip"
        suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
        with path.open("rb") as opened:
            kind = _media_type(media_type, suffix)
            return (yield from self._file(campaign_id, opened, kind, fields, headers))

    @call
    def job(self, job_id: str, *, timeout: float | None = None) -> Steps[Job]:
        """The job as it stands now. Raises ServerNotReached, or ServerFailed, after `timeout`
        seconds.
        """
        answered = yield from answer_to(_get_job(job_id), self._retries, _deadline(timeout))
        return content_of(answered, Job)

    @call
    def wait(
        self, job_id: str, *, timeout: float | None = None, long_poll: bool = True
    ) -> Steps[Job]:
        """The job once it is final. Waits by long poll, or by asking as often as the server says.

        A server that has answered once may then be away for any length of time. Raises
        WaitTimedOut after `timeout` seconds: the job goes on, and may end in any way.
        """
        deadline = _deadline(timeout)
        answered = yield from answer_to(_get_job(job_id), self._retries, deadline)
        patient = self._retries._replace(longest=LONGEST_PAUSE, unreached=math.inf)
        while not (job := content_of(answered, Job)).final:
            if (left := deadline - time.monotonic()) <= 0:
                raise WaitTimedOut(job)
            pause = 0.0 if long_poll else retry_after(answered, 1.0)
            yield Pause(min(left, pause))
            seconds = int(min(LONG_POLL, max(0.0, deadline - time.monotonic()))) if long_poll else 0
            request = _get_job(job_id, seconds)
            try:
                answered = yield from answer_to(request, patient, deadline, patient=True)
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
        """Acts on the job by `cancel`, `pause` or `resume`, or makes a job that follows it by
        `retry`, `execute` or `restore`.

        `execute` may have a `schedule`, written as in the API.
        """
        headers, content = _keyed(idempotency_key), None
        if schedule is not None:
            headers |= {"content-type": "application/json"}
            content = msgspec.json.encode({"schedule": schedule})
        request = Call("POST", f"{_path_of(job_id)}/{action}", headers=headers, content=content)
        return (yield from self._submitted(request))

    @call
    def change_pace(self, job_id: str, max_leads_per_second: int | None) -> Steps[Job]:
        """Changes how many leads a second an unfinished job works on; None lifts the limit."""
        body = msgspec.json.encode({"maxLeadsPerSecond": max_leads_per_second})
        headers = {"content-type": "application/json"}
        request = Call("PATCH", _path_of(job_id), headers=headers, content=body)
        return content_of((yield from answer_to(request, self._retries)), Job)

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
        """All jobs, newest first, without their lists of identifiers. `created_after` is included,
        `created_before` is not; both are aware.
        """
        filters = {
            "status": status,
            "campaignId": campaign_id,
            "clientReference": client_reference,
            "createdAfter": created_after.isoformat() if created_after else None,
            "createdBefore": created_before.isoformat() if created_before else None,
        }
        return (
            yield from page(self._retries, "/api/v1/jobs", Job, cursor, JOBS_IN_A_PAGE, filters)
        )

    @listing
    def results(
        self, cursor: str | None, job_id: str, *, outcome: str | None = None
    ) -> Steps[tuple[list[Result], str | None]]:
        """What became of each entry, in request order; of those with one `outcome`, if that is
        given.
        """
        path, filters = f"{_path_of(job_id)}/results", {"outcome": outcome}
        return (yield from page(self._retries, path, Result, cursor, RESULTS_IN_A_PAGE, filters))

    def _submitted(self, request: Call) -> Steps[Submitted]:
        try:
            at_once = request._replace(headers=_AT_ONCE | dict(request.headers))
            answered = yield from answer_to(at_once, self._retries)
            accepted = content_of(answered, Accepted)
            if accepted.total is None:  # the first request with this key asked the server to wait
                job = yield from answer_to(_get_job(accepted.job_id), self._retries)
                answered = answered._replace(body=job.body)
            submitted = content_of(answered, Submitted)
        except LeadsweepError as error:
            error.idempotency_key = request.headers["idempotency-key"]
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
        all_headers = {"content-type": media_type} | dict(headers)
        params = {"campaignId": campaign_id} | query
        request = Call("POST", "/api/v1/leads/bulk-delete/files", params, all_headers, file)
        return (yield from self._submitted(request))


def _deadline(timeout: float | None) -> float:
    """By the monotonic clock."""
    return math.inf if timeout is None else time.monotonic() + timeout


def _path_of(job_id: str) -> str:
    return f"/api/v1/jobs/{quote(job_id, safe='')}"


def _get_job(job_id: str, wait: int = 0) -> Call:
    headers = {"prefer": f"wait={wait}"} if wait else {}
    return Call("GET", _path_of(job_id), headers=headers, wait=wait)


def _fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options under the server's names, without those that are None."""
    return {_FIELD_OF[name]: value for name, value in options.items() if value is not None}


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _keyed(key: str | None) -> dict[str, str]:
    return {"idempotency-key": key or str(uuid4())}


def _media_type(media_type: str | None, suffix: str) -> str:
    """The media type that is given, else that of the suffix. Raises ValueError without either."""
    known = media_type or MEDIA_TYPES.get(suffix.lower())
    if known is None:
        raise ValueError(
            "the name of the file does not say what it is; give a media_type, "
            + " or ".join(sorted(set(MEDIA_TYPES.values())))
        )
    return known
