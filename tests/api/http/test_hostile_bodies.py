"""Thousands of bodies that somebody might send, by mistake or not: each is answered properly,
none with a 5xx.

What is accepted must be what a second, independent reading of the JSON says it is.
"""

import json
import random
import re

import pytest
from sqlalchemy import text

from tests.support.counts import many, ran

BODIES = 1250  # in a part

MESSAGES = re.compile(
    r"Request body is (not valid JSON|too large)|Request body must be an object|Forbidden|Unknown"
    r" field: .{0,64}"
    r"|campaignId (is required|must be a string)|leads array (is required|cannot be empty)"
    r"|Maximum 1000 leads per bulk delete request|clientReference .*|dryRun must be a boolean"
    r"|phoneFallback must be true, false or onlyIfUnidentified|phoneRegion must be an ISO 3166"
    r" country code, as DE"
    r"|mode must be delete or archive|schedule.*"
    r"|leads\[\d+\] must be an object|leads\[\d+\]: (externalId|phoneNumber) (must be a string|is"
    r" longer than \d+ characters"
    r"|contains U\+0000|is given twice)|leads\[\d+\]: .{0,64} may be the (externalId|phoneNumber);"
    r" name it so, or leave it out"
    r"|leads\[\d+\]: At least one of phoneNumber or externalId is required",
    re.DOTALL,
)

SCALARS = [
    *(
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1e400",
        "-1e999",
        "1e-999",
        "0.1e5",
        "123456789012345678901234567890",
        "9" * 5000,
        "01",
    ),
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        '""',
        '" "',
        '"\\u0000"',
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\ud83d\\ude00"',
        '"\u00a0"',
    ),
    *(
        '"\\"',
        '"a\nb"',
        "'a'",
        '"a"',
        '"cmp"',
        '"foreign"',
        '"+1 (555) 1"',
        '"0015551"',
        "[]",
        "{}",
        "[[]]",
        '[{"externalId": "a"}]',
    ),
    *(
        '{"externalId": 1}',
        '"' + "x" * 300 + '"',
        '"' + "\u0301" * 255 + '"',
        "undefined",
        "",
        "/* */ 1",
        '"\x7f"',
        '"\x01"',
    ),
]
KEYS = [
    "campaignId",
    "leads",
    "clientReference",
    "phoneFallback",
    "externalId",
    "phoneNumber",
    "dryRun",
    "mode",
    "schedule",
    "runAt",
    "window",
    "",
    "\\u0063ampaignId",
    "__proto__",
]


def one_body(dice):
    """A body: built of odd parts, or a good one that was damaged."""
    kind = dice.randrange(6)
    if kind == 0:
        return build(dice, 0).encode("utf-8", "surrogatepass")
    good = json.dumps(good_body(dice)).encode()
    if kind == 1:
        return good[: dice.randrange(len(good) + 1)]
    if kind == 2:
        damaged = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        return bytes(damaged)
    if kind == 3:
        start, end = sorted(dice.randrange(len(good) + 1) for _ in range(2))
        return good[:start] + good[start:end] * dice.randint(0, 3) + good[end:]
    if kind == 4:
        return one_value_replaced(dice, good.decode()).encode("utf-8", "surrogatepass")
    return dice.randbytes(dice.randrange(40))


def good_body(dice):
    entries = []
    for _ in range(dice.randint(1, 5)):
        entry = {}
        if dice.random() < 0.7:
            entry["externalId"] = dice.choice(["a", " b", "c\u00a0", "x" * 255, "😀"])
        if not entry or dice.random() < 0.4:
            entry["phoneNumber"] = dice.choice(["+101", "00 2", "(1)-2.3", "1" * 32])
        entries.append(entry)
    return {"campaignId": "cmp", "leads": entries} | (
        {"phoneFallback": False} if dice.random() < 0.3 else {}
    )


def build(dice, depth):
    if depth > 4 or dice.random() < 0.4:
        return dice.choice(SCALARS)
    if dice.random() < 0.5:
        return "[" + ",".join(build(dice, depth + 1) for _ in range(dice.randrange(4))) + "]"
    return (
        "{"
        + ",".join(
            f'"{dice.choice(KEYS)}":{build(dice, depth + 1)}' for _ in range(dice.randrange(5))
        )
        + "}"
    )


def one_value_replaced(dice, good):
    values = list(re.finditer(r'"[^"]*"|true|false|\[|\{', good))
    chosen = dice.choice(values)
    return (
        good[: chosen.start()]
        + dice.choice([*SCALARS, *(f'"{key}"' for key in KEYS)])
        + good[chosen.end() :]
    )


@pytest.mark.proof("hostile bodies")
@pytest.mark.parametrize("part", range(many("hostile bodies") // BODIES))
async def test_no_body_gets_more_than_a_proper_refusal(service, part):
    dice = random.Random(part)
    service.app.state.services.settings.rate_limit_submit = (
        service.app.state.services.settings.rate_limit_submit._replace(limit=BODIES)
    )
    accepted = {}
    for _ in range(BODIES):
        sent = one_body(dice)
        answer = await service.post(sent)
        envelope = answer.json()
        if answer.status_code == 202:
            accepted[envelope["data"]["jobId"]] = sent
        else:
            assert answer.status_code in {400, 403, 413}, (answer.status_code, sent)
            assert envelope["success"] is False
            assert envelope["data"] is None
            assert MESSAGES.fullmatch(envelope["error"]), (envelope["error"], sent)
    assert len(accepted) > 50, "the bodies must not all be hopeless"
    check_accepted(service.engine, accepted)
    ran(BODIES)


def check_accepted(engine, accepted):
    with engine.connect() as connection:
        rows = connection.execute(
            text("""
                SELECT job_id, coalesce(written_external_ids, external_ids),
                    coalesce(written_phone_numbers, phone_numbers),
                    phone_fallback_rule, dry_run, mode
                FROM jobs JOIN chunks ON job_id = jobs.id
            """)
        ).all()
    assert {str(row[0]) for row in rows} == set(accepted)
    for job_id, external_ids, numbers, fallback, dry_run, mode in rows:
        read = json.loads(accepted[str(job_id)])
        assert read.keys() <= {
            "campaignId",
            "leads",
            "clientReference",
            "phoneFallback",
            "phoneRegion",
            "dryRun",
            "mode",
            "schedule",
        }
        assert dry_run is (read.get("dryRun") is True)
        assert mode == (read.get("mode") or "delete")
        assert fallback == {None: "always", True: "always", False: "never"}.get(
            read.get("phoneFallback"), "onlyIfUnidentified"
        )
        assert len(read["leads"]) == len(external_ids)
        for entry, external_id, number in zip(read["leads"], external_ids, numbers, strict=True):
            assert external_id in (
                {entry.get("externalId"), None}
                if not (entry.get("externalId") or "").strip()
                else {entry["externalId"]}
            )
            assert number is None or number == entry["phoneNumber"]
