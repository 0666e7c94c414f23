"""Child processes that end with us, even if we are killed, the ports that they are to listen on,
and files that outlive both.

A child is tied to us by PR_SET_PDEATHSIG, which the kernel forgets when a process changes its user:
so setpriv does both, in the right order. It works from a process's main thread only, since "us" is
the thread.
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
_LONGEST_WORDS = 300  # characters of a log line that are shown

# Dies at once if we have died between the fork and setpriv's prctl: nobody would tell it any more.
# $0 is our pid.
_UNLESS_ORPHANED = ["/bin/sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"']


def reserve_port(wanted: int = 0, host: str = "127.0.0.1") -> socket.socket:
    """A socket on a port that nobody listens on: any for 0. While it is open the kernel gives the
    port to nobody by chance.

    Raises OSError where the port is taken or the host not ours.
    """
    family, *_, address = socket.getaddrinfo(
        host, wanted, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    held = socket.socket(family)
    try:
        held.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # the child that is to listen there says the same
        if (
            family == socket.AF_INET6
        ):  # likewise: its port of IPv4 may be another's, and ::ffff:127.0.0.1 is refused
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
    """Starts `command`, tied to us and outside of our terminal's process group; what it says is
    added to `log`.

    `as_nobody` is for what refuses to run as root.
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
            umask=0o077,  # all that it writes is private
        )
    finally:
        os.close(output)
    if process.stdin:
        with suppress(BrokenPipeError):  # it has died already; whoever waits for it will see
            process.stdin.write(stdin.encode())
            process.stdin.close()
    return process


def _open_log(log: Path) -> int:
    """To be added to; we alone may read it. A log that cannot be opened, on a full disk say, stops
    no start.
    """
    try:
        return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def tied(command: Sequence[str], *, as_nobody: bool = False) -> list[str]:
    """`command` so that it ends with us; for root, where asked, as nobody, who may still search
    folders closed to others.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise Failure("setpriv is missing; install util-linux")
    who = _nobody() if as_nobody and os.geteuid() == 0 else []
    return [setpriv, "--pdeathsig", "KILL", *who, *_UNLESS_ORPHANED, str(os.getpid()), *command]


def _nobody() -> list[str]:
    """What turns root into nobody with one capability, which access(2) is to heed as well:
    PostgreSQL asks it.
    """
    nobody = pwd.getpwnam("nobody")
    kept = f"-all,+{_searching_capability()}"
    return [
        *(
            f"--reuid={nobody.pw_uid}",
            f"--regid={nobody.pw_gid}",
            "--clear-groups",
            "--securebits=+no_setuid_fixup",
        ),
        *(f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}"),
    ]


def _searching_capability() -> str:
    """The least by which root passes through closed folders. Docker leaves its root only the
    stronger one.
    """
    status = Path("/proc/self/status").read_text()
    ours = int(status.partition("CapEff:")[2].split()[0], 16)
    return "dac_read_search" if ours & 1 << _CAP_DAC_READ_SEARCH else "dac_override"


def stop(
    process: subprocess.Popen[bytes] | None, seconds: float, polite: int = signal.SIGTERM
) -> None:
    """Ends what runs: by `polite`, also if it is frozen, and after `seconds` by SIGKILL."""
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
    except OSError:  # the operator has removed it
        lines = []
    return lines[-1].strip()[:_LONGEST_WORDS] if lines else "it said nothing"


def write_private(path: Path, text: str) -> None:
    """Writes a file that only we may read, and that is never seen half written."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    unfinished.rename(path)
