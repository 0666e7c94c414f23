"""Fields of answers: each says its type and what it means once, and the schema in /docs is made of
that.
"""

from typing import Annotated, Any

import msgspec

MOMENT = "2026-01-01T02:00:00.000Z"


def described(kind: Any, description: str, **keywords: Any) -> Any:
    """The type `kind` with a description; `keywords` are JSON Schema's."""
    return Annotated[kind, msgspec.Meta(description=description, extra_json_schema=keywords)]


def field(name: str, kind: Any, description: str, **keywords: Any) -> tuple[str, Any]:
    """A field of an answer; `keywords` are JSON Schema's."""
    return name, described(kind, description, **keywords)


def moment(name: str, kind: Any, description: str) -> tuple[str, Any]:
    """A field that holds a time."""
    pattern = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"
    return field(
        name, kind, f"{description}; UTC", format="date-time", pattern=pattern, examples=[MOMENT]
    )


def count(name: str, description: str) -> tuple[str, Any]:
    """A field that holds a number of things."""
    return field(name, int, description, minimum=0)


def answer(name: str, fields: list[Any]) -> Any:
    """A type of answer: a struct that has these fields and no others."""
    return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)
