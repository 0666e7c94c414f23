"""Files that LibreOffice, pandas, Polars, DuckDB, PyArrow, SheetJS and others wrote: what becomes
of each row of them.

The campaign has just the leads of the file's source, so what is not deleted was lost by the tool.
docs/reference/files.md tells what each tool does; scripts/real_files makes the files anew.
"""

import csv
import re
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.api.files.test_files import CSV, NDJSON, accepted, all_results, nothing_is_left, upload
from tests.support.jobs import add_leads

FILES = Path(__file__).parents[2] / "real_files"

LACKS_PLUS, NO_LEAD, SPREADSHEET = (
    "notFound lacksPlus",
    "notFound noSuchLead",
    "notFound spreadsheetNumber",
)
NO_NUMBER, NOTHING, UNREADABLE = (
    "invalid spreadsheetNumber",
    "invalid noIdentifier",
    "invalid unreadable",
)

# What comes of rows other than "deleted", by the identifier that the source has; the blank row of
# mixed.csv is "".
OPENED = {
    "007": NO_LEAD,
    "1E5": NO_LEAD,  # 100000
    "=1+1": NO_LEAD,  # 2
    "12345678901234567890": SPREADSHEET,
    "+12025550102": LACKS_PLUS,
}
CAST = OPENED | {"=1+1": "deleted", "12345678901234567890": NO_LEAD}
EXPONENTS = dict.fromkeys(("1E5", "2E7", "12345"), SPREADSHEET)
PANDAS_GAPS = dict.fromkeys(("12345", "007", "9007199254740993"), SPREADSHEET) | dict.fromkeys(
    ("+12025550101", "+442079460105"), NO_NUMBER
)
NOT_TEXT = dict.fromkeys(
    ("CRM_001", "007", "12345", "1E5", "-17", "12345678901234567890", "+12025550102"), UNREADABLE
)

READ = [
    ("libreoffice/columns-read-as-text.csv", "mixed", {}),
    ("libreoffice/opened-and-saved.csv", "mixed", OPENED),
    ("libreoffice/semicolons-and-quotes.csv", "mixed", OPENED),
    ("libreoffice/special-numbers.csv", "mixed", OPENED | {"1E5": SPREADSHEET, "MAR-12": NO_LEAD}),
    (
        "libreoffice/numbers-with-gaps.csv",
        "numbers-with-gaps",
        {
            "007": NO_LEAD,
            "9007199254740993": SPREADSHEET,
            "+12025550101": LACKS_PLUS,
            "+442079460105": LACKS_PLUS,
        },
    ),
    ("pandas/numbers.csv", "numbers", {"007": LACKS_PLUS}),
    ("pandas/numbers-and-index.csv", "numbers", {"007": LACKS_PLUS}),
    ("pandas/numbers-with-gaps.csv", "numbers-with-gaps", PANDAS_GAPS),
    ("pandas/numbers.ndjson", "numbers-with-gaps", dict.fromkeys(PANDAS_GAPS, UNREADABLE)),
    ("pandas/exponents.csv", "exponents", EXPONENTS),
    ("pandas/text-for-excel.csv", "mixed", {}),
    ("pandas/text.ndjson", "mixed", {"": NOTHING}),
    ("polars/numbers.csv", "numbers", {}),  # 7 finds nothing, the number does
    (
        "polars/plus-below.csv",
        "plus-below",
        {"+12025550101": LACKS_PLUS, "+442079460105": LACKS_PLUS},
    ),
    (
        "polars/numbers.ndjson",
        "numbers",
        dict.fromkeys(("12345", "007", "9007199254740993"), UNREADABLE),
    ),
    ("polars/exponents.csv", "exponents", EXPONENTS),
    ("polars/quoted.csv", "mixed", {}),
    ("duckdb/numbers.csv", "numbers", {}),
    ("duckdb/exponents.csv", "exponents", EXPONENTS),
    ("duckdb/pipes.csv", "mixed", {}),
    ("duckdb/text.ndjson", "mixed", {"": NOTHING}),
    ("pyarrow/numbers.csv", "numbers", {"007": NO_LEAD}),
    (
        "pyarrow/numbers-with-gaps.csv",
        "numbers-with-gaps",
        {"007": NO_LEAD, "+12025550101": NO_NUMBER, "+442079460105": NO_NUMBER},
    ),
    ("pyarrow/exponents.csv", "exponents", {"1E5": NO_LEAD, "2E7": NO_LEAD}),
    ("pyarrow/mixed.csv", "mixed", {}),
    ("sheetjs/read-and-written.csv", "mixed", {}),
    ("sheetjs/through-objects.csv", "mixed", OPENED | {"=1+1": NOTHING}),
    ("sheetjs/through-objects.ndjson", "mixed", NOT_TEXT | {"=1+1": NOTHING}),
    ("csv-parse/cast.csv", "mixed", CAST),
    (
        "csv-parse/cast-large-ids.csv",
        "numbers",
        {"007": LACKS_PLUS, "9007199254740993": LACKS_PLUS},
    ),
    ("csv-parse/escaped-formulas.csv", "mixed", {}),
    ("csv-parse/carriage-returns.csv", "mixed", {}),
    ("json2csv/excel-strings.csv", "mixed", {}),
    ("export-to-csv/sep-line.csv", "mixed", {}),
]

REFUSED = [
    ("libreoffice/leads.xlsx", "xlsx.*CSV"),
    ("libreoffice/leads.xls", r"\bxls\b.*CSV"),
    ("libreoffice/leads.ods", "(ods|OpenDocument|zip).*CSV"),
    ("libreoffice/leads.html", "HTML.*CSV"),
    ("libreoffice/utf-16.csv", "UTF-16.*UTF-8"),
    ("pandas/leads.xlsx", "xlsx.*CSV"),
    ("pandas/leads.zip", "zip"),
    ("pandas/text.json", "JSON array"),
    ("pandas/utf-16.csv", "UTF-16.*UTF-8"),
    ("pandas/utf-16-without-mark.csv", "UTF-16.*UTF-8"),
    ("polars/leads.parquet", "Parquet.*CSV"),
    ("polars/leads.xlsx", "xlsx.*CSV"),
    ("polars/text.json", "JSON array"),
    ("duckdb/leads.parquet", "Parquet.*CSV"),
    ("duckdb/text.json", "JSON array"),
    ("pyarrow/leads.parquet", "Parquet.*CSV"),
    ("sheetjs/leads.html", "HTML.*CSV"),
    ("sheetjs/leads.xls", r"\bxls\b.*CSV"),
    ("sheetjs/leads.xlsx", "xlsx.*CSV"),
    ("sheetjs/unicode-text.csv", "UTF-16.*UTF-8"),
]


def media_type_of(name):
    return NDJSON if name.endswith(".ndjson") else CSV


def pairs_of(source):
    """(externalId, phoneNumber) of each row of a source."""
    with (FILES / "source" / f"{source}.csv").open(newline="") as file:
        return [(row["externalId"], row["phoneNumber"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(("name", "source", "otherwise"), READ, ids=[name for name, _, _ in READ])
async def test_a_row_that_a_tool_changed_is_told_apart_and_any_other_is_deleted(
    service, name, source, otherwise
):
    pairs = pairs_of(source)
    blank_row_kept = "" in otherwise
    written = [
        external_id or number
        for external_id, number in pairs
        if external_id or number or blank_row_kept
    ]
    expected = [f"{one}: {otherwise.get(one, 'deleted')}" for one in written]
    with service.engine.begin() as connection:
        connection.execute(text("DELETE FROM leads WHERE campaign_id = 'cmp'"))
        add_leads(
            connection, [(one or None, number or None) for one, number in pairs if one or number]
        )
    body = (FILES / name).read_bytes()
    options = {}
    if any("invalid" in outcome for outcome in expected):
        answer = await upload(service, body, media_type_of(name))
        assert answer.status_code == 400
        assert re.match(r"line \d+: ", answer.json()["error"])
        options = {"onInvalid": "skip"}
    job_id = await accepted(service, body, media_type_of(name), **options)
    await service.work()
    results = await all_results(service, job_id)
    outcomes = [" ".join(filter(None, (one["outcome"], one["reason"]))) for one in results]
    assert [f"{one}: {outcome}" for one, outcome in zip(written, outcomes, strict=True)] == expected


@pytest.mark.parametrize("media_type", [CSV, NDJSON])
@pytest.mark.parametrize(("name", "words"), REFUSED, ids=[name for name, _ in REFUSED])
async def test_what_is_neither_csv_nor_ndjson_is_named_for_what_it_is(
    service, name, words, media_type
):
    answer = await upload(service, (FILES / name).read_bytes(), media_type)
    assert answer.status_code == 400
    assert re.search(words, answer.json()["error"], re.IGNORECASE)
    assert nothing_is_left(service.engine)


async def test_a_header_of_formulas_is_shown(service):
    answer = await upload(service, (FILES / "json2csv/excel-strings-in-header.csv").read_bytes())
    assert answer.status_code == 400
    assert '="externalId"' in answer.json()["error"]
    assert nothing_is_left(service.engine)


def test_every_file_has_its_outcome_here():
    tested = (
        {name for name, _, _ in READ}
        | {name for name, _ in REFUSED}
        | {"json2csv/excel-strings-in-header.csv"}
    )
    there = {path.relative_to(FILES).as_posix() for path in FILES.glob("*/*")}
    assert tested == {name for name in there if not name.startswith("source/")}


def test_the_page_about_files_names_each():
    page = (FILES.parents[1] / "docs/reference/files.md").read_text()
    assert [path.name for path in FILES.glob("*/*") if f"`{path.name}`" not in page] == []
