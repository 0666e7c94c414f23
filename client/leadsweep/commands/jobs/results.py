"""Results as a list of identifiers, one a line, that means the same when `submit --by` takes it; or
else no list at all.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from leadsweep.rules.files.blocks import SIZE
from leadsweep.rules.identifiers.canonical import canonical_external_id, canonical_phone_number
from leadsweep.terminal.failure import Failure
from leadsweep.terminal.output import remark

if TYPE_CHECKING:
    from leadsweep import Result

_WAY_OUT = "CSV has both, and can be submitted as it is: --format csv"
_CANONICAL = {"externalId": canonical_external_id, "phoneNumber": canonical_phone_number}


def identifier_list(
    found: Iterable["Result"], cell: Callable[[str], str], *, phone_fallback: bool
) -> Iterator[bytes]:
    """The list in parts, the first of them once all of it is known to be sound: until then it is
    kept on disk.

    Each identifier stands in it as `cell` has it.

    With `phone_fallback` an entry with an externalId may be looked up by its phone number too,
    which a list would lose. Raises Failure.
    """
    kind = None
    with tempfile.TemporaryFile() as file:
        for result in found:
            if not result.identifier:  # of what is invalid
                continue
            if result.external_id and result.phone_number and phone_fallback:
                wrong = f"entry {result.index} has an externalId and a phone number"
                raise Failure(f"{wrong}, and a list would lose one of them", _WAY_OUT)
            its_kind = "externalId" if result.external_id else "phoneNumber"
            if its_kind != (kind := kind or its_kind):
                raise Failure(
                    "some entries have an externalId, others only a phone number, "
                    "and a list has one of them",
                    _WAY_OUT,
                )
            if not _is_a_line(result.identifier, kind):
                raise Failure(
                    f"the {kind} of entry {result.index} cannot stand on a line of its own",
                    _WAY_OUT,
                )
            file.write(f"{cell(result.identifier)}\n".encode())
        if kind:
            remark(f"to send them back: leadsweep submit FILE --by {kind}")
        file.seek(0)
        while part := file.read(SIZE):
            yield part


def _is_a_line(identifier: str, kind: str) -> bool:
    """Whether what is read of the line means the same."""
    read = identifier.removeprefix("\ufeff").strip()
    return "\n" not in read and _CANONICAL[kind](read) == _CANONICAL[kind](identifier)
