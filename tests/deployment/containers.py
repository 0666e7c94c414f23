"""Runs the services of docker-compose.yml as child processes: their own commands, environments and
health checks.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.deployment.compose import interpolate, services


class Container:
    """A service's command as a child process, in the environment that the service would have."""

    def __init__(self, name, values, folder, port=None):
        self.service = services()[name]
        self.values, self.folder, self.port = values, folder, port
        given = self.service["environment"]
        set_here = {
            key: interpolate(value, values) for key, value in given.items() if value is not None
        }
        set_here |= {
            key: values[key] for key, value in given.items() if value is None and key in values
        }
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        } | set_here
        self.log = folder / f"{name}.log"

    def start(self):
        """Starts the command."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._here(self.service["command"]),
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        return self

    def check(self):
        """The exit code of the health check: 0 is healthy."""
        command = self._here(self.service["healthcheck"]["test"][1:])
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            timeout=20,
            check=False,
        )
        return done.returncode

    def stop(self):
        """Its exit code after SIGTERM, within the time that it is given."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=float(self.service["stop_grace_period"].removesuffix("s")))

    def _here(self, command):
        """On a port of this test's, and on loopback."""
        words = [interpolate(word, self.values) for word in command]
        return [
            word.replace("8000", str(self.port)).replace("0.0.0.0", "127.0.0.1") for word in words
        ]

    def __enter__(self):
        """Starts it and waits until it is healthy."""
        self.start()
        try:
            self._wait_until_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        """Ends it at once, if it has not ended."""
        self.process.kill()
        self.process.wait()

    def _wait_until_healthy(self):
        deadline = time.monotonic() + 60
        while self.check():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)
