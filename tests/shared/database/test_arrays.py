"""Array literals mean what the lists mean, whatever is in them."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from shared.database.arrays import smallint_array, text_array

ANY_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
TRICKY = st.sampled_from(["", "NULL", "null", '"', "\\", "{", "}", ",", " ", "a\\b", '\\"', "\n"])


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(items=st.lists(st.none() | ANY_TEXT | TRICKY))
def test_a_text_array_comes_back_as_it_went(engine, items):
    with engine.connect() as connection:
        assert (
            connection.execute(
                text("SELECT CAST(:items AS text[])"), {"items": text_array(items)}
            ).scalar_one()
            == items
        )


def test_a_smallint_array_comes_back_as_it_went(engine):
    with engine.connect() as connection:
        statement = text("SELECT CAST(:items AS smallint[])")
        assert connection.execute(
            statement, {"items": smallint_array([0, -1, 32767])}
        ).scalar_one() == [0, -1, 32767]
