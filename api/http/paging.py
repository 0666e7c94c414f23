"""Pages of what is listed newest first. A cursor is the place of the last item of a page, so pages
neither skip nor repeat.
"""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, Table, text

from api.database import AnyRow
from api.http.answers import InvalidRequest


def after_cursor(
    table: str, cursor: str | None, before: datetime | None = None
) -> tuple[str, dict[str, Any]]:
    """The condition on rows of `table` for what was created before a time, and goes on after
    `cursor`, with its values. Raises InvalidRequest.

    Of the two bounds the nearer is enough, and with both PostgreSQL would enter the index at the
    first: each page would read all the pages before it.
    """
    place = None if cursor is None else _place(cursor)
    if before is not None and (place is None or before <= place[0]):
        return f"{table}.created_at < CAST(:before AS timestamptz)", {"before": before}
    if place is None:
        return "true", {}
    condition = f"""
        ({table}.created_at, {table}.id)
            < (CAST(:cursor_created_at AS timestamptz), CAST(:cursor_id AS uuid))
    """
    return condition, {"cursor_created_at": place[0], "cursor_id": place[1]}


def newest_first(statement: Select[Any], table: Table, cursor: str | None) -> Select[Any]:
    """`statement`, ordered by creation, going on after `cursor`. Raises InvalidRequest."""
    condition, values = after_cursor(table.name, cursor)
    statement = statement.order_by(table.c.created_at.desc(), table.c.id.desc())
    return statement.where(text(condition).bindparams(**values))


def page_of(found: Sequence[AnyRow], limit: int) -> tuple[Sequence[AnyRow], str | None]:
    """Of up to `limit` + 1 rows those of the page, and the cursor of the next one, if there is
    one.
    """
    return found[:limit], _cursor_after(found[limit - 1]) if len(found) > limit else None


def _cursor_after(row: AnyRow) -> str:
    created_at = row.created_at.astimezone(UTC).isoformat()
    return base64.urlsafe_b64encode(f"{created_at} {row.id}".encode()).decode()


def _place(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, _, item_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        moment = datetime.fromisoformat(created_at)
        return moment.astimezone(UTC), UUID(item_id)
    except (ValueError, OverflowError):
        raise InvalidRequest("Invalid query parameter: cursor") from None
