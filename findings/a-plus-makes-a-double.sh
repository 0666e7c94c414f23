#!/usr/bin/env bash
# Seen: PyArrow 26.0.1, 27 November 2026.
#
# One expects: digits behind a plus are an integer, as those behind a minus, or text. To the CSV reader of PyArrow they are
# a double, and its writer gives doubles of ten digits and more an exponent: a list of phone numbers that is only read and
# written again has 1.2025550101e+10 in it. Without the plus the same digits are integers and come back as they were.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/python"
"$work/python/bin/pip" install --quiet pyarrow==26.0.1
cat >"$work/ask.py" <<'PYTHON'
import io

import pyarrow.csv

for written in ("12025550101", "-12025550101", "+12025550101", "+493023125103"):
    table = pyarrow.csv.read_csv(io.BytesIO(f"phoneNumber\n{written}\n".encode()))
    file = io.BytesIO()
    pyarrow.csv.write_csv(table, file)
    print(written, "->", table.schema.types[0], file.getvalue().decode().splitlines()[1])
PYTHON
"$work/python/bin/python" "$work/ask.py" | tee "$work/seen"

diff - "$work/seen" <<'EXPECTED'
12025550101 -> int64 12025550101
-12025550101 -> int64 -12025550101
+12025550101 -> double 1.2025550101e+10
+493023125103 -> double 4.93023125103e+11
EXPECTED
