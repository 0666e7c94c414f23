"""Pages of lists that begin with the newest item. A cursor is the place of the last item of a page,
so pages neither skip nor repeat one.
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
    """The condition on the rows of `table` that were created `before` a time and come after
    `cursor`, with its values. Raises InvalidRequest.

    Only the nearer of the two bounds stands in it. With both, PostgreSQL would enter the index at
    the first of them, and each page would read all the pages before it.
    """
    created_at, item_id = (None, None) if cursor is None else _place(cursor)
    if before is not None and (created_at is None or before <= created_at):
        return f"{table}.created_at < CAST(:before AS timestamptz)", {"before": before}
    if created_at is None:
        return "true", {}
    condition = f"""
        ({table}.created_at, {table}.id)
            < (CAST(:cursor_created_at AS timestamptz), CAST(:cursor_id AS uuid))
    """
    return condition, {"cursor_created_at": created_at, "cursor_id": item_id}


def newest_first(statement: Select[Any], table: Table, cursor: str | None) -> Select[Any]:
    """`statement`, ordered by creation, going on after `cursor`. Raises InvalidRequest."""
    condition, values = after_cursor(table.name, cursor)
    statement = statement.order_by(table.c.created_at.desc(), table.c.id.desc())
    return statement.where(text(condition).bindparams(**values))


def page_of(rows: Sequence[AnyRow], limit: int) -> tuple[Sequence[AnyRow], str | None]:
    """The page that begins with `rows`, up to `limit` + 1 of them, and the cursor of the next page,
    if there is one.
    """
    next_cursor = _cursor_after(rows[limit - 1]) if len(rows) > limit else None
    return rows[:limit], next_cursor


def _cursor_after(row: AnyRow) -> str:
    created_at = row.created_at.astimezone(UTC).isoformat()
    return base64.urlsafe_b64encode(f"{created_at} {row.id}".encode()).decode()


def _place(cursor: str) -> tuple[datetime, UUID]:
    """When the last item of the page before was created, and its id. Raises InvalidRequest."""
    try:
        created_at, _, item_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        moment = datetime.fromisoformat(created_at)
        return moment.astimezone(UTC), UUID(item_id)
    except (ValueError, OverflowError):
        raise InvalidRequest("Invalid query parameter: cursor") from None
