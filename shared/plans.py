"""Keeps a statement to the indexes that it was written for, whatever the planner believes of the tables.

A plan that was made while a table was nearly empty scans it, and is kept when thousands of jobs have come at once: see
docs/decisions/0017-statements-go-by-their-indexes.md.
"""

from sqlalchemy import TextClause, text

BY_INDEX = "leadsweep_by_index()"
"""A condition that always holds. The planner works it out before it looks for a path, and then finds no scan, no bitmap and no
sort any more where an index has the rows in order; until the end of the transaction. It must be met before what it is for is
planned: in the first WITH that is materialized or not plain, else among the conditions of the outermost query.
"""


def squeezed(sql: str) -> TextClause:
    """A statement without the white space that it was written with, and so without comments: psycopg takes what has more than
    4096 characters to pieces each time.
    """
    return text(" ".join(sql.split()))
