"""Reading files of leads: every kind of damage costs its own row and no other, and is told by its
line.
"""

import csv
import io
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leadsweep.terminal.failure import Failure

from cli.leads.reader import read
from cli.leads.rows import Row
from shared.files.blocks import MAX_LINE, Block, blocks
from shared.files.csv_reader import _words, read_csv
from tests.support.counts import many, ran


def rows(text: str | bytes, form=None) -> list[Row]:
    return list(read(io.BytesIO(text if isinstance(text, bytes) else text.encode()), form))


def reasons(text: str | bytes, form=None) -> dict[int, str]:
    return {row.line: row.reason for row in rows(text, form) if row.reason}


def leads(text: str | bytes, form=None) -> dict[int, tuple]:
    return {row.line: row[1:4] for row in rows(text, form) if not row.reason}


def test_csv_columns_are_found_by_name_and_the_others_become_metadata():
    read_rows = rows("city,phoneNumber,externalId,note\nParis,+1 (555) 01,CRM_1,\n")
    assert read_rows == [Row(2, "CRM_1", "+155501", '{"city":"Paris"}', None)]


def test_csv_needs_only_one_of_the_two_identifier_columns():
    assert leads("externalId\nA\nB\n") == {2: ("A", None, "{}"), 3: ("B", None, "{}")}
    assert leads("phoneNumber\n0015550001\n") == {2: (None, "+15550001", "{}")}


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfexternalId,phoneNumber\nA,1001\nB,1002\n",
        b"externalId,phoneNumber\r\nA,1001\r\nB,1002\r\n",
        b"externalId,phoneNumber\nA,1001\nB,1002",
        b'"externalId","phoneNumber"\n"A","1001"\n"B","1002"\n',
        b"externalId , phoneNumber\n A ,1001\n\tB, 1002\n",
        b"externalId;phoneNumber\nA;1001\nB;1002\n",
        b'"externalId"\t"phoneNumber"\nA\t1001\nB\t1002\n',
        b"externalId|phoneNumber\nA|1001\nB|1002",
        b"externalId,phoneNumber\rA,1001\rB,1002\r",
        b'externalId, "phoneNumber"\n"A", "1001"\nB,\t"1002"\n',
    ],
    ids=[
        "byte order mark",
        "CRLF",
        "no last line end",
        "all quoted",
        "spaces",
        "semicolons",
        "tabs",
        "bars",
        "carriage returns",
        "blanks before quotes",
    ],
)
def test_csv_of_every_dialect_gives_the_same_leads(text):
    assert leads(text) == {2: ("A", "1001", "{}"), 3: ("B", "1002", "{}")}


def test_quoted_csv_fields_hold_commas_quotes_and_line_ends_and_lines_are_counted_on():
    text = 'externalId,note\nA,"one, ""two""\nthree"\nB\nC,x\n'
    assert leads(text) == {
        2: ("A", None, '{"note":"one, \\"two\\"\\nthree"}'),
        5: ("C", None, '{"note":"x"}'),
    }
    assert reasons(text) == {4: "1 columns, the header has 2"}


def test_blank_lines_are_no_rows_but_count_as_lines():
    assert leads("externalId,phoneNumber\n,\n \t,\u00a0\n,,,\nA,\n").keys() == {5}
    assert leads("sep=;\r\n\r\nexternalId;phoneNumber\r\nA;\r\n").keys() == {4}
    assert leads("externalId\n\nA\n\r\nB\n") == {3: ("A", None, "{}"), 5: ("B", None, "{}")}
    assert leads('\n{"externalId": "A"}\n  \n{"externalId": "B"}', "ndjson").keys() == {2, 4}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b",()-. ", "neither externalId nor phoneNumber"),
        (b"A", "1 columns, the header has 2"),
        (b"A,1,x", "3 columns, the header has 2"),
        (b"A\x00,1", "externalId contains U+0000"),
        (b"A,1\x00", "phoneNumber contains U+0000"),
        (b"\xff,1", "externalId is not valid UTF-8"),
        (b"A,\xed\xa0\x80", "phoneNumber is not valid UTF-8"),
        (b"A" * 256 + b",1", "externalId is longer than 255 characters"),
        (b"A," + b"1" * 33, "phoneNumber is longer than 32 characters"),
        (b'"A"B,1', "a quoted field goes on after its closing quote"),
        (b'"A,1', "a quote is never closed"),
        (b"A," + b"1" * 200_000, "a quote is never closed, or a field is longer than 128 KiB"),
        (b"A," + b"1" * MAX_LINE, "line is longer than 1 MiB"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else "",
)
def test_a_damaged_csv_row_is_rejected_alone_with_its_line_and_reason(row, reason):
    text = b"externalId,phoneNumber\nB,1002\n" + row + b"\nC,1003\n"
    assert reasons(text) == {3: reason}
    assert leads(text) == {2: ("B", "1002", "{}"), 4: ("C", "1003", "{}")}


def test_metadata_is_checked_as_well():
    text = b"externalId,note\nA,x\x00\nB,\xff\nC,\xc3\xa9\n"
    assert reasons(text) == {2: "metadata contains U+0000", 3: "metadata is not valid UTF-8"}
    assert leads(text) == {4: ("C", None, '{"note":"é"}')}


def test_what_an_unclosed_quote_swallowed_is_read_again():
    filler = "".join(
        f"L{number},{number + 1000000}\n" for number in range(20_000)
    )  # more than one field may hold
    text = 'externalId,phoneNumber\n"A,1001\n' + filler + '"Z,2\n'
    assert reasons(text) == {
        2: "a quote is never closed, or a field is longer than 128 KiB",
        20_003: "a quote is never closed",
    }
    assert len(leads(text)) == 20_000


def records_one_by_one(lines: list[str]) -> list[tuple[int, list[str] | str]]:
    """What read_csv is to find below a header, however long that takes: from each line anew, as far
    as its record goes.

    Without the blanks before fields.
    """
    found, place = [], 0
    while place < len(lines):
        reader = csv.reader(lines[place:], strict=True, skipinitialspace=True)
        try:
            row = next(reader)
        except csv.Error as error:
            found.append((place + 2, _words(error)))
            place += 1
        else:
            if row:
                found.append((place + 2, [field.lstrip(" ") for field in row]))
            place += reader.line_num
    return found


PIECES = st.sampled_from(["a", ",", '"', '""', '"a', 'a"', '","', "\r", " ", ', "', ' "'])


@pytest.mark.proof("damaged csv")
@settings(max_examples=many("damaged csv"), deadline=None)
@given(
    st.lists(st.lists(PIECES, max_size=4).map(lambda pieces: "".join(pieces) + "\n"), max_size=12),
    st.integers(1, 12),
)
def test_the_records_are_those_of_a_reader_that_begins_anew_at_every_line(written, size):
    ran()
    lines = list(io.StringIO("".join(written), newline=""))
    cut = [Block(n + 2, "".join(lines[n : n + size]).encode()) for n in range(0, len(lines), size)]
    _, records = read_csv([Block(1, b"externalId\n"), *cut])
    found = [record for some in records for record in some.numbered()]
    bare = [
        (line, row if isinstance(row, str) else [field.lstrip(" ") for field in row])
        for line, row in found
    ]
    assert bare == records_one_by_one(lines)


def test_blanks_before_a_quote_are_no_part_of_a_field_and_any_others_are():
    text = b'externalId,x\n a, "b, ""c"" "\n "d" ,e\n " f",\tg\n"h ", i\nj,\xc2\xa0\t"k\n l"\n'
    _, records = read_csv(blocks([text]))
    assert [record for some in records for record in some.numbered()] == [
        (2, ["a", 'b, "c" ']),
        (3, "a quoted field goes on after its closing quote"),
        (4, [" f", "\tg"]),
        (5, ["h ", " i"]),
        (6, ["j", "k\n l"]),
    ]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("first", ["", '"open\n'])
@pytest.mark.parametrize("line", ["a\rb\n", 'a",,"b\n', '"a\n', '"a""\n', '"\n'])
def test_damage_costs_as_much_as_it_is_long(first, line):
    """Read anew from each line as far as its record goes, most of these would take minutes."""
    count = 150_000
    _, records = read_csv(blocks([("externalId\n" + first + line * count).encode()]))
    assert sum(len(some.lines) for some in records) >= count // 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "line 1, is empty"),
        (b"\n\n", "line 1, is empty"),
        (b"name,city\nA,B\n", "names neither externalId nor phoneNumber"),
        (b"externalId,phone_number\nA,1\n", "write phoneNumber"),
        (b"ExternalID\nA\n", "write externalId"),
        (b"externalId,externalId\nA,B\n", "names externalId twice"),
        (b"externalId,,x\nA,B,C\n", "column 2 is missing, repeated or not printable"),
        (b"externalId,\xff\nA,B\n", "column 2 is missing, repeated or not printable"),
        (b"externalId,a\x00b\nA,B\n", "column 2 is missing, repeated or not printable"),
        (b'"externalId\nA\n', "a quote is never closed"),
        (b"x" * (MAX_LINE + 1), "line is longer than 1 MiB"),
        ("externalId\nA\n".encode("utf-16"), "save it as UTF-8"),
    ],
)
def test_a_header_that_would_lose_something_fails_the_whole_file(text, complaint):
    with pytest.raises(Failure, match=complaint):
        rows(text)


def test_ndjson_keys_beyond_the_identifiers_become_metadata():
    text = (
        '{"externalId": "A", "phoneNumber": null, "age": 7, "metadata": {"age": 1, "tags": ["x", '
        '{"y": null}]}}\n'
    )
    assert leads(text) == {1: ("A", None, '{"age":7,"tags":["x",{"y":null}]}')}


def test_ndjson_numbers_keep_their_value():
    number = 123456789012345678901234567890
    assert json.loads(leads(f'{{"externalId": "A", "n": {number}, "x": 0.1}}')[1][2]) == {
        "n": number,
        "x": 0.1,
    }


MISNAMED = (
    "the entry has external_id, which may be the externalId; "
    "write externalId, or say columns=externalId:external_id or ignore=external_id"
)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{}", "neither externalId nor phoneNumber"),
        (b'{"externalId": "  "}', "neither externalId nor phoneNumber"),
        (b'{"externalId": "A"', "not valid JSON"),
        (b'{"externalId": "A"} {}', "not valid JSON"),
        (b'{"externalId": "A", "x": NaN}', "not valid JSON"),
        (b'{"externalId": "A", "x": 1e400}', "not valid JSON"),
        (b'{"externalId": "\\ud800"}', "not valid JSON"),
        (b'{"externalId": "\xff"}', "not valid UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (
            b'{"externalId": "A", "x": ' + b"[" * 65 + b"]" * 65 + b"}",
            "metadata is nested more than 64 levels deep",
        ),
        (b'["A"]', "not a JSON object"),
        (b'"A"', "not a JSON object"),
        (b'{"externalId": 7}', "externalId is not a string"),
        (b'{"phoneNumber": ["1"]}', "phoneNumber is not a string"),
        (b'{"externalId": "A", "metadata": "x"}', "metadata is not an object"),
        (b'{"externalId": "A", "metadata": null}', "metadata is not an object"),
        (b'{"externalId": "A\\u0000"}', "externalId contains U+0000"),
        (b'{"externalId": "A", "x": {"y": ["\\u0000"]}}', "metadata contains U+0000"),
        (b'{"externalId": "A", "x": {"\\u0000": 1}}', "metadata contains U+0000"),
        (
            b'{"external_id": "A", "phoneNumber": "1001"}',
            MISNAMED,
        ),
        (b'{"externalId": "A", "x": "' + b"y" * MAX_LINE + b'"}', "line is longer than 1 MiB"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else "",
)
def test_a_damaged_ndjson_row_is_rejected_alone_with_its_line_and_reason(line, reason):
    text = b'{"externalId": "B"}\n' + line + b'\n{"externalId": "C"}\n'
    assert reasons(text) == {2: reason}
    assert leads(text) == {1: ("B", None, "{}"), 3: ("C", None, "{}")}


def test_a_backslash_before_u0000_is_not_a_nul():
    text = r'{"externalId": "A", "x": "\\u0000"}'
    assert leads(text) == {1: ("A", None, r'{"x":"\\u0000"}')}


def test_many_objects_side_by_side_are_not_deep():
    entry = {"externalId": "A", "list": [{"n": n} for n in range(100)]}
    assert leads(json.dumps(entry)).keys() == {1}


def test_the_format_can_be_told():
    assert reasons('oops\n{"externalId": "A"}\n', "ndjson") == {1: "not valid JSON"}
    with pytest.raises(Failure):
        rows('{"externalId": "A"}\n', "csv")


@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=3, max_size=3
        ),
        max_size=8,
    )
)
def test_whatever_the_csv_module_writes_is_read_back(records):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["externalId", "a", "b"])
    writer.writerows(["X" + external_id, a, b] for external_id, a, b in records)
    found = rows(text.getvalue())
    assert len(found) == len(records)
    for row, (_, a, b) in zip(found, records, strict=True):
        if row.reason is None:
            assert json.loads(row.metadata) == {
                name: value for name, value in (("a", a), ("b", b)) if value
            }


@given(st.binary(max_size=300), st.sampled_from(["csv", "ndjson"]))
def test_no_bytes_at_all_are_more_than_rejected_rows(damage, form):
    header = b"externalId,x\n" if form == "csv" else b"{}\n"
    found = rows(header + damage, form)
    lines = [row.line for row in found]
    assert lines == sorted(set(lines))
    assert all(1 <= line <= damage.count(b"\n") + damage.count(b"\r") + 2 for line in lines)
    for row in itertools.filterfalse(lambda row: row.reason, found):
        assert isinstance(json.loads(row.metadata), dict)
        assert row.external_id or row.phone_number
