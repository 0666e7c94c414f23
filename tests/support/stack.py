"""Runs our own processes for a test, each as a real process, and ends them by pid, whatever
becomes of the test.

What a process logs goes to a file of its own and is printed if the test fails while it runs.

They are forked from a server that has loaded our libraries: to load them takes a processor longer
than all that most tests do. Processes that are started as users start them are in tests/cli and
tests/deployment.
"""

import asyncio
import atexit
import ctypes
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from sqlalchemy import insert, text

from cli.stack.embedded import free_port
from shared.credentials import hash_key, new_key, new_secrets_key
from shared.database.models import api_keys
from shared.destinations import LOOPBACK

PROJECT = Path(__file__).parent.parent.parent
STOP_SECONDS = 10
SECRETS_KEY = new_secrets_key()  # where the settings have none

__all__ = [
    "environment", "free_port", "listens", "lock_waits", "make_key", "running", "running_api",
    "running_deliverer", "running_ticker", "running_worker", "until", "wait_for",
]  # fmt: skip


def wait_for(condition, seconds=60):
    """What `condition()` returns once that is true; fails if it is still not after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, (
            f"still {value!r} after {seconds} s: {getattr(condition, '__qualname__', condition)}"
        )
        time.sleep(0.02)
    return value


async def until(condition, seconds=60):
    """Returns once `condition()` is true, and lets the event loop go on until then; fails as
    `wait_for` does.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (
            f"still not after {seconds} s: {getattr(condition, '__qualname__', condition)}"
        )
        await asyncio.sleep(0.002)


def lock_waits(engine):
    """How many wait for a lock in the database of `engine`."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock'"
    )
    with engine.connect() as connection:
        return connection.execute(waiting).scalar_one()


def environment(settings, **extra):
    """The environment variables that give a process these settings' servers; `extra` are further
    ones, in full.
    """
    return {
        "DATABASE_URL": settings.database_url,
        "BROKER_URL": settings.broker_url,
        "REDIS_URL": settings.redis_url,
        "LEADSWEEP_SECRETS_KEY": settings.secrets_key or SECRETS_KEY,
        "LEADSWEEP_WEBHOOK_ALLOW": LOOPBACK,
    } | extra


def make_key(connection, company, scope="write", campaign=None, **columns):
    """A new API key of `company`, which exists."""
    key = new_key()
    values = {
        "id": uuid4(),
        "company_id": company,
        "campaign_id": campaign,
        "scope": scope,
        "hash": hash_key(key),
    }
    connection.execute(insert(api_keys), values | columns)
    return key


_forks = multiprocessing.get_context("forkserver")
# All that our processes import, but not what reads settings or is run itself.
_forks.set_forkserver_preload(
    [
        "tests.support.stack",
        "api.app",
        "uvloop",
        "celery.apps.worker",
        "celery.concurrency.prefork",
        "celery.concurrency.thread",
        "kombu.transport.redis",
        "shared.process.heartbeats",
        "worker.deliverer",
        "worker.poster",
        "worker.runner",
        "worker.scheduler",
        "worker.purger",
    ]
)
_PR_SET_PDEATHSIG = 1
_MOST_FILES = 1 << 16  # more than any of our processes has open


class Process:
    """`python -m module arguments` of ours in the environment `env`; what it has of
    subprocess.Popen works as there. What it says goes to the file `log`.
    """

    def __init__(self, module, arguments, env, log):
        self.log = log
        log.write_bytes(b"")
        command = (module, [str(argument) for argument in arguments], env, log)
        self._fork = _forks.Process(target=_become, args=command, daemon=True)
        self._fork.start()
        self.pid = self._fork.pid

    @property
    def returncode(self):
        return self._fork.exitcode

    def poll(self):
        return self._fork.exitcode

    def wait(self, timeout=None):
        self._fork.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout)
        return self.returncode

    def send_signal(self, number):
        # The server may have seen its end before this process is told of it.
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _become(module, arguments, env, log):
    """Makes this fork what `python -m module arguments` would be."""
    gc.freeze()  # what it looks at is copied: the memory is the server's, too
    os.closerange(3, _MOST_FILES)  # as exec would: one of them keeps the server of forks alive
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with log.open("ab") as file, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(PROJECT)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which the end of a fork leaves out


@contextmanager
def running(module, *arguments, env):
    """`python -m module arguments`, with `env` added to the environment; yields its Process."""
    with tempfile.TemporaryDirectory() as folder:
        process = Process(module, arguments, os.environ | env, Path(folder) / "log")
        try:
            yield process
        except BaseException:
            said = process.log.read_text(errors="replace")
            sys.stderr.write(f"--- {module} (pid {process.pid}) ---\n{said}\n")
            raise
        finally:
            end(process)


def end(process):
    """SIGTERM, also to one that is frozen; after a while SIGKILL."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running_api(env):
    """An API process; yields its URL, without a slash at the end, once it takes connections."""
    port = free_port()
    with running("api", "--host", "127.0.0.1", "--port", port, env=env) as process:
        _wait_until(process, lambda: listens(port))
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running_worker(env, processes=2):
    """A worker with its pool; yields its Popen once it is ready."""
    with running("worker", "--processes", processes, env=env) as process:
        _wait_until(process, lambda: "worker ready" in process.log.read_text())
        yield process


@contextmanager
def running_deliverer(env, threads=16):
    """A deliverer; yields its Popen once it is ready."""
    with running("worker", "--webhooks", "--threads", threads, env=env) as process:
        _wait_until(process, lambda: "deliverer ready" in process.log.read_text())
        yield process


@contextmanager
def running_ticker(env):
    """A ticker; yields its Popen once it is ready."""
    with running("worker.ticker", env=env) as process:
        _wait_until(process, lambda: "ticker ready" in process.log.read_text())
        yield process


@contextmanager
def running_stack(env, worker=("worker", "--processes", 2), *, deliverer=True):
    """An API, a worker, a ticker and, unless it is not wanted, a deliverer, which begin and end at
    the same time; yields the API's URL once all are ready.
    """
    port = free_port()
    commands = [("api", "--host", "127.0.0.1", "--port", port), worker, ("worker.ticker",)]
    if deliverer:
        commands.append(("worker", "--webhooks", "--threads", 16))
    with ExitStack() as processes:
        started = [processes.enter_context(running(*command, env=env)) for command in commands]
        for process in started:
            _wait_until(process, lambda process=process: " ready" in process.log.read_text())
        _wait_until(started[0], lambda: listens(port))
        yield f"http://127.0.0.1:{port}"
        for process in started:
            process.terminate()


def _wait_until(process, ready):
    def it_is_ready():
        assert process.poll() is None, f"ended with {process.returncode} instead of getting ready"
        return ready()

    wait_for(it_is_ready)


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
