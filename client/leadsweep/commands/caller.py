"""The client that commands use: it says when the server is away, as somebody may sit at the
terminal.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from leadsweep import Client, Retries
from leadsweep.steps import Answered, Call, Unanswered, may_pass
from leadsweep.terminal.output import remark, told_if_slow

_WITHOUT_A_WORD = 3.3  # seconds without a sign of life
_AFTER_CONNECT = 0.3  # seconds beyond those that are left for a connection to be made, or given up


class Caller(Client):
    """A Client that never waits without a word. What it says it says once, until the server has
    answered as it should.
    """

    def __init__(self, url: str, key: str, *, retries: Retries) -> None:
        """As Client. `tell` is what says it."""
        super().__init__(url, key, retries=retries)
        self.tell: Callable[[str], None] = remark
        self._url = url
        self._told: set[str] = set()
        self._give: Callable[[float], None]  # seconds to the exchange that is under way

    def _exchange(self, call: Call) -> Answered | Unanswered:
        no_answer = f"no answer from {self._url} yet; still trying"
        seconds = min(
            _WITHOUT_A_WORD, call.connect + _AFTER_CONNECT
        )  # less, where connections were refused until now
        with told_if_slow(no_answer, seconds, self._tell_once) as self._give:
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
            self._give(_WITHOUT_A_WORD)  # the part before has been taken
            yield part

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.tell(text)
