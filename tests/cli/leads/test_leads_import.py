"""Importing leads: every row becomes a lead or is told with its line and reason, in one
transaction.
"""

import csv
import json
import threading
import time

import pytest
from sqlalchemy import select, text

from shared.database.models import leads
from tests.support.jobs import add_campaign, add_leads, remaining_leads


@pytest.fixture
def campaign(engine):
    with engine.begin() as connection:
        add_campaign(connection, "spring", "acme")
        add_campaign(connection, "autumn", "acme")
    return "spring"


@pytest.fixture
def load(leadsweep, campaign):
    """`load(text, *options)` imports from stdin."""
    return lambda content, *options: leadsweep(
        "leads", "import", "-", "--campaign", campaign, *options, stdin=content
    )


def left(engine):
    with engine.connect() as connection:
        return remaining_leads(connection, "spring")


def rejections(ran):
    result = ran.json
    assert len(result["rejections"]) == result["rejected"]
    return {row["line"]: row["reason"] for row in result["rejections"]}


def test_a_csv_file_becomes_leads_with_their_metadata(leadsweep, campaign, engine, tmp_path):
    file = tmp_path / "leads.csv"
    file.write_text("externalId,phoneNumber,city\nCRM_1,+1 555 01,Zürich\nCRM_2,,\n")
    ran = leadsweep("leads", "import", file, "--campaign", campaign)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("imported 2 of 2 rows, rejected 0, in ")
    with engine.connect() as connection:
        found = connection.execute(select(leads).order_by(leads.c.id)).all()
    assert [row[1:5] for row in found] == [
        ("spring", "CRM_1", "+155501", {"city": "Zürich"}),
        ("spring", "CRM_2", None, {}),
    ]


def test_ndjson_is_known_by_its_content_or_its_name(leadsweep, campaign, load, engine, tmp_path):
    assert load('{"externalId": "A", "age": 7}\n', "--json").json == {
        "imported": 1,
        "rejected": 0,
        "rejections": [],
    }
    file = tmp_path / "leads.jsonl"
    file.write_text('oops\n{"externalId": "B"}\n')
    assert leadsweep("leads", "import", file, "--campaign", campaign, "--json").json == {
        "imported": 1,
        "rejected": 1,
        "rejections": [{"line": 1, "reason": "not valid JSON"}],
    }
    assert left(engine) == {("A", None), ("B", None)}


def test_columns_of_other_names_are_said_and_others_that_look_like_identifiers_become_metadata(
    load, engine
):
    text = "crm_id;Tel.;mobile\nA;+1 (555) 01;1\n"
    assert "has crm_id, which may be the externalId" in load(text).error
    assert '--column externalId="crm_id" or --ignore "crm_id"' in load(text).error
    said = ("--column", "externalId=crm_id", "--column", "phoneNumber=Tel.", "--ignore", "mobile")
    assert load(text, "--json", *said).json["imported"] == 1
    assert (
        load('{"crm_id": "B", "mobile": 2}\n', "--json", *said[:2], *said[4:]).json["imported"] == 1
    )
    assert "no entry has the key Tel." in load('{"crm_id": "C"}\n', *said[:4]).error
    assert left(engine) == {("A", "+155501"), ("B", None)}
    with engine.connect() as connection:
        assert connection.scalars(select(leads.c["metadata"]).order_by(leads.c.id)).all() == [
            {"mobile": "1"},
            {"mobile": 2},
        ]


def test_a_phone_number_that_is_none_is_rejected_also_beside_an_external_id(load, engine):
    ran = load(
        "externalId,phoneNumber\nA,N/A\nB,0000000\nC,15555550000.0\nD,112233\n,n/a\nE,'+15555550001\n",
        "--json",
    )
    assert rejections(ran) == {
        2: "phoneNumber is not a phone number",
        3: "phoneNumber is not a phone number",
        4: (
            "phoneNumber has a decimal point or an exponent, as spreadsheets write numbers; store "
            "it as text"
        ),
        6: "phoneNumber is not a phone number",
    }
    assert left(engine) == {("D", "112233"), ("E", "+15555550001")}


def test_numbers_are_read_as_in_the_region_that_is_named_else_in_the_campaigns(load, engine):
    with engine.begin() as connection:
        connection.execute(text("UPDATE campaigns SET phone_region = 'DE' WHERE id = 'spring'"))
    load("phoneNumber\n0170 1234567\n+49 (0)170 1234568\n", "--json")
    ran = load("phoneNumber\n020 7946 0105\n112\n", "--json", "--phone-region", "GB")
    assert rejections(ran) == {3: "phoneNumber is not a phone number"}
    assert left(engine) == {
        (None, "+491701234567"),
        (None, "+491701234568"),
        (None, "+442079460105"),
    }
    assert load("phoneNumber\n1\n", "--phone-region", "XX").code == 2


def test_what_is_no_file_of_leads_is_named_for_what_it_is(load):
    for content, told in (
        (
            b"PK\x03\x04xl/workbook.xml",
            "Error: the file is an Excel workbook (xlsx); save it as CSV, in UTF-8",
        ),
        (b'[{"externalId": "a"}]', "the file is a JSON array; write it as NDJSON"),
        ("externalId\na\n".encode("utf-16"), "the file is UTF-16; save it as UTF-8"),
    ):
        assert told.removeprefix("Error: ") in load(content).error


def test_duplicates_are_judged_on_the_canonical_form_and_the_first_row_wins(load, engine):
    ran = load(
        "externalId,phoneNumber\n"
        "A,+1 (555) 01\n"
        " A ,202\n"
        "B,+1-555-01\n"
        ",0015 5501\n"
        "B,303\n"  # line 4 was rejected, so its externalId is free
        "C,202\n"  # and so is the number of line 3
        "C,+155501\n",
        "--json",
    )
    assert ran.code == 1
    assert rejections(ran) == {
        3: "externalId repeats line 2",
        4: "phoneNumber repeats line 2",
        5: "phoneNumber repeats line 2",
        8: "externalId repeats line 7",
    }
    assert left(engine) == {("A", "+155501"), ("B", "303"), ("C", "202")}


def test_leads_that_are_there_already_stay_as_they_are(load, engine):
    with engine.begin() as connection:
        add_leads(connection, [("A", "101"), (None, "202")], "spring")
        add_leads(connection, [("other", "909")], "autumn")
    ran = load("externalId,phoneNumber,x\nA,505,new\nB,202,new\nother,909,new\n", "--json")
    assert rejections(ran) == {
        2: "externalId belongs to a lead that is already there",
        3: "phoneNumber belongs to a lead that is already there",
    }
    assert left(engine) == {("A", "101"), (None, "202"), ("other", "909")}


def test_importing_the_same_file_again_changes_nothing(load, engine):
    content = "externalId\n" + "".join(f"CRM_{number}\n" for number in range(500))
    assert load(content, "--json").json["imported"] == 500
    again = load(content, "--json")
    assert (again.code, again.json["imported"], again.json["rejected"]) == (1, 0, 500)
    assert len(left(engine)) == 500


def test_every_row_is_accounted_for_in_a_big_damaged_file(load, engine, tmp_path):
    rows = [f"CRM_{number},+1555{number:07d},x" for number in range(20_000)]
    damage = {
        100: "CRM_100",
        5_000: "CRM_0,+101,x",
        9_999: '"CRM,1,x',
        19_999: ",,x",
        15_000: "X\x00,1,x",
    }
    for place, row in damage.items():
        rows[place] = row
    file = tmp_path / "rejects.csv"
    ran = load("externalId,phoneNumber,x\n" + "\n".join(rows) + "\n", "--json", "--rejects", file)
    assert ran.json["imported"] == 20_000 - len(damage)
    assert rejections(ran).keys() == {place + 2 for place in damage}
    with file.open(newline="") as rejects:
        assert {int(row["line"]): row["reason"] for row in csv.DictReader(rejects)} == rejections(
            ran
        )
    assert len(left(engine)) == 20_000 - len(damage)


def test_people_see_the_first_rejections_and_how_many_more_there_are(load):
    ran = load("externalId\n" + "A\n" * 31)
    assert ran.code == 1
    assert ran.out.startswith("imported 1 of 31 rows, rejected 30, in ")
    lines = ran.err.splitlines()
    assert lines[0] == "line 3: externalId repeats line 2"
    assert len(lines) == 21
    assert lines[-1] == "… and 10 more; --rejects FILE writes them all"


def test_metadata_of_every_kind_arrives_as_it_was_written(load, engine):
    metadata = {
        "text": 'ä\n\t"\\ \\N \\u0000',
        "number": 10**30,
        "list": [None, True, {"a": -0.5}],
        "": "empty",
    }
    load(json.dumps({"externalId": "A"} | metadata), "--json")
    with engine.connect() as connection:
        assert connection.scalar(select(leads.c["metadata"])) == metadata


def test_a_lead_that_somebody_else_adds_meanwhile_is_not_counted_twice(load, engine):
    result = []
    with engine.connect() as rival:
        rival.begin()
        add_leads(rival, [("A", None)], "spring")
        importing = threading.Thread(
            target=lambda: result.append(load("externalId\nA\nB\n", "--json"))
        )
        importing.start()
        wait_for_blocked_import(rival)
        rival.commit()
    importing.join(timeout=30)
    assert rejections(result[0]) == {2: "externalId belongs to a lead that is already there"}
    assert left(engine) == {("A", None), ("B", None)}


def wait_for_blocked_import(connection):
    """Until the import waits for this very transaction."""
    blocked = text(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY "
        "(pg_blocking_pids(pid))"
    )
    deadline = time.monotonic() + 30
    while not connection.scalar(blocked):
        assert time.monotonic() < deadline, "the import never met the rival's lead"


def test_ids_that_an_operator_has_used_up_fail_the_import_instead_of_losing_rows(load, engine):
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO leads (id, campaign_id, external_id) VALUES (2, 'spring', 'own id')")
        )
    ran = load("externalId\nA\nB\nC\n")
    assert ran.code == 1
    assert "SELECT setval('leads_id_seq', max(id)) FROM leads" in ran.error
    assert left(engine) == {("own id", None)}


def test_a_database_that_refuses_a_row_refuses_the_file_in_one_line(load, engine):
    with engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE leads ADD CONSTRAINT short CHECK (length(external_id) < 5)")
        )
    ran = load("externalId\nA\nlonger\n")
    assert (ran.code, ran.out) == (1, "")
    assert (
        ran.error
        == 'the database refused: new row for relation "leads" violates check constraint "short"'
    )
    assert left(engine) == set()


def test_rejects_that_cannot_be_written_import_nothing(load, engine):
    ran = load("externalId\nA\nA\n", "--rejects", "/dev/full")
    assert (ran.code, ran.out) == (1, "")
    assert "No space left on device" in ran.error
    assert left(engine) == set()


def test_a_file_that_cannot_be_read_is_one_line(leadsweep, campaign, load, tmp_path):
    assert leadsweep("leads", "import", tmp_path / "none.csv", "--campaign", campaign).code == 2
    assert leadsweep("leads", "import", tmp_path, "--campaign", campaign).code == 2
    assert "names neither externalId nor phoneNumber" in load("name\nA\n").error
    assert "line 1, is empty" in load("").error
    assert (
        "campaigns create nope"
        in leadsweep("leads", "import", "-", "--campaign", "nope", stdin="externalId\nA\n").error
    )


def test_nothing_is_left_behind_for_the_next_user_of_the_connection(load, engine):
    load("externalId\nA\n")
    with engine.connect() as connection:
        assert (
            connection.scalar(text("SELECT count(*) FROM pg_class WHERE relname LIKE 'staged%'"))
            == 0
        )
