"""Foreign keys that make it slow to delete a lead. For each key PostgreSQL looks for the rows that
refer to the lead, and reads the whole table where no index leads to them.
"""

from typing import NamedTuple

from sqlalchemy import Connection, text

# `going` has leads, and the tables whose rows are deleted with a lead. A key of a partition counts
# as its parent's. An index serves if it begins with the columns of the key, in whatever order, and
# leaves out only rows in which one of them is null. Columns that it INCLUDEs cannot be looked up.
_WITHOUT_INDEX = text("""
    WITH RECURSIVE going (relation) AS (
        SELECT 'leads'::regclass::oid
        UNION
        SELECT conrelid FROM pg_constraint JOIN going ON confrelid = relation
        WHERE contype = 'f' AND confdeltype = 'c'
    )
    SELECT conname AS name, conrelid::regclass::text AS "table",
        referring.relkind = 'p' AS is_partitioned,
        (
            SELECT string_agg(quote_ident(attname), ', ' ORDER BY position)
            FROM unnest(conkey) WITH ORDINALITY AS key (number, position)
                JOIN pg_attribute ON attrelid = conrelid AND attnum = key.number
        ) AS columns
    FROM going JOIN pg_constraint ON confrelid = relation
        JOIN pg_class AS referring ON referring.oid = conrelid
    WHERE contype = 'f' AND conparentid = 0 AND NOT EXISTS (
        SELECT FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid
            JOIN pg_am ON pg_am.oid = index.relam
        WHERE amname IN ('btree', 'hash') AND indrelid = conrelid AND indisvalid
            AND conkey <@ (indkey::int2[])[0:least(cardinality(conkey), indnkeyatts) - 1]
            AND (indpred IS NULL OR pg_get_expr(indpred, indrelid) IN (
                SELECT format('(%I IS NOT NULL)', attname) FROM pg_attribute
                WHERE attrelid = conrelid AND attnum = ANY(conkey)
            ))
    )
    ORDER BY "table", name
""")


class ForeignKey(NamedTuple):
    """A foreign key whose columns have no index. `table` and `columns` are quoted where SQL needs
    it.
    """

    name: str
    table: str
    is_partitioned: bool
    columns: str

    @property
    def cure(self) -> str:
        """The statement that makes its index; it does not lock the table, where PostgreSQL can do
        without that.
        """
        concurrently = "" if self.is_partitioned else "CONCURRENTLY "
        return f"CREATE INDEX {concurrently}ON {self.table} ({self.columns})"


def without_index(connection: Connection) -> list[ForeignKey]:
    """The foreign keys for which deleting a lead reads a whole table."""
    return [ForeignKey(**row) for row in connection.execute(_WITHOUT_INDEX).mappings()]


def reason_of_slowness(connection: Connection) -> str | None:
    """Names the foreign keys without an index, each with the statement that makes it; None where
    there is none.
    """
    reasons = (
        f"the foreign key {key.name} of {key.table} has no index: {key.cure}"
        for key in without_index(connection)
    )
    return "; ".join(reasons) or None
