"""How many of each kind of proof are run: fewer in every `make test`, all of them in `make proof`.

This is the one place that says so. A test that is marked `proof(kind)` takes its number from
`many(kind)` and says with `ran()` what it has really done; one that never says so counts as one.
`make proof` names, in the environment variable PROOF, the file that it writes what it saw to:

    {"proofs": [{"kind": "clocks", "what": "clocks that …", "in_make_test": 6, "in_make_proof": 6,
                 "last_run": {"count": 6, "seconds": 31, "at": "2026-11-28T10:15:00+00:00",
                              "version": "0.1.0", "commit": "6cce34f"}}, …]}

`last_run` is null for what was never run in full. A run of a part leaves the others' as it was, as
`make proof ARGS='-k clock'` does; so does one in which a test of a kind fails. Seconds are those of
the tests, some of which run side by side.
"""

import json
import os
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple


class Proof(NamedTuple):
    """A kind of proof: `in_test` and `in_proof` are how many `what` there are of it in each run."""

    what: str
    in_test: int
    in_proof: int


# Where both numbers are equal, each is a case of its own that is there to be tried once.
PROOFS = {
    "random jobs": Proof(
        "random jobs over random leads, entry by entry against a plain Python oracle", 50, 3000
    ),
    "random previews": Proof(
        "random previews, also in parts, and their executions, against the oracle", 40, 2500
    ),
    "random lives": Proof(
        "random lives of jobs of up to 25 steps: crashes at any statement, leases that run out,"
        " chunks held twice, small parts, a database that is not well, leads that are inserted and"
        " changed meanwhile",
        10,
        600,
    ),
    "locked leads": Proof(
        "random jobs, some of whose leads somebody holds locked: the others meanwhile, and those"
        " afterwards, against the oracle",
        6,
        250,
    ),
    "actions": Proof(
        "random lives of jobs of up to 40 steps under all six actions, windows and lost workers,"
        " against a small model",
        18,
        1000,
    ),
    "two actions": Proof(
        "two actions on one job at once, each of the 36 pairs in each of its states", 170, 3400
    ),
    "action and workers": Proof(
        "an action on a job whose chunks workers decide at that moment", 36, 360
    ),
    "worker statements": Proof(
        "kills of a worker before and after each of its statements", 12, 120
    ),
    "worker actions": Proof(
        "kills of a worker before and after each statement, while it pauses, cancels, previews,"
        " executes, archives, restores and erases",
        42,
        210,
    ),
    "ticker": Proof("kills of the ticker at its steps", 8, 40),
    "api": Proof(
        "kills of the API before and after its INSERT, without and with an `Idempotency-Key`", 4, 40
    ),
    "one key": Proof("parallel equal POSTs with one key: one job, equal answers", 100, 1000),
    "waiting callers": Proof("callers that wait at one API process at once", 500, 500),
    "clocks": Proof(
        "clocks that are an hour ahead or behind: of the API, the worker, the ticker", 6, 6
    ),
    "deliverer": Proof(
        "kills of the deliverer before and after it claims, and between sending and recording: the"
        " same id again",
        4,
        40,
    ),
    "told": Proof(
        "jobs whose end is told through deliverers that are killed all the time and receivers that"
        " fail, verified by the official library",
        100,
        5000,
    ),
    "hostile urls": Proof(
        "URLs that try to lead to loopback, by other spellings, names and addresses, in 3 places,"
        " with listeners that count connections: none",
        243,
        243,
    ),
    "hostile receivers": Proof(
        "receivers that hang, answer byte by byte or without end, with a gzip bomb, a redirect, bad"
        " TLS; names with a private address, that change, or that take long to look up",
        21,
        21,
    ),
    "broken answers": Proof("answers of receivers with errors anywhere", 100, 10_000),
    "hanging receivers": Proof(
        "receivers that hang while another company's deliveries go on: p95 of 5 s at most", 50, 50
    ),
    "random kills": Proof(
        "random kills under `leadsweep up`: API, worker, pool processes, deliverer, ticker, Redis,"
        " PostgreSQL; of jobs that delete, archive, are paused and cancelled, while some leads are"
        " slow, some locked, and the database is not well for a while; each job has a verified"
        " webhook of its end",
        20,
        1000,
    ),
    "redis": Proof("Redis emptied (5), frozen, and killed and back empty, under work", 7, 70),
    "postgresql": Proof("PostgreSQL stopped at once (SIGQUIT), under work", 2, 20),
    "opposite order": Proof("jobs over the same leads in opposite order, 4 processes", 20, 400),
    "beside slow jobs": Proof(
        "small jobs of another company beside two slow ones, each within 5 s", 12, 120
    ),
    "odd workers": Proof(
        "a poison chunk; a frozen worker; a dead worker's lease in real time; three tickers; every"
        " message three times",
        5,
        5,
    ),
    "file entries": Proof(
        "entries of files, as CSV and as NDJSON, worker processes killed all the time:"
        " entry by entry against the oracle, API memory + 100 MB at most",
        100_000,
        4_000_000,
    ),
    "uploads": Proof(
        "kills of the API during an upload, before and after each statement and commit: all of the"
        " file or nothing, and once when it is sent again",
        6,
        60,
    ),
    "files": Proof(
        "files of every dialect, damage and encoding, cut uploads, gzip bombs", 100, 100
    ),
    "damaged csv": Proof(
        "damaged CSV files, record by record against a reader that begins anew at every line",
        100,
        5000,
    ),
    "lead calls": Proof(
        "leads created and deleted by calls: at once, in opposite order, beside a job, while they"
        " change, with the connection cut",
        8,
        8,
    ),
    "command line": Proof("the command line at a pseudo-terminal and in pipes", 27, 27),
    "hostile bodies": Proof(
        "hostile bodies: no 5xx, each answered from the error table", 5000, 200_000
    ),
    "described calls": Proof(
        (
            "random calls over the OpenAPI description (Schemathesis), half of them ones that it"
            " forbids"
        ),
        915,
        24_400,
    ),
}

# Of a kind that counts as run in full: a process may have died before it was to be killed.
WHOLE = 0.9

FILE = os.environ.get("PROOF")
_done: list[int] = []
_seen: dict[str, list[float]] = {}
_failed: set[str] = set()


def many(kind: str) -> int:
    """How many of `kind` are to be run."""
    return PROOFS[kind].in_proof if FILE else PROOFS[kind].in_test


def rounds(kind: str) -> range:
    """How often to go through what `make test` goes through once."""
    return range(many(kind) // PROOFS[kind].in_test)


def ran(number: int = 1) -> None:
    """Counts what the current test has done, beside what it said before."""
    _done.append(number)


def taken() -> int:
    """What was counted since this was called last."""
    done = sum(_done)
    _done.clear()
    return done


def saw(kind: str, number: int, seconds: float) -> None:
    """A test of `kind` has passed, which did so many in so many seconds."""
    count_and_seconds = _seen.setdefault(kind, [0, 0.0])
    count_and_seconds[0] += number
    count_and_seconds[1] += seconds


def failed(kind: str) -> None:
    """A test of `kind` has failed: what the others have seen is no proof."""
    _failed.add(kind)


def write() -> None:
    """Puts what was seen into FILE."""
    path = Path(FILE)
    before = json.loads(path.read_text())["proofs"] if path.exists() else []
    last_runs = {proof["kind"]: proof["last_run"] for proof in before}
    version = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for kind, (number, seconds) in _seen.items():
        if kind in _failed or number < WHOLE * PROOFS[kind].in_proof:
            continue
        last_runs[kind] = {
            "count": number,
            "seconds": round(seconds),
            "at": now,
            "version": version,
            "commit": commit,
        }
    proofs = [
        {
            "kind": kind,
            "what": proof.what,
            "in_make_test": proof.in_test,
            "in_make_proof": proof.in_proof,
            "last_run": last_runs.get(kind),
        }
        for kind, proof in PROOFS.items()
    ]
    path.write_text(json.dumps({"proofs": proofs}, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write()
