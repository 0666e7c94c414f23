"""What schemas are made of: strings, moments, lists, whole objects, the envelope."""

from typing import Any

from api.http.fields import MOMENT

Schema = dict[str, Any]


def text(description: str, **keywords: Any) -> Schema:
    """A string."""
    return {"type": "string", "description": description} | keywords


def or_null(schema: Schema) -> Schema:
    """`schema`, of one type, or null."""
    return (
        schema
        | {"type": [schema["type"], "null"]}
        | ({"enum": [*schema["enum"], None]} if "enum" in schema else {})
    )


def reference(name: str, kind: str = "schemas") -> Schema:
    """A pointer to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def count(description: str) -> Schema:
    """A number of things."""
    return {"type": "integer", "minimum": 0, "description": description}


def list_of(items: Schema, description: str) -> Schema:
    """A list of `items`."""
    return {"type": "array", "items": items, "description": description}


def whole(example: Any, /, **properties: Schema) -> Schema:
    """An object that has all of `properties` and no others."""
    schema: Schema = {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }
    return schema if example is None else schema | {"examples": [example]}


def moment(description: str) -> Schema:
    """A time, as answers have it."""
    return text(
        f"{description}; UTC",
        format="date-time",
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
        examples=[MOMENT],
    )


def success(body: Schema) -> Schema:
    """The envelope around `body`."""
    return whole(None, success={"const": True}, data=body, error={"type": "null"})
