"""What tests start ends with them, whatever becomes of them."""

import os
import subprocess
import sys

import psutil

from tests.support.stack import PROJECT, wait_for

STARTS = """
import sys, time
from pathlib import Path
from tests.support.stack import Process
if __name__ == "__main__":
    process = Process("http.server", ["--bind", "127.0.0.1", "0"], {}, Path(sys.argv[1]))
    while b"Serving" not in process.log.read_bytes() and process.poll() is None:
        time.sleep(0.02)
    print(process.pid, flush=True)
    time.sleep(600)
"""


def test_a_fork_ends_with_the_test_process_even_if_that_is_killed(tmp_path):
    script = tmp_path / "starts.py"
    script.write_text(STARTS)
    with subprocess.Popen(
        [sys.executable, script, tmp_path / "log"],
        env=os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
    ) as process:
        fork = psutil.Process(int(process.stdout.readline()))
        server = fork.parent()
        process.kill()
    try:
        wait_for(lambda: not (fork.is_running() or server.is_running()), 20)
    finally:
        for left in (fork, server):
            if left.is_running():
                left.kill()
