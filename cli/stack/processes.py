"""Child processes that end with us even if we are killed, the ports on which they listen, and
private files.

A child is tied to us by PR_SET_PDEATHSIG. The kernel forgets that when a process changes its user,
so setpriv does both, in the right order. It works from the main thread only: for the kernel the
parent is the thread, not the process.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from leadsweep.terminal.failure import Failure

_CAP_DAC_READ_SEARCH = 2  # linux/capability.h
_TAIL_BYTES = 64 * 1024
_SHOWN_CHARACTERS = 300  # of a log line

# Ends at once if we have died between the fork and setpriv's prctl, as no signal would come then.
# $0 is our pid.
_UNLESS_ORPHANED = ["/bin/sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"']


def reserve_port(port: int = 0, host: str = "127.0.0.1") -> socket.socket:
    """A socket on `port`, or for 0 on any port that is free. While the socket is open, the kernel
    does not give the port to anybody else by chance.

    Raises OSError where the port is taken, or the host is not this machine.
    """
    family, *_, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    held = socket.socket(family)
    try:
        # The child that will listen there sets both options too. Without the second, the same port
        # of IPv4 would have to be free as well, and ::ffff:127.0.0.1 would be accepted.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        held.bind(address)
    except OSError:
        held.close()
        raise
    return held


def port_of(held: socket.socket) -> int:
    """The port of a reserved socket."""
    return int(held.getsockname()[1])


def spawn(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    as_nobody: bool = False,
) -> subprocess.Popen[bytes]:
    """Starts `command`, tied to us and outside of our terminal's process group. Its output is
    appended to `log`.

    `as_nobody` is for programs that refuse to run as root.
    """
    output = _open_log(log)
    try:
        process = subprocess.Popen(
            tied(command, as_nobody=as_nobody),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=env,
            cwd="/" if as_nobody else None,
            process_group=0,
            umask=0o077,  # all files that it writes are private
        )
    finally:
        os.close(output)
    if process.stdin:
        with suppress(BrokenPipeError):  # it has died already, which the caller will notice
            process.stdin.write(stdin.encode())
            process.stdin.close()
    return process


def _open_log(log: Path) -> int:
    """Opens the log for appending; only we may read it. Where it cannot be opened, such as on a
    full disk, the output is dropped, so that the process starts all the same.
    """
    try:
        return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def tied(command: Sequence[str], *, as_nobody: bool = False) -> list[str]:
    """`command`, changed so that it ends with us. For root, `as_nobody` runs it as nobody, who may
    still pass through folders that are closed to others.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise Failure("setpriv is missing; install util-linux")
    who = _nobody() if as_nobody and os.geteuid() == 0 else []
    return [setpriv, "--pdeathsig", "KILL", *who, *_UNLESS_ORPHANED, str(os.getpid()), *command]


def _nobody() -> list[str]:
    """The options of setpriv that turn root into nobody with one capability. access(2), which
    PostgreSQL calls, is to heed it as well.
    """
    nobody = pwd.getpwnam("nobody")
    kept = f"-all,+{_searching_capability()}"
    return [
        f"--reuid={nobody.pw_uid}",
        f"--regid={nobody.pw_gid}",
        "--clear-groups",
        "--securebits=+no_setuid_fixup",
        f"--inh-caps={kept}",
        f"--ambient-caps={kept}",
        f"--bounding-set={kept}",
    ]


def _searching_capability() -> str:
    """The weakest capability that lets root pass through closed folders. In Docker root has only
    the stronger one.
    """
    status = Path("/proc/self/status").read_text()
    ours = int(status.partition("CapEff:")[2].split()[0], 16)
    return "dac_read_search" if ours & 1 << _CAP_DAC_READ_SEARCH else "dac_override"


def stop(
    process: subprocess.Popen[bytes] | None, seconds: float, polite: int = signal.SIGTERM
) -> None:
    """Ends a process that runs: by the signal `polite`, also if it is frozen, then by SIGKILL."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(polite)
    process.send_signal(signal.SIGCONT)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_words(log: Path, since: int = 0) -> str:
    """The last line of `log` that was written after the byte `since`."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, log.stat().st_size - _TAIL_BYTES))
            lines = [
                line for line in file.read().decode(errors="replace").splitlines() if line.strip()
            ]
    except OSError:  # the operator has removed the log
        lines = []
    return lines[-1].strip()[:_SHOWN_CHARACTERS] if lines else "it said nothing"


def write_private(path: Path, text: str) -> None:
    """Writes a file that only we may read, and that is never seen half written."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    unfinished.rename(path)
