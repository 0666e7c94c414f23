"""Leads that were stored in a former form come into today's; those that cannot stay, and the doctor
lists them.
"""

import signal
import subprocess

import pytest
from sqlalchemy import text

from cli.leads import recanonicaliser
from shared.process.heartbeats import beat
from tests.client.commands.test_cut_off import LEADSWEEP, SLOW_COMMIT, committing
from tests.support.jobs import add_campaign, remaining_leads
from tests.support.stack import wait_for

FORMER = [
    ("\u2003a", "tel:+15555550100"),
    ("e\u0301", None),
    ("plain", "+15555550101"),
    (None, "+49\u202f30\u202f123456"),
]


@pytest.fixture
def former(engine):
    """Stores leads as a database has them that comes from the former form."""
    with engine.begin() as connection:
        add_campaign(connection, "spring", "acme")
        connection.execute(text("UPDATE canonical_forms SET form = 1"))

    def store(*leads):
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE leads DISABLE TRIGGER leads_keep_canonical"))
            for external_id, number in leads:
                values = {"external_id": external_id, "number": number}
                connection.execute(
                    text(
                        "INSERT INTO leads (campaign_id, external_id, phone_number) VALUES "
                        "('spring', :external_id, :number)"
                    ),
                    values,
                )
            connection.execute(text("ALTER TABLE leads ENABLE TRIGGER leads_keep_canonical"))

    return store


def left(engine):
    with engine.connect() as connection:
        return remaining_leads(connection, "spring")


def form(engine):
    with engine.connect() as connection:
        return connection.execute(text("SELECT form FROM canonical_forms")).scalar_one()


def test_all_leads_come_into_todays_form_chunk_by_chunk(leadsweep, former, engine, monkeypatch):
    monkeypatch.setattr(recanonicaliser, "LEADS_AT_A_TIME", 3)
    former(*FORMER)
    ran = leadsweep("leads", "recanonicalise", "--json")
    assert (ran.code, ran.json) == (0, {"leads": 4, "changed": 3, "left": 0})
    assert left(engine) == {
        ("a", "+15555550100"),
        ("\u00e9", None),
        ("plain", "+15555550101"),
        (None, "+4930123456"),
    }
    assert form(engine) == 2
    assert leadsweep("leads", "recanonicalise", "--json").json == {
        "leads": 4,
        "changed": 0,
        "left": 0,
    }


def test_who_would_become_somebody_else_stays_and_is_listed(leadsweep, former, engine):
    former(("a", None), ("\u2003a", "+15555550100"), ("\u200bb", None), ("\u200b", None))
    ran = leadsweep("leads", "recanonicalise", "--json")
    assert (ran.code, ran.json) == (1, {"leads": 4, "changed": 1, "left": 2})
    assert left(engine) == {("a", None), ("\u2003a", "+15555550100"), ("b", None), ("\u200b", None)}
    assert form(engine) == 1
    with engine.begin() as connection:
        beat(connection, "worker")
        held, stays = connection.execute(
            text("SELECT id FROM leads WHERE external_id IN ('a', E'\\u2003a') ORDER BY id")
        ).scalars()
    checks = {check["name"]: check for check in leadsweep("doctor", "--json").json["checks"]}
    assert not checks["forms"]["ok"]
    assert f"{stays} (as {held})" in checks["forms"]["finding"]


def test_phone_numbers_that_are_none_are_reported_and_not_changed(leadsweep, former, engine):
    former(("a", "N/A"), ("b", "0000000"), ("c", "+15555550100"))
    leadsweep("leads", "recanonicalise")
    checks = {check["name"]: check for check in leadsweep("doctor", "--json").json["checks"]}
    assert checks["forms"]["ok"]
    assert checks["numbers"]["finding"].startswith(
        "2 leads have a phone number that is not a number"
    )
    assert ("a", "N/A") in left(engine)


@pytest.mark.parametrize("how", ["interrupted", "cut"])
def test_who_is_cut_off_is_told_that_what_is_changed_stays_so_and_how_to_go_on(
    leadsweep, former, engine, how
):
    former(*FORMER)
    with engine.begin() as connection:
        connection.execute(text(SLOW_COMMIT.format("leads")))
    with subprocess.Popen(
        [*LEADSWEEP, "leads", "recanonicalise"], stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        pid = wait_for(lambda: committing(engine))
        if how == "interrupted":
            process.send_signal(signal.SIGINT)
        else:
            with engine.connect() as connection:
                connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        assert process.wait(20) == (130 if how == "interrupted" else 1)
        said = process.stderr.read().splitlines()
    told = "what is changed stays changed; to do the rest, run it again"
    assert said[0] == (f"interrupted, but {told}" if how == "interrupted" else told)
