"""Companies, campaigns and keys from the command line: what is made, what is told, and which line
an error is.
"""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text

from shared.database.models import api_keys, campaigns, companies

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def acme(leadsweep):
    """The command, with a company and a campaign to begin with."""
    leadsweep("companies", "create", "acme")
    leadsweep("campaigns", "create", "spring", "--company", "acme")
    return leadsweep


def make_key(leadsweep, *options):
    return leadsweep("keys", "create", "--company", "acme", "--scope", "write", *options, "--json")


def stored_keys(engine):
    with engine.connect() as connection:
        return connection.execute(select(api_keys).order_by(api_keys.c.created_at)).all()


def test_companies_and_campaigns_are_made_as_told(leadsweep, engine):
    assert leadsweep("companies", "create", "acme", "--name", "Acme, Inc. [x]", "--json").json == {
        "id": "acme",
        "name": "Acme, Inc. [x]",
    }
    made = leadsweep("campaigns", "create", "spring", "--company", "acme")
    assert made == (0, "created campaign spring of company acme\n", "")
    with engine.connect() as connection:
        assert connection.execute(select(companies.c.id, companies.c.name)).all() == [
            ("acme", "Acme, Inc. [x]")
        ]
        assert connection.execute(select(campaigns)).all() == [("spring", "acme", "", None, None)]


def test_an_id_that_is_taken_fails_and_changes_nothing(acme, engine):
    ran = acme("companies", "create", "acme", "--name", "other")
    assert (ran.code, ran.out) == (1, "")
    assert ran.error == "company acme already exists; choose another id"
    acme("companies", "create", "other")
    assert (
        "campaign spring already exists"
        in acme("campaigns", "create", "spring", "--company", "other").error
    )
    with engine.connect() as connection:
        assert connection.scalar(select(companies.c.name).where(companies.c.id == "acme")) == ""
        assert connection.execute(select(campaigns.c.company_id)).all() == [("acme",)]


def test_an_unknown_company_or_campaign_is_named_with_the_command_that_makes_it(acme):
    assert acme("campaigns", "create", "x", "--company", "nobody").error == (
        "company nobody does not exist; create it: leadsweep companies create nobody"
    )
    assert (
        "companies create nobody"
        in acme("keys", "create", "--company", "nobody", "--scope", "read").error
    )
    assert "companies create nobody" in acme("keys", "list", "--company", "nobody").error
    assert "campaigns create x --company acme" in make_key(acme, "--campaign", "x").error
    assert "campaigns create x --company" in acme("leads", "count", "--campaign", "x").error


def test_a_campaign_of_another_company_is_no_campaign_for_a_key(acme):
    acme("companies", "create", "other")
    ran = acme("keys", "create", "--company", "other", "--scope", "read", "--campaign", "spring")
    assert ran.error == "campaign spring belongs to company acme, not to other"


def test_an_id_that_nobody_could_type_again_is_refused(leadsweep):
    for word in ("", " ", " x", "x ", "a\nb", "a\x1bb", "x" * 256, "a\udcff"):
        ran = leadsweep("companies", "create", word)
        assert ran.code == 2, word
        assert "Invalid value for 'ID'" in ran.error


def test_the_key_alone_is_on_stdout_and_only_its_hash_is_stored(acme, engine):
    ran = acme("keys", "create", "--company", "acme", "--scope", "read")
    key = ran.out.strip()
    assert re.fullmatch(r"lsk_[\w-]{32}", key)
    [row] = stored_keys(engine)
    assert row.hash == hashlib.sha256(key.encode()).digest()
    assert str(row.id) in ran.err
    assert key not in ran.err


def test_json_of_a_new_key_says_all_about_it(acme, engine):
    made = make_key(
        acme, "--campaign", "spring", "--name", "nightly", "--rate-limit-submit", "5/minute"
    ).json
    [row] = stored_keys(engine)
    assert (made.pop("id"), hashlib.sha256(made.pop("key").encode()).digest()) == (
        str(row.id),
        row.hash,
    )
    assert TIME.fullmatch(made.pop("createdAt"))
    assert made == {
        "companyId": "acme",
        "campaignId": "spring",
        "scope": "write",
        "name": "nightly",
        "expiresAt": None,
        "rateLimitSubmit": "5/minute",
        "rateLimitRead": None,
    }
    assert (row.campaign_id, row.scope, row.rate_limit_submit, row.rate_limit_read) == (
        "spring",
        "write",
        "5/minute",
        None,
    )


def test_an_expiry_may_be_a_duration(acme, engine):
    durations = {
        "30m": timedelta(minutes=30),
        "12h": timedelta(hours=12),
        "90d": timedelta(days=90),
        "4w": timedelta(weeks=4),
    }
    for written in durations:
        make_key(acme, "--expires", written)
    for key, lasts in zip(stored_keys(engine), durations.values(), strict=True):
        assert timedelta(0) <= key.expires_at - key.created_at - lasts < timedelta(seconds=1)


def test_an_expiry_may_be_a_time_and_is_utc_unless_it_says_otherwise(acme):
    for written in (
        "2500-01-31T12:00:00Z",
        "2500-01-31T12:00:00",
        "2500-01-31T14:00:00+02:00",
        "2500-01-31 12:00",
    ):
        assert make_key(acme, "--expires", written).json["expiresAt"] == "2500-01-31T12:00:00.000Z"


def test_an_expiry_that_is_none_is_a_usage_error(acme, engine):
    for written in (
        "",
        "soon",
        "0d",
        "-1d",
        "99999999d",
        "1y",
        "2030-02-30",
        "10000-01-01",
        "9999-01-01",
        "0001-01-01",
    ):
        assert make_key(acme, "--expires", written).code == 2, written
    assert stored_keys(engine) == []


def test_a_key_that_has_expired_before_it_is_made_is_refused(acme, engine):
    ran = make_key(acme, "--expires", "2020-01-01T00:00:00Z")
    assert ran.code == 1
    assert "--expires is in the past" in ran.error
    assert stored_keys(engine) == []


def test_a_rate_that_the_api_could_not_read_is_a_usage_error(acme):
    ran = make_key(acme, "--rate-limit-read", "1000 per hour")
    assert ran.code == 2
    assert "write a rate as 1000/hour" in ran.error


def test_the_list_shows_state_and_last_use_and_never_the_key(acme, engine):
    made = [make_key(acme, "--name", name).json for name in ("used", "expired", "revoked")]
    acme("keys", "revoke", made[2]["id"])
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE api_keys SET last_used_at = '2026-01-01 02:00:00+00' WHERE name = 'used'")
        )
        connection.execute(
            text("UPDATE api_keys SET expires_at = created_at WHERE name = 'expired'")
        )
    ran = acme("keys", "list", "--company", "acme", "--json")
    items = ran.json["items"]
    assert [(item["name"], item["state"]) for item in items] == [
        ("used", "active"),
        ("expired", "expired"),
        ("revoked", "revoked"),
    ]
    assert [item["id"] for item in items] == [key["id"] for key in made]
    assert [item["lastUsedAt"] for item in items] == ["2026-01-01T02:00:00.000Z", None, None]
    assert TIME.fullmatch(items[2]["revokedAt"])
    table = acme("keys", "list").out
    assert len(table.splitlines()) == 4
    assert "2026-01-01 02:00Z" in table
    assert not any(key["key"] in table + ran.out for key in made)


def test_the_list_is_of_one_company_or_all(acme):
    acme("companies", "create", "other")
    make_key(acme)
    assert len(acme("keys", "list", "--json").json["items"]) == 1
    assert acme("keys", "list", "--company", "other", "--json").json == {"items": []}
    assert acme("keys", "list", "--company", "other").out == ""


def test_revoking_again_does_no_harm_and_keeps_the_first_time(acme, engine):
    key = make_key(acme).json
    first = acme("keys", "revoke", key["id"], "--json").json
    assert first["id"] == key["id"]
    again = acme("keys", "revoke", key["id"])
    assert (again.code, again.err) == (0, "")
    assert f"was already revoked, at {first['revokedAt']}" in again.out
    assert datetime.now(UTC) - stored_keys(engine)[0].revoked_at < timedelta(minutes=1)


def test_revoking_what_is_no_key_fails(acme):
    unknown = uuid4()
    ran = acme("keys", "revoke", unknown)
    assert (ran.code, ran.error) == (
        1,
        f"no key has the id {unknown}; the ids are in: leadsweep keys list",
    )
    assert acme("keys", "revoke", "lsk_x").code == 2
    assert UUID(make_key(acme).json["id"])


def test_leads_are_counted_campaign_by_campaign(acme, engine):
    acme("campaigns", "create", "autumn", "--company", "acme")
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO leads (campaign_id, external_id) SELECT 'spring', n FROM "
                "generate_series(1, 7) n"
            )
        )
    assert acme("leads", "count", "--campaign", "spring") == (0, "7\n", "")
    assert acme("leads", "count", "--campaign", "autumn", "--json").json == {"count": 0}


def test_a_campaign_may_have_an_off_peak_window_of_its_own(acme):
    shown = acme("campaigns", "off-peak", "spring")
    assert shown == (0, "off-peak jobs of campaign spring run in the window of the server\n", "")
    made = acme("campaigns", "off-peak", "spring", "20:00-04:00 fri,sat Europe/Berlin", "--json")
    assert made.json == {"id": "spring", "offPeak": "20:00-04:00 fri-sat Europe/Berlin"}
    assert acme("campaigns", "off-peak", "spring", "--json").json == made.json
    assert acme("campaigns", "off-peak", "spring", "--clear", "--json").json["offPeak"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["spring", "nightly"], 2, "write a window as 22:00-06:00 mon-sun Europe/Berlin"),
        (["spring", "22:00-06:00 Mars/Olympus"], 2, "unknown time zone: Mars/Olympus"),
        (["spring", "22:00-06:00", "--clear"], 2, "not both"),
        (["summer", "22:00-06:00"], 1, "campaign summer does not exist"),
    ],
)
def test_a_window_that_cannot_be_is_refused_in_one_line(acme, arguments, code, words):
    ran = acme("campaigns", "off-peak", *arguments)
    assert ran.code == code
    assert words in ran.error


def test_companies_and_campaigns_are_listed_by_their_ids(leadsweep):
    for group in ("companies", "campaigns"):
        assert leadsweep(group, "list", "--json").json == {"items": []}
        ran = leadsweep(group, "list")
        assert (ran.code, ran.out) == (0, "")
        assert ran.err.startswith(f"no {group}; make one: leadsweep {group} create ID")
    leadsweep("companies", "create", "b", "--name", "Bee & Co [x]")
    leadsweep("companies", "create", "a")
    for name, company in {"z": "a", "y": "b", "x": "b"}.items():
        leadsweep("campaigns", "create", name, "--company", company, "--name", "spring")
    leadsweep("campaigns", "off-peak", "x", "22:00-06:00 fri Europe/Berlin")
    leadsweep("campaigns", "phone-region", "x", "DE")
    assert leadsweep("companies", "list", "--json").json["items"] == [
        {"id": "a", "name": ""},
        {"id": "b", "name": "Bee & Co [x]"},
    ]
    lines = leadsweep("companies", "list").out.splitlines()
    assert [line.rstrip().split(maxsplit=1) for line in lines] == [
        ["ID", "NAME"],
        ["a"],
        ["b", "Bee & Co [x]"],
    ]
    items = leadsweep("campaigns", "list", "--json").json["items"]
    assert [(item["companyId"], item["id"]) for item in items] == [
        ("a", "z"),
        ("b", "x"),
        ("b", "y"),
    ]
    assert items[1] == {
        "id": "x",
        "companyId": "b",
        "name": "spring",
        "offPeak": "22:00-06:00 fri Europe/Berlin",
        "phoneRegion": "DE",
    }
    of_one = leadsweep("campaigns", "list", "--company", "b").out.splitlines()
    assert [line.split()[:2] for line in of_one[1:]] == [["x", "b"], ["y", "b"]]
    assert "22:00-06:00 fri Europe/Berlin" in of_one[1]
    assert "companies create nobody" in leadsweep("campaigns", "list", "--company", "nobody").error


def test_webhooks_are_listed_without_their_secrets_and_others_words_do_not_steer_the_terminal(
    acme, engine
):
    assert "POST /api/v1/webhooks" in acme("webhooks", "list").err
    acme("companies", "create", "other")
    ids = [str(uuid4()) for _ in range(3)]
    with engine.begin() as connection:
        added = text("""
            INSERT INTO webhooks
                (id, company_id, url, events, secret, description, enabled, disabled_reason,
                    created_at)
            VALUES (:id, :company, 'https://crm.example.com/', '{job.completed,job.failed}',
                'locked', :description,
                CAST(:reason AS text) IS NULL, :reason, clock_timestamp())
        """)
        for id_, company, reason, description in zip(
            ids,
            ("other", "acme", "acme"),
            (None, None, "410"),
            ("", "a\x1b[2Jb\nc", ""),
            strict=True,
        ):
            values = {"id": id_, "company": company, "reason": reason, "description": description}
            connection.execute(added, values)
    items = acme("webhooks", "list", "--json").json["items"]
    assert [item["id"] for item in items] == ids
    assert TIME.fullmatch(items[1].pop("createdAt"))
    assert items[1] == {
        "id": ids[1],
        "companyId": "acme",
        "url": "https://crm.example.com/",
        "events": ["job.completed", "job.failed"],
        "description": "a\x1b[2Jb\nc",
        "enabled": True,
        "disabledReason": None,
    }
    lines = acme("webhooks", "list", "--company", "acme").out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", *ids[1:]]
    assert r"a\x1b[2Jb\nc" in lines[1]
    assert "disabled: 410" in lines[2]
    assert "locked" not in str(items) + str(lines)


def test_leads_are_listed_with_their_metadata_up_to_a_limit(acme, engine):
    assert (
        acme("leads", "list", "--campaign", "spring").err
        == "no leads; load some: leadsweep leads import FILE --campaign spring\n"
    )
    rows = "externalId,phoneNumber,city\nb,+102,Rome\n,+101,\na,,Paris\n,+100,\n"
    acme("leads", "import", "-", "--campaign", "spring", stdin=rows)
    items = acme("leads", "list", "--campaign", "spring", "--json").json["items"]
    assert [(item["externalId"], item["phoneNumber"]) for item in items] == [
        ("a", None),
        ("b", "+102"),
        (None, "+100"),
        (None, "+101"),
    ]
    assert items[1]["metadata"] == {"city": "Rome"}
    assert TIME.fullmatch(items[0]["createdAt"])
    for limit, shown in {1: ["a"], 3: ["a", "b", "+100"], 4: ["a", "b", "+100", "+101"]}.items():
        ran = acme("leads", "list", "--campaign", "spring", "--limit", limit)
        assert [line.split()[1] for line in ran.out.splitlines()[1:]] == shown
        assert ran.err == ("" if limit == 4 else "there are more; --limit N shows them\n")
        assert (
            len(
                acme("leads", "list", "--campaign", "spring", "--limit", limit, "--json").json[
                    "items"
                ]
            )
            == limit
        )
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO leads (campaign_id, external_id) VALUES ('spring', E'0\\x1b[2J')")
        )
    assert "\x1b" not in acme("leads", "list", "--campaign", "spring").out
    assert "campaigns create x" in acme("leads", "list", "--campaign", "x").error
