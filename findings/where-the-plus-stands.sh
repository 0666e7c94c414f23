#!/usr/bin/env bash
# Seen: Polars 2.1.0 and DuckDB 2.0.1, 27 November 2026.
#
# One expects: whether a CSV reader keeps the plus of +12025550101 depends on the cell; or a reader that takes a column for
# numbers says so when a cell comes that is none. In fact both hold a plus for a sign of text while they guess, and for a
# sign of a number while they read. So the plus stays where one stands among the rows that they guess by (Polars the first
# 100, DuckDB a sample of 20,480), and is dropped in silence where the first one comes later: in a small file all is well.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/python"
"$work/python/bin/pip" install --quiet polars==2.1.0 duckdb==2.0.1
cat >"$work/ask.py" <<'PYTHON'
import sys

import duckdb
import polars

for above in (99, 100, 20_000, 50_000):
    path = f"{sys.argv[1]}/{above}.csv"
    with open(path, "w") as file:
        file.write("externalId,phoneNumber\n")
        file.writelines(f"CRM_{i},2025550{i % 1000:03}\n" for i in range(above))
        file.write("CRM_last,+12025550101\n")
    by_polars = polars.read_csv(path)["phoneNumber"][-1]
    by_duckdb = duckdb.sql(f"SELECT phoneNumber FROM read_csv('{path}') WHERE externalId = 'CRM_last'").fetchall()
    print(f"{above} rows above: Polars {by_polars!r}, DuckDB {by_duckdb[0][0]!r}")
PYTHON
"$work/python/bin/python" "$work/ask.py" "$work" | tee "$work/seen"

diff - "$work/seen" <<'EXPECTED'
99 rows above: Polars '+12025550101', DuckDB '+12025550101'
100 rows above: Polars 12025550101, DuckDB '+12025550101'
20000 rows above: Polars 12025550101, DuckDB '+12025550101'
50000 rows above: Polars 12025550101, DuckDB 12025550101
EXPECTED
