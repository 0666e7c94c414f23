"""What is neither CSV nor NDJSON is told apart by how it begins, and named for what it is."""

import gzip
import io
import json
import zipfile

import pytest

from shared.files.blocks import Unreadable, blocks
from shared.files.kinds import other_kind

TEXT = "externalId,phoneNumber\nCRM_1,+15555551234\n"
ENTRIES = [{"externalId": "a"}, {"phoneNumber": "+102"}]


def archive(*names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name in names:
            opened.writestr(
                name,
                "application/vnd.oasis.opendocument.spreadsheet" if name == "mimetype" else "x",
            )
    return content.getvalue()


OTHERS = {
    "UTF-16": [
        *map(TEXT.encode, ["utf-16", "utf-16-le", "utf-16-be"]),
        "Имя;externalId\r\n".encode("utf-16-le"),
    ],
    "UTF-32": [TEXT.encode("utf-32"), TEXT.encode("utf-32-le"), TEXT.encode("utf-32-be")],
    "an Excel workbook (xlsx)": [
        archive("[Content_Types].xml", "xl/workbook.xml"),
        archive("xl/_rels/workbook.xml.rels"),
    ],
    "an Office document (xlsx, or another)": [archive("[Content_Types].xml", "word/document.xml")],
    "an Excel workbook (xls, or encrypted)": [b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500)],
    "an Excel workbook (xls)": [
        b"\x09\x08\x10\x00\x00\x06\x05\x00",
        b"\x09\x00\x04\x00\x07\x00\x10\x00",
    ],
    "an OpenDocument spreadsheet (ods)": [archive("mimetype", "content.xml")],
    "a zip archive": [archive("leads.csv"), archive()],
    "gzip": [gzip.compress(TEXT.encode(), mtime=0)],
    "bzip2": [b"BZh91AY&SY"],
    "xz": [b"\xfd7zXZ\0\0"],
    "zstd": [b"\x28\xb5\x2f\xfd\x04"],
    "Parquet": [b"PAR1\x15\x04"],
    "Arrow": [b"ARROW1\0\0"],
    "PDF": [b"%PDF-1.7\n"],
    "HTML": [
        b"<!DOCTYPE html>\n<html><head>",
        b"<table><tr><td>externalId</td></tr></table>",
        b" \r\n<HTML>",
        b"\xef\xbb\xbf<html xmlns:x='urn:schemas-microsoft-com:office:excel'>",
        b"<?xml version='1.0'?>\n<html>",
    ],
    "XML": [
        b"<?xml version='1.0'?>\n<?mso-application progid='Excel.Sheet'?>",
        b"<leads><lead/></leads>",
    ],
    "a JSON array": [
        json.dumps(ENTRIES).encode(),
        json.dumps(ENTRIES, indent=2).encode(),
        b"[\n",
        b'["a", "b"]',
        b"[]",
        b" [7]",
        json.dumps(ENTRIES * 30_000).encode(),
    ],
    "one JSON object": [
        json.dumps({"leads": ENTRIES}).encode(),
        json.dumps({"leads": ENTRIES}, indent=2).encode(),
        json.dumps({"campaignId": "spring", "leads": ENTRIES}).encode(),
        b'{"leads": [\n{"externalId": "a"},\n',
        json.dumps({"success": True, "data": {"items": ENTRIES, "nextCursor": None}}).encode(),
        json.dumps({"leads": ENTRIES * 30_000}).encode(),
        b'{\n  "people": [\n    {"externalId": "a"}\n',
    ],
}


@pytest.mark.proof("files")
@pytest.mark.parametrize(
    ("what", "beginning"),
    [
        pytest.param(what, one, id=f"{what} {n}")
        for what, some in OTHERS.items()
        for n, one in enumerate(some)
    ],
)
def test_a_file_of_another_kind_is_named_with_the_way_out(what, beginning):
    for size in (1, 1000, 1 << 20):
        parts = (beginning[i : i + size] for i in range(0, min(len(beginning), 100_000), size))
        with pytest.raises(Unreadable) as refused:
            next(blocks(parts))
        assert refused.value.what == f"the file is {what}"
        assert refused.value.mend


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        TEXT.encode(),
        b"\xef\xbb\xbf" + TEXT.encode(),
        b"[externalId],[phoneNumber]\na,\n",
        b"externalId\n" + b"\0" * 300,
        b"externalId\n" + bytes(range(256)),
        b'{"externalId": "a", "calls": [{"at": 1}]}\n',
        b'{"leads": [{"at": 1}], "externalId": "a"}\n',
        b'{"metadata": {"x": [{"y": 1}]}, "phoneNumber": "+102"}\n',
        b'{"tags": ["x"], "crm_id": "a"}\n',
        b'{\n "externalId": "a"\n}\n',
        b'{"externalId": \n',
        b'{"a": {"b": 1\n',
        b"PK,externalId\n",
        b"BZ;externalId\n",
    ],
)
def test_what_can_be_leads_is_taken_for_nothing_else(beginning):
    assert other_kind(beginning) is None
