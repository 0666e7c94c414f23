"""The client that commands use. It tells the person at the terminal when the server is away."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from leadsweep import Client, Retries
from leadsweep.steps import Answered, Call, Unanswered, may_pass
from leadsweep.terminal.output import remark, told_if_slow

_SILENT_SECONDS = 3.3  # without an answer, before that is told
_AFTER_CONNECT = 0.3  # seconds beyond the timeout of a connection, before that is told


class Caller(Client):
    """A Client that never waits in silence. It tells each trouble once, until the server has
    answered as it should.
    """

    def __init__(self, url: str, key: str, *, retries: Retries) -> None:
        """As for Client. Troubles are told by `tell`."""
        super().__init__(url, key, retries=retries)
        self.tell: Callable[[str], None] = remark
        self._url = url
        self._told: set[str] = set()
        self._extend: Callable[[float], None]  # gives the exchange under way more seconds

    def _exchange(self, call: Call) -> Answered | Unanswered:
        no_answer = f"no answer from {self._url} yet; still trying"
        # Fewer seconds where connections were refused until now.
        seconds = min(_SILENT_SECONDS, call.connect + _AFTER_CONNECT)
        with told_if_slow(no_answer, seconds, self._tell_once) as self._extend:
            outcome = super()._exchange(call)
        if isinstance(outcome, Unanswered):
            if outcome.sent:
                self._tell_once(no_answer)
        elif may_pass(outcome):
            self._tell_once(f"{self._url} answers with status {outcome.status}; trying again")
        else:
            self._told.clear()
        return outcome

    def _parts(self, file: BinaryIO) -> Iterator[bytes]:
        for part in super()._parts(file):
            self._extend(_SILENT_SECONDS)  # the server has taken the part before
            yield part

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.tell(text)
