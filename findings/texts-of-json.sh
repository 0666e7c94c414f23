#!/usr/bin/env bash
# Seen: pandas 3.1.1 and DuckDB 2.0.1, 27 November 2026.
#
# One expects: JSON, unlike CSV, says what is text, and text stays as it is. pandas.read_json makes numbers of texts that
# look like numbers ("007" becomes 7, "+12025550101" loses its plus), and floating-point ones where a line has null.
# DuckDB's read_json leaves those alone, but makes UUIDs and dates: ids that a CRM writes as GUIDs in capitals come out in
# small letters, and 01-02-2024 as 2024-02-01. Its read_csv keeps the GUIDs. So ids that are compared as written are other
# ids after a detour through either.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/python"
"$work/python/bin/pip" install --quiet pandas==3.1.1 duckdb==2.0.1
cat >"$work/ask.py" <<'PYTHON'
import json
import sys

import duckdb
import pandas

PATH = f"{sys.argv[1]}/leads"


def both(*leads):
    """What each makes of lines of JSON, as CSV."""
    with open(f"{PATH}.ndjson", "w") as file:
        file.writelines(json.dumps({"externalId": external_id, "phoneNumber": number}) + "\n" for external_id, number in leads)
    by_pandas = pandas.read_json(f"{PATH}.ndjson", lines=True).to_csv(index=False, header=False)
    duckdb.sql(f"COPY (FROM read_json('{PATH}.ndjson')) TO '{PATH}.csv' (HEADER false)")
    with open(f"{PATH}.csv") as file:
        by_duckdb = file.read()
    for (external_id, number), *seen in zip(leads, by_pandas.splitlines(), by_duckdb.splitlines(), strict=True):
        print(external_id, number, "-> pandas", seen[0], "DuckDB", seen[1])


both(("007", "+12025550101"), ("12345", "+442079460105"))
both(("007", None), (None, "+442079460105"))
both(("0F8FAD5B-D9CB-469F-A165-70867728950E", "+12025550101"))
both(("01-02-2024", "+12025550101"))
with open(f"{PATH}.csv", "w") as file:
    file.write("externalId,name\n0F8FAD5B-D9CB-469F-A165-70867728950E,Ann\n")
print("CSV: DuckDB", duckdb.sql(f"SELECT externalId FROM read_csv('{PATH}.csv')").fetchall()[0][0])
PYTHON
"$work/python/bin/python" "$work/ask.py" "$work" | tee "$work/seen"

diff - "$work/seen" <<'EXPECTED'
007 +12025550101 -> pandas 7,12025550101 DuckDB 007,+12025550101
12345 +442079460105 -> pandas 12345,442079460105 DuckDB 12345,+442079460105
007 None -> pandas 7.0, DuckDB 007,
None +442079460105 -> pandas ,442079460105.0 DuckDB ,+442079460105
0F8FAD5B-D9CB-469F-A165-70867728950E +12025550101 -> pandas 0F8FAD5B-D9CB-469F-A165-70867728950E,12025550101 DuckDB 0f8fad5b-d9cb-469f-a165-70867728950e,+12025550101
01-02-2024 +12025550101 -> pandas 01-02-2024,12025550101 DuckDB 2024-02-01,+12025550101
CSV: DuckDB 0F8FAD5B-D9CB-469F-A165-70867728950E
EXPECTED
