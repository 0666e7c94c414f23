"""What we give out can be sent back, in every format and mode, and means the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.jobs.results import CSV_HEAD, as_csv, as_ndjson
from shared.identifiers.canonical import canonical_external_id
from shared.states import Outcome
from tests.api.files.test_file_names import entries
from tests.api.files.test_files import CSV, NDJSON, accepted, all_results

NASTY = [
    "'-17", "-17", "''-17", '="x"', "'=\"x\"", "=1+1", 'say "hi"', "a,b;c|d\te", "two\r\nlines",
    "one\rtwo", ' , "x" ', "[7]", "{", "\u2003wide\u2003", "\u202aembedded\u202c", "\\N", "NULL",
    "'", '"', "sep=;", "+49 1", "\uff1dx", " =1+1", "' =1+1", "\u00a0+1", "\ufeff@x",
]  # fmt: skip
PIECES = st.sampled_from(
    [
        "'",
        '"',
        '""',
        "=",
        '="',
        "+",
        "-",
        "@",
        ",",
        ";",
        "|",
        "\t",
        "\r",
        "\n",
        " ",
        "\u00a0",
        "\u200b",
        "a",
        "1",
    ]
)
IDS = st.lists(PIECES, min_size=1, max_size=6).map("".join).filter(canonical_external_id)
PHONES = st.sampled_from(["+102", "00 102", "+1 (555) 01-02", None])
DETAILS = st.sampled_from([None, 'constraint "odd, one"\n of calls', "function keep"])
ENTRIES = st.lists(
    st.tuples(IDS | st.none(), PHONES, st.sampled_from(list(Outcome)), DETAILS),
    min_size=1,
    max_size=8,
)


@given(ENTRIES)
def test_results_of_every_outcome_come_back_as_they_were(found):
    found = [entry for entry in found if entry[0] or entry[1]]
    results = [(index, *entry) for index, entry in enumerate(found)]
    sent = [(external_id, number, 0) for external_id, number, *_ in found]
    for content, media_type in (
        (CSV_HEAD + as_csv(results, raw=False), CSV),
        (CSV_HEAD + as_csv(results, raw=True), CSV),
        (as_ndjson(results), NDJSON),
    ):
        assert entries(content, media_type) == sent, content


@pytest.mark.parametrize("options", [{}, {"dryRun": "true"}, {"mode": "archive"}])
async def test_a_job_of_its_own_results_has_the_same_entries(service, options):
    rows = [{"externalId": one, "phoneNumber": "+102"} for one in NASTY] + [
        {"phoneNumber": "+1 (02)"}, {"externalId": "a"}, {"externalId": "a"}, {},
        {"phoneNumber": "N/A"},
    ]  # fmt: skip
    first = await accepted(
        service,
        "".join(f"{json.dumps(row)}\n" for row in rows).encode(),
        NDJSON,
        onInvalid="skip",
        **options,
    )
    await service.work()
    expected = [(r["externalId"], r["phoneNumber"]) for r in await all_results(service, first)]
    assert expected[: len(NASTY)] == [(one, "+102") for one in NASTY]
    for media_type, query in ((CSV, ""), (CSV, "?raw=1"), (NDJSON, "")):
        headers = {"x-api-key": service.write, "accept": media_type}
        answer = await service.http.get(f"/api/v1/jobs/{first}/results{query}", headers=headers)
        again = await accepted(service, answer.content, media_type, onInvalid="skip", **options)
        found = await all_results(service, again)
        assert [(r["externalId"], r["phoneNumber"]) for r in found] == expected
        assert [r["outcome"] == "invalid" for r in found] == [
            not (e or "02" in (n or "")) for e, n in expected
        ]
