"""Pages of what is listed newest first. A cursor is the place of the last item of a page, so pages
neither skip nor repeat.
"""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, Table, tuple_

from api.database import Found
from api.http.answers import InvalidRequest


def newest_first(
    statement: Select[Any], table: Table, cursor: str | None, before: datetime | None = None
) -> Select[Any]:
    """`statement`, ordered by creation, of what was created before a time, and going on after
    `cursor`. Raises InvalidRequest.

    Of the two bounds the nearer is enough, and with both PostgreSQL would enter the index at the
    first: each page would read all the pages before it.
    """
    place = (table.c.created_at, table.c.id)
    statement = statement.order_by(*(column.desc() for column in place))
    position = None if cursor is None else _position(cursor)
    if before is not None and (position is None or before <= position[0]):
        return statement.where(table.c.created_at < before)
    return statement if position is None else statement.where(tuple_(*place) < tuple_(*position))


def page_of(found: Sequence[Found], limit: int) -> tuple[Sequence[Found], str | None]:
    """Of up to `limit` + 1 rows those of the page, and the cursor of the next one, if there is
    one.
    """
    return found[:limit], _cursor_after(found[limit - 1]) if len(found) > limit else None


def _cursor_after(row: Found) -> str:
    created_at = row.created_at.astimezone(UTC).isoformat()
    return base64.urlsafe_b64encode(f"{created_at} {row.id}".encode()).decode()


def _position(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, _, item_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        moment = datetime.fromisoformat(created_at)
        return moment.astimezone(UTC), UUID(item_id)
    except (ValueError, OverflowError):
        raise InvalidRequest("Invalid query parameter: cursor") from None
