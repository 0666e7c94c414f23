"""Which foreign keys make deleting a lead read whole tables, and the statement that mends each."""

import pytest
from sqlalchemy import text

from shared.database.foreign_keys import reason_of_slowness, without_index

TABLE = "CREATE TABLE calls (id int PRIMARY KEY, lead_id bigint REFERENCES leads, at date)"
CASCADE = """
    CREATE TABLE calls (id int PRIMARY KEY, lead_id bigint REFERENCES leads ON DELETE CASCADE);
    CREATE INDEX ON calls (lead_id)
"""
PARTITIONED = """
    CREATE TABLE calls (id int, lead_id bigint REFERENCES leads) PARTITION BY RANGE (id);
    CREATE TABLE calls_1 PARTITION OF calls FOR VALUES FROM (1) TO (9)
"""
TWO_COLUMNS = """
    ALTER TABLE leads ADD UNIQUE (id, campaign_id);
    CREATE TABLE calls (campaign text, lead bigint, at date, FOREIGN KEY (lead, campaign)
        REFERENCES leads (id, campaign_id))
"""


def found(engine, *statements):
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
        return [(key.name, key.table, key.cure) for key in without_index(connection)]


def test_a_fresh_schema_has_none(engine):
    assert found(engine) == []


def test_a_key_without_an_index_is_named_with_its_cure_which_mends_it(engine):
    assert found(engine, TABLE) == [
        ("calls_lead_id_fkey", "calls", "CREATE INDEX CONCURRENTLY ON calls (lead_id)")
    ]
    with engine.connect() as connection:
        assert reason_of_slowness(connection) == (
            "the foreign key calls_lead_id_fkey of calls has no index: CREATE INDEX CONCURRENTLY"
            " ON calls (lead_id)"
        )
        connection.rollback()
        connection.connection.dbapi_connection.execute(
            "CREATE INDEX CONCURRENTLY ON calls (lead_id)"
        )
    with engine.connect() as connection:
        assert reason_of_slowness(connection) is None


@pytest.mark.parametrize(
    ("index", "serves"),
    [
        ("(lead_id)", True),
        ("(lead_id, at)", True),
        ("(at, lead_id)", False),
        ("(lead_id) WHERE at IS NOT NULL", False),
        ("(lead_id) WHERE lead_id > 7", False),
        ("(lead_id) WHERE lead_id IS NOT NULL", True),
        ("(at) INCLUDE (lead_id)", False),
        ("(lead_id) INCLUDE (at)", True),
        ("((lead_id + 0))", False),
        ("USING brin (lead_id)", False),
        ("USING hash (lead_id)", True),
    ],
)
def test_an_index_serves_if_it_leads_to_the_rows_of_a_lead(engine, index, serves):
    assert bool(found(engine, TABLE, f"CREATE INDEX ON calls {index}")) != serves


def test_an_index_that_could_not_be_finished_does_not_serve(engine):
    invalid = (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'calls_lead_id_idx'::regclass"
    )
    assert found(engine, TABLE, "CREATE INDEX ON calls (lead_id)", invalid)


TWO_COLUMN_INDEXES = [
    ("(lead, campaign)", True),
    ("(campaign, lead, at)", True),
    ("(campaign, lead) WHERE campaign IS NOT NULL", True),
    ("(lead)", False),
    ("(lead, at, campaign)", False),
    ("(lead) INCLUDE (campaign)", False),
]


@pytest.mark.parametrize(("index", "serves"), TWO_COLUMN_INDEXES)
def test_of_a_key_of_two_columns_the_order_does_not_matter(engine, index, serves):
    keys = found(engine, TWO_COLUMNS, f"CREATE INDEX ON calls {index}")
    assert [cure for *_, cure in keys] == (
        [] if serves else ["CREATE INDEX CONCURRENTLY ON calls (lead, campaign)"]
    )


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_what_goes_or_changes_with_a_lead_is_looked_at_in_turn(engine, action):
    notes = "CREATE TABLE notes (call_id int REFERENCES calls)"
    cascade = CASCADE.replace("CASCADE", action)
    expected = [("notes_call_id_fkey", "notes", "CREATE INDEX CONCURRENTLY ON notes (call_id)")]
    assert found(engine, cascade, notes) == (expected if action == "CASCADE" else [])


def test_of_what_keeps_a_lead_nothing_follows(engine):
    assert (
        found(
            engine,
            CASCADE.replace("ON DELETE CASCADE", ""),
            "CREATE TABLE notes (call_id int REFERENCES calls)",
        )
        == []
    )


def test_a_partitioned_table_is_named_once_and_its_index_made_as_it_can_be(engine):
    assert found(engine, PARTITIONED) == [
        ("calls_lead_id_fkey", "calls", "CREATE INDEX ON calls (lead_id)")
    ]
    assert found(engine, "CREATE INDEX ON calls (lead_id)") == []


@pytest.mark.parametrize("index", ["ON calls_1 (lead_id)", "ON ONLY calls (lead_id)"])
def test_of_a_partitioned_table_every_partition_needs_the_index(engine, index):
    assert found(engine, PARTITIONED, f"CREATE INDEX {index}")


def test_a_key_of_one_partition_alone_is_that_partitions(engine):
    own = "ALTER TABLE calls_1 ADD CONSTRAINT own FOREIGN KEY (lead_id) REFERENCES leads"
    expected = [("own", "calls_1", "CREATE INDEX CONCURRENTLY ON calls_1 (lead_id)")]
    assert found(engine, PARTITIONED.replace(" REFERENCES leads", ""), own) == expected


def test_of_two_tables_of_one_name_the_one_that_lacks_its_index_is_told(engine):
    other = TABLE.replace("calls", "crm.calls")
    expected = [
        ("calls_lead_id_fkey", "crm.calls", "CREATE INDEX CONCURRENTLY ON crm.calls (lead_id)")
    ]
    assert found(engine, CASCADE, "CREATE SCHEMA crm", other) == expected


def test_rows_that_go_with_each_other_in_a_circle_are_looked_at_once(engine):
    notes = (
        "CREATE TABLE notes (id int PRIMARY KEY, call_id int REFERENCES calls ON DELETE CASCADE)"
    )
    back = "ALTER TABLE calls ADD note_id int REFERENCES notes ON DELETE CASCADE"
    names = [name for name, *_ in found(engine, CASCADE, notes, back)]
    assert names == ["calls_note_id_fkey", "notes_call_id_fkey"]


def test_who_refers_to_another_table_than_leads_is_not_told(engine):
    assert found(engine, "CREATE TABLE bills (company text REFERENCES companies)") == []


def test_names_that_need_quotes_and_other_schemas_can_be_pasted(engine):
    odd = (
        'CREATE SCHEMA "Dialler"; CREATE TABLE "Dialler"."Calls made" (id int, "Lead" bigint'
        " REFERENCES leads)"
    )
    [(_, table, cure)] = found(engine, odd)
    assert (table, cure) == (
        '"Dialler"."Calls made"',
        'CREATE INDEX CONCURRENTLY ON "Dialler"."Calls made" ("Lead")',
    )
    assert found(engine, cure.replace("CONCURRENTLY ", "")) == []


def test_leads_that_refer_to_leads_are_looked_at_once(engine):
    twin = "ALTER TABLE leads ADD COLUMN twin bigint REFERENCES leads ON DELETE CASCADE"
    assert [(name, table) for name, table, _ in found(engine, twin)] == [
        ("leads_twin_fkey", "leads")
    ]


def test_keys_of_our_own_tables_have_their_indexes(engine):
    """A campaign's leads, a job's chunks: whoever deletes one of those reads no whole table
    either.
    """
    with engine.connect() as connection:
        keys = connection.execute(
            text("""
                SELECT conname FROM pg_constraint WHERE contype = 'f'
                    AND conrelid::regclass::text = 'leads'
                    AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = conrelid
                        AND indkey[0] = conkey[1])
            """)
        )
        assert keys.all() == []
