"""How jobs look: every line of a list within 100 columns, whatever they have; each mode by its own
name and words.
"""

import json
import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leadsweep import Job
from leadsweep.commands.jobs.view import listed, show_job, summary
from leadsweep.commands.jobs.watcher import _Progress
from leadsweep.models import WaitingFor

NOW = datetime(2026, 7, 1, 12, 30, tzinfo=UTC)
JOB_ID = "0672b3e8-d003-46ab-a5c2-01345eedfd1d"
MODES = [
    ("delete", False),
    ("archive", False),
    ("restore", False),
    ("delete", True),
    ("archive", True),
]
STATES = ["scheduled", "queued", "running", "paused", "completed", "failed", "cancelled"]


def job(**facts):
    counts = dict.fromkeys(
        (
            "total",
            "processed",
            "deleted",
            "would_delete",
            "restored",
            "conflict",
            "not_found",
            "unprocessed",
            "invalid",
        ),
        0,
    )
    missing = dict.fromkeys(
        (
            "requested",
            "client_reference",
            "source_job_id",
            "error",
            "schedule",
            "callback_url",
            "max_leads_per_second",
            "run_at",
            "started_at",
            "finished_at",
            "identifiers_purged_at",
        )
    )
    usual = {
        "job_id": JOB_ID,
        "campaign_id": "spring",
        "status": "completed",
        "mode": "delete",
        "dry_run": False,
    }
    usual |= {"phone_fallback": True, "created_at": NOW, "history": [], "results_url": "/r"}
    return Job(**(counts | missing | usual | facts))


def columns(text):
    """As a terminal counts them."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def rows(*jobs):
    """The cells of each line, below the head, of jobs without blanks in their words."""
    head, *lines = listed(jobs, NOW)
    assert head.split()[:7] == ["JOB", "STATUS", "MODE", "TOTAL", "DONE", "CREATED", "UTC"]
    return [line.split() for line in lines]


def test_each_mode_is_told_and_what_it_counts():
    found = rows(
        job(total=5, deleted=1),
        job(mode="archive", total=5, deleted=2),
        job(mode="restore", total=5, restored=3),
        job(dry_run=True, total=5, would_delete=4),
        job(mode="archive", dry_run=True, total=5, would_delete=5),
    )
    assert [cells[2:5] for cells in found] == [
        ["delete", "5", "1"],
        ["archive", "5", "2"],
        ["restore", "5", "3"],
        ["preview", "5", "4"],
        ["preview-arch", "5", "5"],
    ]


def test_millions_are_told_in_short_and_never_as_more_than_they_are():
    counts = {
        999_999: "999,999",
        1_000_000: "1.00M",
        4_999_999: "4.99M",
        5_000_000: "5.00M",
        123_456_789: "123.45M",
    }
    assert [cells[4] for cells in rows(*(job(deleted=count) for count in counts))] == list(
        counts.values()
    )


def test_a_time_is_told_to_the_minute_and_one_of_long_ago_by_its_year():
    found = rows(
        job(),
        job(created_at=NOW - timedelta(days=179)),
        job(created_at=datetime(2025, 6, 30, 23, 59, tzinfo=UTC)),
    )
    assert [cells[5] for cells in found] == ["07-01", "01-03", "2025-06-30"]
    assert [cells[6] for cells in found] == ["12:30", "12:30", "spring"]


def test_long_names_share_what_room_there_is_and_short_ones_are_whole():
    found = rows(
        job(campaign_id="c" * 40, client_reference="r" * 40), job(client_reference="short")
    )
    assert found[0][-2:] == ["c" * 10 + "…", "r" * 10 + "…"]
    assert found[1][-2:] == ["spring", "short"]
    assert rows(job(campaign_id="c" * 40, client_reference="ref"))[0][-2:] == [
        "c" * 12 + "…",
        "ref",
    ]
    assert rows(job(client_reference="r" * 40))[0][-2:] == ["spring", "r" * 13 + "…"]


def test_a_wide_character_takes_two_columns_and_is_never_halved():
    wide, narrow = listed(
        [
            job(campaign_id="春" * 40, client_reference="x"),
            job(campaign_id="c", client_reference="x"),
        ],
        NOW,
    )[1:]
    assert "春春春春春…" in wide
    assert columns(wide) == columns(narrow) <= 100, "the reference begins in the same column"


LOCKED = WaitingFor(
    reason="locked",
    since=NOW,
    leads=None,
    sqlstate="55P03",
    detail='the table "odd\x1b[2J" is locked',
)
TRIED_AGAIN = "1 lead is locked by somebody else in the database, and tried again"
SOME_LOCKED = WaitingFor(reason="locked", since=None, leads=1, sqlstate=None, detail=TRIED_AGAIN)


def test_what_a_job_waits_for_is_told_in_words(capsys):
    show_job(job(status="running", total=2, waiting_for=LOCKED), as_json=False)
    assert (
        'waits        the table "odd\\x1b[2J" is locked, since 2026-07-01T12:30:00.000Z\n'
        in capsys.readouterr().out
    )
    show_job(job(status="running", total=2, waiting_for=SOME_LOCKED), as_json=False)
    assert f"waits        {TRIED_AGAIN}\n" in capsys.readouterr().out
    show_job(job(status="running", total=2), as_json=False)
    assert "waits" not in capsys.readouterr().out
    show_job(job(status="running", total=2, waiting_for=SOME_LOCKED), as_json=True)
    said = json.loads(capsys.readouterr().out)["waitingFor"]
    assert (said["reason"], said["leads"], said["since"]) == ("locked", 1, None)


def test_who_watches_is_told_at_once_what_the_job_waits_for_and_when_it_goes_on(capsys):
    progress = _Progress()
    for waiting_for in (None, None, LOCKED, LOCKED, None):
        progress.show(job(status="running", total=2, waiting_for=waiting_for))
    assert capsys.readouterr().err.splitlines() == [
        "running  0 of 2 (0 %)",
        'running  0 of 2 (0 %)  waits: the table "odd\\x1b[2J" is locked',
        "running  0 of 2 (0 %)",
    ]


def test_what_others_wrote_does_not_steer_the_terminal_and_is_counted_as_it_is_shown():
    (line,) = listed([job(campaign_id="a\x1b[2J\nb", client_reference="\u200b" * 99)], NOW)[1:]
    assert r"a\x1b[2J\nb" in line
    assert line.isprintable()
    assert columns(line) <= 100


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda kind, status, count, campaign, reference, age: job(
                mode=kind[0],
                dry_run=kind[1],
                status=status,
                total=count,
                deleted=count,
                created_at=NOW - timedelta(days=age),
                campaign_id=campaign,
                client_reference=reference,
            ),
            st.sampled_from(MODES),
            st.sampled_from(STATES),
            st.integers(0, 2**31 - 1),
            st.text(max_size=300),
            st.none()
            | st.text(st.sampled_from("漢字ｱ한a…\u0301"), max_size=300)
            | st.text(max_size=300),
            st.integers(0, 999),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_every_line_fits_100_columns_with_the_id_whole(jobs):
    lines = listed(jobs, NOW)
    assert len(lines) == len(jobs) + 1
    for line in lines:
        assert columns(line) <= 100
        # What names are spelt with stays: blanks as wide as others, and what joins letters.
        assert {character for character in line if not character.isprintable()} <= set(
            "\u00a0\u3000\u200c\u200d"
        )
    for one, line in zip(jobs, lines[1:], strict=True):
        mode = {False: one.mode, True: "preview-arch" if one.mode == "archive" else "preview"}[
            one.dry_run
        ]
        assert line.split()[:3] == [JOB_ID, one.status, mode]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"deleted": 1, "not_found": 1}, "completed: 1 deleted, 1 not found, of 2"),
        (
            {"mode": "archive", "deleted": 1, "unprocessed": 1},
            "completed: 1 archived, 1 unprocessed, of 2",
        ),
        (
            {"mode": "archive", "dry_run": True, "would_delete": 2},
            "completed: 2 would archive, of 2",
        ),
        ({"dry_run": True, "would_delete": 2}, "completed: 2 would delete, of 2"),
        (
            {"mode": "restore", "restored": 1, "conflict": 1},
            "completed: 1 restored, 1 conflict, of 2",
        ),
    ],
)
def test_a_summary_says_what_its_mode_did(facts, said):
    assert summary(job(total=2, processed=2, **facts)) == said
