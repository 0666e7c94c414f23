"""A person's terminal: runs a command in a pseudo-terminal of its own, types, and reads what stands
there.
"""

import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import time
from contextlib import contextmanager


class Terminal:
    """A command that runs in a terminal. `seen` is all that it wrote; `stdin` and `stderr` may be
    files (`<`, `2>`).
    """

    def __init__(self, command, env, stdin=None, stderr=None):
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=stdin or slave,
            stdout=slave,
            stderr=stderr or slave,
            env=os.environ | env,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(1, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
        )
        os.close(slave)
        self.seen = ""

    def expect(self, text, seconds=20):
        """Reads until `text` stands there."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert self._read(deadline - time.monotonic()), f"no {text!r} in {self.seen!r}"

    def type(self, text):
        os.write(self._master, text.encode())

    def interrupt(self):
        """Ctrl-C, for the whole foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, seconds=20):
        """The exit code, once the command has ended; all that it wrote has been read."""
        deadline = time.monotonic() + seconds
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self, seconds):
        """Whether something more came."""
        if not select.select([self._master], [], [], max(0.0, seconds))[0]:
            return False
        try:
            part = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        self.seen += part.decode()
        return bool(part)


@contextmanager
def terminal(*command, env, stdin=None, stderr=None):
    """A Terminal, closed at the end."""
    opened = Terminal(command, env, stdin, stderr)
    try:
        yield opened
    finally:
        opened.close()
