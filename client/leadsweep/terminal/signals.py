"""How a command that runs a stack is told to stop, and when it had better not be."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def stop_by_signals() -> None:
    """From now on SIGTERM, SIGINT and a closed terminal raise KeyboardInterrupt in the main
    thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _STOPPING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Puts those signals off to the end of the block: a process just started must be noted, or
    nobody would stop it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    late: list[int] = []
    heeded = [
        number for number in _STOPPING if signal.getsignal(number) not in {signal.SIG_IGN, None}
    ]
    before = {
        number: signal.signal(number, lambda number, _: late.append(number)) for number in heeded
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if late:
            signal.raise_signal(late[0])
