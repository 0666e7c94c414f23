"""How long `leadsweep up` takes to answer its first request, and what the time is spent on.

    python scripts/measure_start.py [--rounds N] [--against COMMIT]

Starts the stack on a data folder that was used before, and asks for a list of jobs until that is
answered. Prints the median of each moment, in milliseconds after the command. With `--against` the
same is done in turn with another commit's code, compiled ahead as this one is.
"""

import argparse
import compileall
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from leadsweep.terminal.output import say

from benchmarks.builds import THIS, Build, check_out, resolve
from cli.stack.embedded import free_port

if TYPE_CHECKING:
    import subprocess

LIMIT_MS = 2500
ROLES = ("api", "worker", "deliverer", "ticker")
FIRST_ANSWER = "first request is answered"
MOMENTS = (
    "the command has its settings and its folder",
    "the servers answer, the processes are started",
    *(f"{role} is ready" for role in ROLES),
    FIRST_ANSWER,
    "all are known to be ready",
)
OURS = {"DATABASE_URL", "BROKER_URL", "REDIS_URL", "LEADSWEEP_LOG_FORMAT", "LEADSWEEP_LOG_LEVEL"}


class Side(NamedTuple):
    """A build, its data folder, and what was measured: milliseconds by moment, one each start."""

    name: str
    build: Build
    data_dir: Path
    starts: list[dict[str, float]]


def main() -> None:
    """Exits 0 if all was measured, whether or not the limit was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="starts of each side (default: 5)")
    parser.add_argument("--against", metavar="COMMIT", help="measure that commit's code as well")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        builds = {"this tree": THIS}
        if chosen.against:
            builds["that commit"] = check_out(resolve(chosen.against), Path(folder) / "build")
        sides = [
            Side(name, build, Path(folder) / name.partition(" ")[0], [])
            for name, build in builds.items()
        ]
        for side in sides:
            for room in ("api", "worker", "shared", "cli", "client"):
                compileall.compile_dir(side.build.folder / room, quiet=2)
            _start(side)  # makes the folder
        for _ in range(chosen.rounds):
            for side in sides:
                side.starts.append(_start(side))
                say(f"{side.name}: {side.starts[-1][FIRST_ANSWER]:5.0f} ms")
    _tell(sides)


def _tell(sides: list[Side]) -> None:
    say("")
    say(f"median of {len(sides[0].starts)}, ms; load {os.getloadavg()[0]:.1f}")
    say(f"{'':48}" + "".join(f"{side.name:>14}" for side in sides))
    for moment in MOMENTS:
        say(f"{moment:48}" + "".join(f"{_median(side, moment):14.0f}" for side in sides))
    first = _median(sides[0], FIRST_ANSWER)
    say(f"to stay under {LIMIT_MS}: {'kept' if first <= LIMIT_MS else 'MISSED'}")


def _median(side: Side, moment: str) -> float:
    """Not a number where a build does not show the moment."""
    return statistics.median(start.get(moment, float("nan")) for start in side.starts)


def _start(side: Side) -> dict[str, float]:
    """Starts the stack once, and stops it. Returns milliseconds after the command, by moment."""
    port = free_port()
    with tempfile.NamedTemporaryFile("w+") as said:
        began, began_at = time.monotonic(), time.time()
        with _going_up(side, port, said.fileno()) as process:
            seen: dict[str, float] = {}
            while not seen.keys() >= {FIRST_ANSWER, MOMENTS[-1]}:
                if process.poll() is not None:
                    raise RuntimeError(f"it did not start: {Path(said.name).read_text()}")
                for moment in _now(process, port, Path(said.name).read_text()):
                    seen.setdefault(moment, (time.monotonic() - began) * 1000)
                time.sleep(0.01)
            for role in ROLES:
                log = side.data_dir / "logs" / f"{role}.log"
                seen[f"{role} is ready"] = (_ready_at(log) - began_at) * 1000
    return seen


@contextmanager
def _going_up(side: Side, port: int, output: int) -> Iterator["subprocess.Popen[bytes]"]:
    env = {name: value for name, value in os.environ.items() if name not in OURS}
    options = ["--data-dir", str(side.data_dir), "--port", str(port)]
    process = side.build.start(
        "-c", side.build.command, "up", *options, env=env, stdout=output, stderr=output
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _now(process: "subprocess.Popen[bytes]", port: int, said: str) -> Iterator[str]:
    """The moments that have come."""
    if "logs: " in said:
        yield MOMENTS[0]
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    if len(children) >= 2 + len(ROLES):  # PostgreSQL, Redis and the four
        yield MOMENTS[1]
    if _answers(port):
        yield FIRST_ANSWER
    if "\nready: " in said:
        yield MOMENTS[-1]


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/api/v1/jobs")
        connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def _ready_at(log: Path) -> float:
    """When the process last said that it was, in seconds since 1970."""
    times = [
        event["timestamp"]
        for line in log.read_text().splitlines()
        if line.startswith("{") and str((event := json.loads(line)).get("event")).endswith(" ready")
    ]
    return datetime.fromisoformat(times[-1]).timestamp()


if __name__ == "__main__":
    sys.exit(main())
