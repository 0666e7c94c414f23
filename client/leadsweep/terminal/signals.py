"""Signals that end a command: how it heeds them, and how it puts them off for a while."""

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
    """Puts those signals off to the end of the block. For instance, a process that was just started
    must first be noted, or nobody would stop it.
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
