"""Names of columns and of keys: which are the identifiers', which are refused by name, and how a
caller says which is which.
"""

import json

import pytest

from api.files.rows import Manner, read
from api.http.answers import InvalidRequest
from shared.identifiers.columns import Naming
from shared.states import Outcome
from tests.api.files.test_files import (
    CSV,
    NDJSON,
    ROW,
    accepted,
    all_results,
    nothing_is_left,
    upload,
)

EXTERNAL_IDS = [
    "external_id", "ExternalId", "EXTERNALID", "external id", "external-id", "external.id",
    "'externalId'", "“externalId”", "\u2018externalId\u2019", "external\u200bId",
    "\ufeffexternalId", "externalId\u200e", "external\u00a0id", "\uff45xternal\uff29d",
]  # fmt: skip
OF_OTHERS = ["id", "ID", "ext_id", "crm-id", "CRM ID", "Lead Id", "contact_id"]
PHONE_NUMBERS = ["phone_number", "Phone Number", "PHONENUMBER", "'phoneNumber'"]
PHONES_OF_OTHERS = ["phone", "Mobile", "tel", "Tel.", "cell", "msisdn", "telephone"]


def entries(body, media_type=CSV, **manner):
    """(externalId, phoneNumber, outcome) of each entry of a file."""
    found = []
    for batch in read(
        [body.encode() if isinstance(body, str) else body], media_type, Manner(**manner)
    ):
        outcomes = batch.outcomes or [0] * len(batch.identifiers.external_ids)
        found += zip(
            batch.identifiers.external_ids, batch.identifiers.phone_numbers, outcomes, strict=True
        )
    return found


def refusal(body, media_type=CSV, **manner):
    with pytest.raises(InvalidRequest) as refused:
        entries(body, media_type, **manner)
    return refused.value.message


def naming(ignored=(), **columns):
    return {
        "naming": Naming(
            {name: identifier for identifier, name in columns.items()}, frozenset(ignored)
        )
    }


@pytest.mark.parametrize("name", EXTERNAL_IDS + OF_OTHERS)
def test_a_name_that_may_be_the_external_id_is_refused_and_never_leaves_the_phone_alone(name):
    said = name.translate({0x200B: "?", 0xFEFF: "?", 0x200E: "?"})
    header = f"The header has {said}, which may be the externalId; write externalId, or say "
    ways = f"columns=externalId:{said} or ignore={said}"
    assert refusal(f"x,{name},phoneNumber\n1,CRM_9,+15550001\n") == f"line 1: {header}{ways}"
    line = json.dumps({name: "CRM_9", "phoneNumber": "+15550001"}, ensure_ascii=False)
    key = f"the entry has {said}, which may be the externalId; write externalId, or say {ways}"
    assert refusal(f'{{"externalId": "a"}}\n{line}\n', NDJSON) == f"line 2: {key}{ROW}"
    skipped = entries(
        f'{{"externalId": "a"}}\n{line}\n{{"phoneNumber": "+102"}}\n', NDJSON, skip_invalid=True
    )
    assert skipped == [("a", None, 0), (None, None, Outcome.UNREADABLE), (None, "+102", 0)]


@pytest.mark.parametrize("name", PHONE_NUMBERS + PHONES_OF_OTHERS)
def test_a_name_that_may_be_the_phone_number_is_refused_too(name):
    assert f"has {name}, which may be the phoneNumber" in refusal(
        f"externalId,{name}\na,+15550001\n"
    )
    line = json.dumps({"externalId": "a", name: "+15550001"})
    assert f"has {name}, which may be the phoneNumber" in refusal(line, NDJSON)


@pytest.mark.parametrize("name", OF_OTHERS + PHONES_OF_OTHERS)
def test_anothers_name_for_an_identifier_that_has_a_column_is_just_a_column(name):
    assert entries(f"externalId,{name},phoneNumber\na,x,+101\n") == [("a", "+101", 0)]
    line = json.dumps({"externalId": "a", name: "x", "phoneNumber": "+101"})
    assert entries(line, NDJSON) == [("a", "+101", 0)]


@pytest.mark.parametrize("name", ["external_id", "Phone Number"])
def test_a_spelling_of_ours_is_refused_beside_ours(name):
    assert f"has {name}, which may be" in refusal(f"externalId,{name},phoneNumber\na,b,+101\n")
    assert f"has {name}, which may be" in refusal(
        json.dumps({"externalId": "a", name: "b", "phoneNumber": "+101"}), NDJSON
    )


def test_a_name_that_is_there_twice_is_refused():
    assert (
        refusal("externalId,x,externalId\na,b,c\n") == "line 1: The header names externalId twice"
    )
    twice = (
        '{"externalId": "a"}\n{"phoneNumber": "+101", "x": {"phoneNumber": 1}, "phoneNumber":'
        ' "+102"}\n'
    )
    assert refusal(twice, NDJSON) == f"line 2: the entry names phoneNumber twice{ROW}"
    escaped = (
        '{"externalId": "a", "external\\u0049d": "b"}\n{"externalId": "c", "x": {"externalId":'
        ' "d"}}\n'
    )
    assert entries(escaped, NDJSON, skip_invalid=True) == [
        (None, None, Outcome.UNREADABLE),
        ("c", None, 0),
    ]


def test_columns_say_which_column_or_key_is_which():
    crm = naming(externalId="CRM, ID", phoneNumber="mobile", ignored=["fax", "phone"])
    text = '"CRM, ID",mobile,fax,phone,x\na,+101,1,2,3\n,+102,1,2,3\n'
    assert entries(text, **crm) == [("a", "+101", 0), (None, "+102", 0)]
    lines = '{"CRM, ID": "a", "fax": 1, "phone": 2}\n{"mobile": "+102", "x": 3, "CRM, ID": null}\n'
    assert entries(lines, NDJSON, **crm) == [("a", None, 0), (None, "+102", 0)]
    assert entries(
        "phoneNumber,externalId\na,+101\n",
        **naming(externalId="phoneNumber", phoneNumber="externalId"),
    ) == [("a", "+101", 0)]
    assert entries("\u200bexternalId,x\na,b\n", **naming(externalId="externalId")) == [
        ("a", None, 0)
    ], "as people see it"


def test_a_name_that_is_said_and_is_not_there_is_refused():
    for said in (naming(externalId="crmid"), naming(ignored=["crmid"])):
        assert refusal("externalId,phoneNumber\na,+101\n", **said) == (
            "line 1: the file has no column crmid; it has externalId, phoneNumber"
        )
        lines = '{"externalId": "a"}\n{"phoneNumber": "+101"}\n'
        assert (
            refusal(lines, NDJSON, **said)
            == "line 1: no entry has the key crmid; look at how it is written"
        )


def test_two_columns_for_one_identifier_are_refused_unless_one_is_ignored():
    both = (
        "line 1: The header has externalId and crm, which would both be the externalId; leave one"
        " out: ignore=externalId"
    )
    assert refusal("externalId,crm\na,b\n", **naming(externalId="crm")) == both
    assert entries("externalId,crm\na,b\n", **naming(externalId="crm", ignored=["externalId"])) == [
        ("b", None, 0)
    ]
    line = '{"externalId": "a", "crm": "b"}'
    assert "would both be the externalId" in refusal(line, NDJSON, **naming(externalId="crm"))
    assert entries(line, NDJSON, **naming(externalId="crm", ignored=["externalId"])) == [
        ("b", None, 0)
    ]
    assert "names crm twice" in refusal("crm,crm\na,b\n", **naming(externalId="crm"))
    assert "names crm twice" in refusal(
        '{"crm": "a", "crm": "b"}', NDJSON, **naming(externalId="crm")
    )


@pytest.mark.parametrize(
    "header",
    [
        "externalId,name;phoneNumber",
        "name;externalId,phoneNumber",
        "externalId\tx|phoneNumber",
        "externalId,name;phone",
        "id|x,tel",
    ],
)
def test_a_header_that_two_delimiters_could_split_is_refused(header):
    assert refusal(f"{header}\na,b;c\n").startswith(
        "line 1: The header can be split in more than one way: "
    )


def test_another_delimiter_within_quotes_splits_nothing():
    assert entries('externalId,"tel;fax"\na,b\n') == [("a", None, 0)]
    assert entries('externalId;"name, first";phoneNumber\na;b;+101\n') == [("a", "+101", 0)]


def test_the_header_that_was_read_is_shown_and_not_too_much_of_it():
    many = ",".join(f"column {n}\x1b[31m" for n in range(500))
    text = refusal(f"{many}\n")
    assert "it has: column 0?[31m, column 1?[31m, " in text
    assert len(text) < 600
    assert "it begins: " in refusal('"externalId\na\n')


@pytest.mark.timeout(30)
def test_a_header_of_very_many_columns_is_looked_at_in_no_time():
    many = "id," * 300_000 + "externalId"
    assert entries(f"{many}\n{',' * 300_000}a\n") == [("a", None, 0)]
    keys = ",".join(f'"id{n}": 1, "i{n}d": 1' for n in range(30_000))
    assert entries(f'{{{keys}, "id": 2, "externalId": "a"}}\n' * 3, NDJSON) == [("a", None, 0)] * 3


def test_without_a_phone_fallback_a_csv_needs_an_external_id_in_each_row():
    assert refusal("phoneNumber,x\n+101,1\n", needs_external_id=True) == (
        "line 1: phoneFallback=false needs a column externalId; the header has: phoneNumber, x"
    )
    text = "externalId,phoneNumber\na,+101\n ,+102\n"
    expected = f"line 3: externalId is required where phoneFallback is false{ROW}"
    assert refusal(text, needs_external_id=True) == expected
    assert entries(text, needs_external_id=True, skip_invalid=True) == [
        ("a", "+101", 0),
        (" ", "+102", Outcome.NO_IDENTIFIER),
    ]
    assert entries('{"phoneNumber": "+102"}', NDJSON, needs_external_id=True) == [(None, "+102", 0)]


async def test_the_query_says_it_all(service):
    body = b'"CRM, ID";mobile;fax\na;;1\n;+102;2\n'
    said = {"columns": '"externalId:CRM, ID",phoneNumber:mobile', "ignore": "fax"}
    job_id = await accepted(service, body, **said)
    assert [(r["externalId"], r["phoneNumber"]) for r in await all_results(service, job_id)] == [
        ("a", None),
        (None, "+102"),
    ]
    other = await upload(service, body, headers={"idempotency-key": "x"}, **said)
    again = await upload(
        service, body, headers={"idempotency-key": "x"}, **said | {"columns": "externalId:mobile"}
    )
    assert (other.status_code, again.status_code) == (202, 422)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"columns": "crm_id"}, "columns must be written as externalId:NAME,phoneNumber:NAME"),
        ({"columns": "id:crm_id"}, "columns must be written as externalId:NAME,phoneNumber:NAME"),
        (
            {"columns": ""},
            "columns must be names separated by commas, those that have commas in quotes",
        ),
        ({"columns": 'externalId:"a'}, 'line 1: the file has no column "a; it has externalId'),
        (
            {"columns": '"externalId:a'},
            "columns must be names separated by commas, those that have commas in quotes",
        ),
        (
            {"columns": "externalId:a,externalId:b"},
            "columns and ignore must name each identifier and each column once",
        ),
        (
            {"columns": "externalId:a", "ignore": "a"},
            "columns and ignore must name each identifier and each column once",
        ),
        (
            {"columns": "externalId:a,phoneNumber:a"},
            "columns and ignore must name each identifier and each column once",
        ),
        (
            {"ignore": "a,,b"},
            "ignore must be names separated by commas, those that have commas in quotes",
        ),
        ({"ignore": "a"}, "line 1: the file has no column a; it has externalId"),
        ({"phoneFallback": "never"}, "phoneFallback must be true, false or onlyIfUnidentified"),
        ({"phoneRegion": "de"}, "phoneRegion must be an ISO 3166 country code, as DE"),
    ],
)
async def test_what_is_said_wrongly_is_refused(service, query, error):
    answer = await upload(service, b"externalId\na\n", **query)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert nothing_is_left(service.engine)


async def test_a_file_without_an_external_id_column_needs_the_phone_fallback(service):
    answer = await upload(service, b"phoneNumber\n+102\n", phoneFallback="false")
    assert answer.status_code == 400
    assert "phoneFallback=false needs a column externalId" in answer.json()["error"]
    job_id = await accepted(
        service, b"externalId,phoneNumber\na,\n,+102\n", phoneFallback="false", onInvalid="skip"
    )
    await service.work()
    assert await service.results(job_id) == [
        ("a", "deleted", "externalId", None),
        ("+102", "invalid", None, "noIdentifier"),
    ]
    for rule in (True, "onlyIfUnidentified"):
        job_id = await accepted(
            service, b"phoneNumber\n+102\n", phoneFallback=str(rule).replace("True", "true")
        )
        assert (await service.job(job_id))["phoneFallback"] == rule
