"""A log that cannot be written, for a full disk or a stderr that is closed or not read, changes no
answer and no exit code.
"""

import fcntl
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tty
from contextlib import contextmanager, suppress

import httpx2
import pytest

from shared.process.streams import Unfailing
from tests.support.stack import PROJECT, end, free_port, listens, wait_for

LEADSWEEP = [
    sys.executable,
    "-c",
    "from leadsweep.commands.main import main; main(prog_name='leadsweep')",
]


@contextmanager
def full_disk():
    with open("/dev/full", "wb") as file:  # noqa: PTH123 - its numbers are what matters
        yield file.fileno()


@contextmanager
def closed():
    yield None


@contextmanager
def without_reader():
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@contextmanager
def never_read():
    """A pipe that is full, and stays so."""
    reading, writing = os.pipe()
    fill(writing)
    yield writing
    os.close(reading)
    os.close(writing)


@contextmanager
def open_null():
    with open(os.devnull, "wb") as file:  # noqa: PTH123 - as of /dev/full
        yield file.fileno()


def fill(writing):
    os.set_blocking(writing, False)
    for size in (select.PIPE_BUF, 1):
        try:
            while True:
                os.write(writing, b"." * size)
        except BlockingIOError:
            pass
    os.set_blocking(writing, True)  # of this file, which the process shares: it would block


KINDS = [full_disk, closed, without_reader, never_read]


@contextmanager
def started(command, kind, env, *, stdout=False):
    """The command with that for its stderr, and where said for its stdout; ended at last."""
    with kind() as number:
        closing = "" if number is not None else "1>&- 2>&-" if stdout else "2>&-"
        given = subprocess.DEVNULL if number is None else number
        process = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "sh",
                "-c",
                f'exec "$@" {closing}',
                "sh",
                *map(str, command),
            ],
            env=os.environ | env,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=given if stdout else subprocess.DEVNULL,
            stderr=given,
            process_group=0,
        )
        try:
            yield process
        finally:
            end(process)


def module(name, *words):
    return [sys.executable, "-m", name, *words]


def stopped(process):
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


def seen(url, key, job_id):
    """What the API answers to calls of all kinds, without what differs from call to call."""
    with httpx2.Client(
        base_url=url, headers={"x-api-key": key}, trust_env=False, timeout=20
    ) as http:
        answers = [
            http.get("/api/v1/jobs"),
            http.get("/api/v1/jobs", headers={"x-api-key": "nobody's"}),
            http.get(f"/api/v1/jobs/{job_id}"),
            http.get("/api/v1/nothing/%1B%5B2J"),
            http.post("/api/v1/leads/bulk-delete", json={"campaignId": "cmp", "leads": []}),
            http.post(
                "/api/v1/leads/bulk-delete",
                content=b"{",
                headers={"content-type": "application/json"},
            ),
        ]
    return [(answer.status_code, answer.text) for answer in answers]


@pytest.mark.parametrize("kind", KINDS)
def test_the_api_starts_and_answers_as_ever(kind, ground):
    pairs = ground.add_leads(1)
    env = ground.env(LEADSWEEP_LOG_LEVEL="DEBUG")
    ports = [free_port(), free_port()]
    commands = [module("api", "--port", str(port)) for port in ports]
    with started(commands[0], kind, env) as process, started(commands[1], open_null, env):
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        for port in ports:
            wait_for(lambda port=port: listens(port))
        job_id = ground.caller_of(urls[0]).submit([(pairs[0][0], None)])
        assert seen(urls[0], ground.key, job_id) == seen(urls[1], ground.key, job_id)
        assert [answer[0] for answer in seen(urls[0], ground.key, job_id)] == [
            200,
            401,
            200,
            404,
            400,
            400,
        ]
        assert stopped(process) in {0, -signal.SIGTERM}


@pytest.mark.parametrize("kind", [full_disk, closed, never_read])
def test_a_worker_and_a_ticker_do_their_work_and_end_well(kind, ground):
    pairs = ground.add_leads(3)
    port = free_port()
    env = ground.env(LEADSWEEP_LOG_LEVEL="DEBUG")
    with (
        started(module("api", "--port", str(port)), kind, env),
        started(module("worker", "--processes", "1"), kind, env) as worker,
        started(module("worker", "--webhooks", "--threads", "2"), kind, env) as deliverer,
        started(module("worker.ticker"), kind, env) as ticker,
    ):
        wait_for(lambda: listens(port))
        caller = ground.caller_of(f"http://127.0.0.1:{port}")
        assert caller.finished(caller.submit([(external_id, None) for external_id, _ in pairs]))[
            "deleted"
        ] == len(pairs)
        wait_for(lambda: roles(ground) == {"worker", "deliverer", "ticker"})
        assert [stopped(process) for process in (worker, deliverer, ticker)] == [0, 0, 0]


def roles(ground):
    with ground.engine.connect() as connection:
        return set(connection.exec_driver_sql("SELECT role FROM heartbeats").scalars())


@pytest.mark.parametrize("kind", [full_disk, closed, never_read])
def test_a_stack_goes_up_and_down(kind, ground, tmp_path):
    port = free_port()
    command = [
        *LEADSWEEP,
        "up",
        "--data-dir",
        str(tmp_path / "data"),
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with started(command, kind, ground.env(), stdout=True) as process:
        wait_for(lambda: (tmp_path / "data/runtime.json").exists() and listens(port), seconds=60)
        wait_for(lambda: roles(ground) == {"worker", "deliverer", "ticker"}, seconds=60)
        children = {
            child["role"]: child["pid"]
            for child in json.loads((tmp_path / "data/runtime.json").read_text())["children"]
        }
        os.kill(children["ticker"], signal.SIGKILL)  # it has something to say
        wait_for(
            lambda: str(children["ticker"]) not in (tmp_path / "data/runtime.json").read_text()
        )
        assert stopped(process) == 0


def test_a_stack_goes_up_whose_log_files_cannot_be_written(ground, tmp_path):
    port = free_port()
    logs = tmp_path / "data/logs"
    logs.mkdir(parents=True)
    for role in ("api", "worker", "deliverer", "ticker"):
        (logs / f"{role}.log").symlink_to("/dev/full")
    command = [
        *LEADSWEEP,
        "up",
        "--data-dir",
        str(tmp_path / "data"),
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with started(command, open_null, ground.env()) as process:
        wait_for(
            lambda: listens(port) and roles(ground) == {"worker", "deliverer", "ticker"}, seconds=60
        )
        assert stopped(process) == 0


@pytest.mark.parametrize("kind", [full_disk, closed])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("companies", "create", "acme"), 0),
        (("campaigns", "list"), 0),  # there is a remark
        (("campaigns", "create", "x", "--company", "nobody"), 1),
        (("nothing",), 2),
        (("status", "j"), 5),
    ],
)
def test_a_command_ends_as_ever(kind, words, code, ground):
    ground.execute("TRUNCATE companies CASCADE")
    with started([*LEADSWEEP, *words], kind, ground.env(LEADSWEEP_API_KEY="")) as process:
        assert process.wait(60) == code


def test_a_result_that_cannot_be_written_is_a_failure(ground):
    with full_disk() as number:
        ran = subprocess.run(
            [*LEADSWEEP, "--version"],
            stdout=number,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (ran.returncode, ran.stderr) == (1, b"Error: [Errno 28] No space left on device\n")


def test_results_for_a_stdout_that_is_closed_are_a_failure(ground):
    pairs = ground.add_leads(1)
    port = free_port()
    command = [*LEADSWEEP, "results", "JOB", "--format", "ndjson"]
    with started(module("api", "--port", str(port)), open_null, ground.env()):
        wait_for(lambda: listens(port))
        url = f"http://127.0.0.1:{port}"
        command[command.index("JOB")] = ground.caller_of(url).submit([(pairs[0][0], None)])
        ran = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *command],
            env=os.environ | ground.env(LEADSWEEP_URL=url, LEADSWEEP_API_KEY=ground.key),
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (ran.returncode, ran.stderr) == (1, b"Error: stdout is closed; name a file: -o FILE\n")


WRITER = """
import sys, time
from shared.process.streams import Unfailing
stream = Unfailing(1, reader_timeout=float(sys.argv[2]))
for number in range(int(sys.argv[1])):
    stream.write(sys.argv[3][0] * int(sys.argv[4]) + "\\n")
"""


@contextmanager
def writers(names, stdout, *, lines, patience, length):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(lines), str(patience), name, str(length)],
            cwd=PROJECT,
            stdout=stdout,
        )
        for name in names
    ]
    try:
        yield processes
    finally:
        for process in processes:
            end(process)


def all_that_is_read(number, size):
    """Until nothing writes there any more, so much at a time."""
    parts = []
    with suppress(OSError):  # of a terminal that nobody holds any more
        while part := os.read(number, size):
            parts.append(part)
    return b"".join(parts).decode()


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_writers_to_one_reader_wait_for_each_other_and_lose_nothing(kind):
    """Again and again another one takes the room that one of them has seen."""
    if kind == "pipe":
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
    else:
        reading, writing = os.openpty()
        tty.setraw(writing)
    with writers("abcd", writing, lines=500, patience=60, length=700) as processes:
        os.close(writing)
        said = all_that_is_read(reading, 300)
        assert [process.wait(30) for process in processes] == [0] * 4
    os.close(reading)
    assert {name: said.count(name) for name in "abcd"} == dict.fromkeys("abcd", 500 * 700)
    if kind == "pipe":
        assert set(said.splitlines()) == {name * 700 for name in "abcd"}


# Between its look and its write another writer takes the room: each time.
FORESTALLED = """
import os
from shared.process.streams import Unfailing
stream, write = Unfailing(1, reader_timeout=0.1), os.write
other = os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK)
def write_second(number, part):
    try:
        while True:
            write(other, b"." * 1024)
    except BlockingIOError:
        return write(number, part)
os.write = write_second
stream.write("a" * 2000)
"""


@pytest.mark.parametrize("kind", [os.pipe, os.openpty])
def test_who_finds_the_room_taken_that_it_has_seen_does_not_wait_for_ever(kind):
    reading, writing = kind()
    ran = subprocess.run(
        [sys.executable, "-c", FORESTALLED], cwd=PROJECT, stdout=writing, timeout=30, check=False
    )
    assert ran.returncode == 0
    assert os.get_blocking(writing)
    os.close(reading)
    os.close(writing)


def test_a_terminal_that_shows_nothing_any_more_holds_nobody_up():
    shown, writing = os.openpty()  # there is room, but less than is written
    with writers("ab", writing, lines=100, patience=0.1, length=3000) as processes:
        assert [process.wait(30) for process in processes] == [0, 0]
        assert os.get_blocking(writing)
    os.close(shown)
    os.close(writing)


def test_long_lines_of_two_processes_in_one_file_are_whole(tmp_path):
    path = tmp_path / "log"
    with (
        path.open("ab") as file,
        writers("ab", file, lines=300, patience=1, length=20_000) as processes,
    ):
        assert [process.wait(60) for process in processes] == [0, 0]
    assert sorted(set(path.read_text().splitlines())) == ["a" * 20_000, "b" * 20_000]
    assert path.stat().st_size == 2 * 300 * 20_001


def test_logging_goes_on_once_there_is_room_and_says_how_much_was_lost(ground, tmp_path):
    log, port = tmp_path / "log", free_port()
    with (
        log.open("ab") as file,
        started(module("api", "--port", str(port)), lambda: given(file), ground.env()) as process,
    ):
        wait_for(lambda: listens(port))
        url = f"http://127.0.0.1:{port}/api/v1/nothing"
        assert httpx2.get(f"{url}/first", trust_env=False).status_code == 404
        wait_for(lambda: "/first" in log.read_text())
        _, most = resource.prlimit(
            process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size + 10, resource.RLIM_INFINITY)
        )
        for _ in range(3):
            assert httpx2.get(f"{url}/second", trust_env=False).status_code == 404
        # A line is written after its answer is sent, and before the next request is answered: this
        # one's may come later.
        assert httpx2.get(f"{url}/between", trust_env=False).status_code == 404
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
        assert httpx2.get(f"{url}/third", trust_env=False).status_code == 404
        wait_for(lambda: "/third" in log.read_text())
        said = log.read_text()
        assert "/second" not in said
        assert re.search(
            r"^\S+ \[warning *\] log lines lost .*\blines=[34]\b", said, re.MULTILINE
        ), said
        assert re.search(r"^\S+ \[info *\] request .*/third", said, re.MULTILINE), said


@contextmanager
def given(file):
    yield file.fileno()


@pytest.mark.parametrize(
    "line", ["short\n", "long" * select.PIPE_BUF + "\n"], ids=["short", "long"]
)
def test_lines_that_a_pipe_does_not_take_are_lost_whole_or_told_of(line):
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 2 * select.PIPE_BUF)
    stream = Unfailing(writing, reader_timeout=0.01)
    stream.notice = lambda number: f"{number} lost"
    for _ in range(5000):
        stream.write(line)
    os.set_blocking(reading, False)
    while select.select((reading,), (), (), 0)[0]:
        os.read(reading, 1 << 20)
    stream.write("after\n")
    assert re.fullmatch(rb"\n?\d+ lost\nafter\n", os.read(reading, 1 << 20))
    stream.write("next\n")
    assert os.read(reading, 1 << 20) == b"next\n"
    os.close(reading)
    stream.write("nobody reads it\n")
    os.close(writing)
    stream.write("not even a file\n")


def test_what_others_wrote_does_not_steer_the_terminal_of_who_reads_the_log(ground, tmp_path):
    for form in ("text", "json"):
        log, port = tmp_path / form, free_port()
        env = ground.env(LEADSWEEP_LOG_FORMAT=form)
        with (
            log.open("ab") as file,
            started(module("api", "--port", str(port)), lambda file=file: given(file), env),
        ):
            wait_for(lambda port=port: listens(port))
            httpx2.get(f"http://127.0.0.1:{port}/evil%1B%5B2J%C2%9B%E2%80%AE%7F", trust_env=False)
            wait_for(lambda log=log: "evil" in log.read_text())
            assert all(
                character == "\n" or character.isprintable() for character in log.read_text()
            )


HOSTILE = "evil\x1b[2J\x9b31m\x7f\u202e\u2028\a\rforged"


@pytest.mark.parametrize(
    "command",
    [
        module("api", "--port", HOSTILE),
        module("worker", "--processes", HOSTILE),
        module("worker", HOSTILE),
        [
            sys.executable,
            "-c",
            (
                "from shared.process.streams import guard_streams as g\ng()\nraise"
                f" ValueError({HOSTILE!r})"
            ),
        ],
        [
            sys.executable,
            "-c",
            (
                "import logging, shared.process.streams as s\ns.guard_streams()\n"
                f"logging.error({HOSTILE!r})"
            ),
        ],
        [
            sys.executable,
            "-c",
            (
                "import logging, shared.process.streams as s\ns.guard_streams()\n"
                f"logging.getLogger('a').warning({HOSTILE!r})"
            ),
        ],
    ],
    ids=["api", "worker", "worker's words", "uncaught", "logging", "last resort"],
)
def test_nothing_that_is_written_past_the_log_steers_a_terminal(command, ground):
    ran = subprocess.run(
        command,
        env=os.environ | ground.env(),
        cwd=PROJECT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    said = ran.stderr.decode()
    assert "evil" in said
    assert all(character == "\n" or character.isprintable() for character in said), said


def test_colours_and_progress_of_our_own_reach_a_terminal_and_no_file(tmp_path):
    ours = "\x1b[31mred\x1b[0m\r\x1b[K\x1b[2Ja\tb\n"
    shown, writing = os.openpty()
    Unfailing(writing, reader_timeout=5).write(ours)
    assert os.read(shown, 1000).decode() == ours.replace("\x1b[2J", "\\x1b[2J").replace(
        "\n", "\r\n"
    )
    with (tmp_path / "log").open("wb") as file:
        Unfailing(file.fileno(), reader_timeout=5).write(ours)
    assert (tmp_path / "log").read_text() == "\\x1b[31mred\\x1b[0m\\r\\x1b[K\\x1b[2Ja\tb\n"
    os.close(shown)
    os.close(writing)
