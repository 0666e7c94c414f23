"""What is executed for each chunk stays short enough for psycopg to remember how it is sent."""

import pytest
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from shared.database.plans import MAX_STATEMENT
from worker import claimer, finisher


@pytest.mark.parametrize(
    "statement",
    [claimer._CLAIM, claimer._WOULD_CLAIM, finisher._FINISH],
    ids=["claim", "would claim", "finish"],
)
def test_a_statement_of_every_chunk_is_short_enough_to_be_remembered(statement):
    assert len(str(statement.compile(dialect=PGDialect_psycopg()))) <= MAX_STATEMENT
