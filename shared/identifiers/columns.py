"""Finds the identifiers in a file by the names of its columns, or of the keys of its entries: by
our names, or by those that the caller says.
"""

import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..files.blocks import Unreadable
from ..printable import brief
from .canonical import FORMAT_CHARACTERS
from .names import EXTERNAL_ID, IDENTIFIERS, PHONE_NUMBER, misnamed

Places = tuple[int | None, int | None]
"""The places of the externalId and the phoneNumber among the columns."""

_LONGEST = 300  # characters of a header that are shown
_INVISIBLE = str.maketrans("", "", FORMAT_CHARACTERS)


class Unclear(ValueError):
    """Says why it is not clear which names are the identifiers': what the header or the entry does,
    and the way out.
    """

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(f"{what}; {mend}" if mend else what)
        self.what = what
        self.mend = mend


class Naming(NamedTuple):
    """What a caller says about the names in a file, and how a caller can say it."""

    columns: Mapping[str, str] = {}
    """The identifiers, by the names that the file has for them."""
    ignored: Collection[str] = ()
    """Names that do not mean an identifier, though they look like one."""
    way: str = "columns={identifier}:{name}"
    way_out: str = "ignore={name}"

    @property
    def said(self) -> list[str]:
        """Every name that is said, which must be there."""
        return [*self.columns, *self.ignored]

    def names_of(self, entry: Mapping[str, object], line: bytes) -> list[str]:
        """The keys of an `entry` that was read of `line`: of two equal ones both, while the decoder
        keeps only one.

        Raises ValueError, RecursionError for what is nested too deeply.
        """
        may_repeat = b"\\" in line or any(
            line.count(b'"%b"' % name.encode()) > 1 for name in IDENTIFIERS
        )
        return keys_of(line) if self.said or may_repeat else list(entry)

    def meanings(self, names: Iterable[str]) -> list[str]:
        """What each of `names`, of one header or one entry, stands for: an identifier, or itself;
        empty where it is ignored. Raises Unclear.
        """
        written = list(names)
        meanings = [
            "" if name in self.ignored else self.columns.get(name, name) for name in written
        ]
        for identifier in IDENTIFIERS:
            if meanings.count(identifier) > 1:
                named = zip(written, meanings, strict=True)
                raise self._twice(
                    identifier, [name for name, meaning in named if meaning == identifier]
                )
        if wrong := misnamed(filter(None, meanings)):
            name = brief(wrong.name)
            say = self.way.format(identifier=wrong.identifier, name=name)
            mend = f"write {wrong.identifier}, or say {say} or {self.way_out.format(name=name)}"
            raise Unclear(f"has {name}, which may be the {wrong.identifier}", mend)
        return meanings

    def _twice(self, identifier: str, names: Sequence[str]) -> Unclear:
        if len({*names}) == 1:
            return Unclear(f"names {brief(names[0])} twice")
        what = f"has {' and '.join(map(brief, names))}, which would both be the {identifier}"
        return Unclear(what, f"leave one out: {self.way_out.format(name=identifier)}")

    def places(self, names: Sequence[str], line: int) -> Places:
        """Which of the columns of a CSV are the identifiers'. Raises Unreadable, at the `line` of
        its header.
        """
        try:
            meanings = self._as_written(names).meanings(names)
        except Unclear as error:
            raise Unreadable(f"The header {error.what}", error.mend, line) from None
        if not {*meanings} & {*IDENTIFIERS}:
            ways = [
                self.way.format(identifier=identifier, name="NAME") for identifier in IDENTIFIERS
            ]
            what = "The header names neither externalId nor phoneNumber"
            raise Unreadable(
                what, f"it has: {shown(names)}. Say which they are: {' or '.join(ways)}", line
            )
        places = {meaning: place for place, meaning in enumerate(meanings)}
        return places.get(EXTERNAL_ID), places.get(PHONE_NUMBER)

    def _as_written(self, names: Sequence[str]) -> "Naming":
        """The same with names as the header has them, which may differ in characters that nobody
        sees. Raises Unreadable for a name that the header does not have.
        """
        columns = {_in_header(name, names): meaning for name, meaning in self.columns.items()}
        ignored = {_in_header(name, names) for name in self.ignored}
        return self._replace(columns=columns, ignored=ignored)


def _in_header(said: str, names: Sequence[str]) -> str:
    """The one of `names` that a caller means by `said`. Raises Unreadable."""
    if said in names:
        return said
    alike = [
        name
        for name in names
        if name.translate(_INVISIBLE).strip() == said.translate(_INVISIBLE).strip()
    ]
    if len(alike) != 1:
        raise Unreadable(f"the file has no column {brief(said)}", f"it has {shown(names)}")
    return alike[0]


def keys_of(line: bytes) -> list[str]:
    """The keys of a line that is a JSON object, with those that it has twice. Raises ValueError,
    RecursionError.
    """
    return [
        name for name, _ in json.loads(line, object_pairs_hook=list, parse_int=str, parse_float=str)
    ]


def shown(names: Iterable[str]) -> str:
    """A header as it can stand in an error."""
    text = ", ".join(map(brief, itertools.islice(names, _LONGEST)))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
