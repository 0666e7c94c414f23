"""Makes text that others wrote harmless at a terminal, in a log or in an error: nothing in it
steers the terminal, and nothing is hidden.
"""

import json
import unicodedata
from collections.abc import Callable

_UNSEEN_RANGES = (  # the first and the last of each
    (0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800),
    (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB),
    (0xE0000, 0xE0FFF),
)  # fmt: skip
UNSEEN = frozenset(chr(code) for first, last in _UNSEEN_RANGES for code in range(first, last + 1))
"""Characters that nobody sees, though `str.isprintable` lets some of them pass: fillers, unwritten
vowels, variation selectors, tags.
"""
# Blanks that names have, besides the space: the no-break one, and that of Chinese and Japanese.
_BLANKS = "\u00a0\u3000"
_JOINERS = "\u200c\u200d"  # which Persian and Indian words, and some emoji, are written with
_EMOJI_FORM = "\ufe0f"
_BRIEF = 64  # characters of a name that stand in an error


def _without(text: str, written: Callable[[str], str], kept: str = "") -> str:
    """`text`, in which each character that a terminal might act on, or not show, is replaced by
    what `written` makes of it.

    `str.isprintable` knows them: C0, DEL, C1, bidirectional and zero-width characters, surrogates,
    separators of lines, and most blanks but the space. Characters that words are spelt with stay,
    where they stand in a word.
    """
    if text.isprintable() and text.isascii():
        return text
    return "".join(
        c if c in kept or _is_seen(text, at) else written(c) for at, c in enumerate(text)
    )


def _is_seen(text: str, at: int) -> bool:
    character = text[at]
    if character in _JOINERS:
        return 0 < at < len(text) - 1 and _joins(text[at - 1]) and _joins(text[at + 1])
    if character == _EMOJI_FORM:
        return at > 0 and _joins(text[at - 1]) and text[at - 1] != _EMOJI_FORM
    return (character.isprintable() and character not in UNSEEN) or character in _BLANKS


def _joins(character: str) -> bool:
    """Whether a joiner may stand beside it: a letter, a mark or an emoji. ASCII needs none."""
    is_whole = character not in UNSEEN or character == _EMOJI_FORM
    return is_whole and not character.isascii() and unicodedata.category(character)[0] in "LMS"


def printable(text: str) -> str:
    r"""`text` on one line, such characters written as `\x1b` and `\u202e`."""
    return _without(text, lambda character: character.encode("unicode_escape").decode())


def printable_lines(text: str) -> str:
    """`text` with its line breaks, and else as `printable` writes it. It is only for tracebacks,
    where parts of it are written by others.
    """
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    """JSON in lines that means the same as `text`: such characters stand only in its strings, and
    are escaped there.
    """
    return _without(text, lambda character: json.dumps(character)[1:-1], kept="\n")


def brief(name: str) -> str:
    """A name as it can stand in an error of the API: short, with `?` for such characters."""
    return _without(name[:_BRIEF], lambda _: "?")
