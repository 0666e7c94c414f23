"""What every answer looks like: the envelope, and how times are written."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode


class Answer(Response):
    """A JSON body, encoded by msgspec."""

    media_type = "application/json"

    def __init__(
        self, body: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """`body` is the whole envelope."""
        super().__init__(_encode(body), status, headers)


def success(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """`body` as the `data` of the envelope."""
    return Answer({"success": True, "data": body, "error": None}, status, headers)


def time_text(moment: datetime | float | None) -> str | None:
    """UTC, ISO 8601, three decimals, `Z`: `2026-01-01T02:00:00.000Z`. A number is unix seconds."""
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
