"""Makes statements use the indexes that they were written for, whatever the planner believes about
the tables. Otherwise a plan that was made while a table was nearly empty would scan the table, and
would still be used after thousands of jobs have come at once. See
docs/decisions/0017-statements-go-by-their-indexes.md.
"""

from sqlalchemy import TextClause, text

SETTINGS = (
    "enable_seqscan",
    "enable_bitmapscan",
    "enable_sort",
    "enable_hashjoin",
    "enable_mergejoin",
)
"""Ways to read that are switched off in the transactions of workers. PostgreSQL still uses them
where it has no other.
"""

BY_INDEX = "leadsweep_by_index()"
"""The same for a statement that is a transaction of its own: a condition that always holds. The
planner evaluates it, which switches SETTINGS off, before it plans the query in whose WHERE it
stands, and the queries within that.
"""

MAX_STATEMENT = 4096
"""Characters of a statement, as it is sent, up to which psycopg remembers how to send it."""

NOW = "(SELECT clock_timestamp())"
"""The time, for a condition on the columns of an index. A function whose result may change while a
statement runs would be compared with each row, instead of being looked up in the index.
"""


def squeezed(sql: str) -> TextClause:
    """A statement without the white space that it was written with, and so without comments.

    psycopg takes a statement of more than MAX_STATEMENT characters to pieces at each use. No string
    in `sql` may have a blank beside a parenthesis, or several blanks in a row.
    """
    return text(" ".join(sql.split()).replace("( ", "(").replace(" )", ")"))
