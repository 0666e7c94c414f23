"""Text that others wrote, as it may stand at a terminal, in a log or in an error: none of it steers or hides."""

import json
from collections.abc import Callable

# What `str.isprintable` lets pass, though it is seen as nothing: fillers, a joiner and inherent vowels.
_UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
_BRIEF = 64  # characters of a name that stand in an error


def _without(text: str, written: Callable[[str], str], kept: str = "") -> str:
    """`text` with each character as it is `written` that a terminal might act on, or not show.

    `str.isprintable` knows them: C0, DEL, C1, bidirectional and zero-width characters, surrogates, separators of
    lines, and all blanks but the space.
    """
    if text.isprintable() and text.isascii():
        return text
    return "".join(c if (c.isprintable() and c not in _UNSEEN) or c in kept else written(c) for c in text)


def printable(text: str) -> str:
    r"""`text` on one line, such characters written as `\x1b` and `\u202e`."""
    return _without(text, lambda character: character.encode("unicode_escape").decode())


def printable_lines(text: str) -> str:
    """`text` with its line breaks, else as `printable` has it: of what others wrote, only for tracebacks."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    """JSON, in lines, that means the same: such characters stand in strings only, and are escaped there."""
    return _without(text, lambda character: json.dumps(character)[1:-1], kept="\n")


def brief(name: str) -> str:
    """A name as it can stand in an error of the API: short, with `?` for such characters."""
    return _without(name[:_BRIEF], lambda _: "?")
