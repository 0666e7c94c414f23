"""The client as commands have it: where the first answer takes long, it says so, as somebody may sit at the terminal."""

import sys

from cli.output import remark, told_if_slow
from client import Client, Retries
from client.steps import Answered, Call, Unanswered, may_pass

_WITHOUT_A_WORD = 3.3  # seconds, in which the connection at least is made, or given up


class Caller(Client):
    """A Client that does not wait for its first answer without a word."""

    def __init__(self, url: str, key: str, *, retries: Retries) -> None:
        """As Client."""
        super().__init__(url, key, retries=retries)
        self._url = url
        self._is_answered = False

    def _exchange(self, call: Call) -> Answered | Unanswered:
        if self._is_answered or (not isinstance(call.content, bytes | None) and sys.stderr.isatty()):  # which shows its progress
            return super()._exchange(call)
        with told_if_slow(f"no answer from {self._url} yet; still trying", _WITHOUT_A_WORD):
            outcome = super()._exchange(call)
        if isinstance(outcome, Answered):
            self._is_answered = True
            if may_pass(outcome):
                remark(f"{self._url} answers with status {outcome.status}; trying again")
        return outcome
