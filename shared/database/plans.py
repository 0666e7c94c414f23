"""Keeps statements to the indexes that they were written for, whatever the planner believes about
the tables. Else a plan that was made while a table was nearly empty scans it, and is kept when
thousands of jobs have come at once. See docs/decisions/0017-statements-go-by-their-indexes.md.
"""

from sqlalchemy import TextClause, text

SETTINGS = (
    "enable_seqscan",
    "enable_bitmapscan",
    "enable_sort",
    "enable_hashjoin",
    "enable_mergejoin",
)
"""Switched off in the transactions of workers. PostgreSQL still uses them where it has no other
way.
"""

BY_INDEX = "leadsweep_by_index()"
"""The same for a statement that is a transaction of its own: a condition that always holds. The
planner works it out, which switches SETTINGS off, before it plans the query in whose WHERE it
stands, and the queries within.
"""

MAX_STATEMENT = 4096
"""Characters of a statement as it is sent."""

NOW = "(SELECT clock_timestamp())"
"""The time, in a condition on the columns that an index is sorted by. A function whose answer may
change while a statement runs would be compared with each row instead of with the index.
"""


def squeezed(sql: str) -> TextClause:
    """A statement without the white space that it was written with, and so without comments.

    psycopg takes what has more than MAX_STATEMENT characters to pieces each time. No string in
    `sql` may have a blank beside a parenthesis, or several of them.
    """
    return text(" ".join(sql.split()).replace("( ", "(").replace(" )", ")"))
