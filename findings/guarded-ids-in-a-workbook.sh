#!/usr/bin/env bash
# Seen: json2csv (@json2csv/plainjs, @json2csv/formatters) 7.0.8, pandas 3.1.1, openpyxl 3.1.5, XlsxWriter 3.3.1,
# SheetJS 0.18.5, 27 November 2026.
#
# One expects: ="007", with which exports keep a spreadsheet from eating zeros, does so on any road; and what pandas writes
# into a workbook it reads back. Each part does as it says, but where they meet all ids are gone: pandas keeps ="007" as
# text, both of its writers of xlsx make a formula of it, without the result that only a spreadsheet program would
# compute, and readers take the result that is stored. Whether the list is then empty or every id in it is 0 depends on
# whether XlsxWriter is installed, which pandas prefers. SheetJS unwraps the same cells as soon as it reads the CSV.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

npm install --silent --no-audit --no-fund --prefix "$work" @json2csv/plainjs@7.0.8 @json2csv/formatters@7.0.8 xlsx@0.18.5
cat >"$work/export.mjs" <<'NODE'
import { writeFileSync } from "node:fs";
import { stringExcel } from "@json2csv/formatters";
import { Parser } from "@json2csv/plainjs";
import XLSX from "xlsx";

const leads = [{ externalId: "007" }, { externalId: "1E5" }, { externalId: "CRM_001" }];
const csv = new Parser({ formatters: { string: stringExcel, header: (name) => name } }).parse(leads);
writeFileSync(process.argv[2], csv);
const workbook = XLSX.read(csv, { type: "string" });
console.log("SheetJS:", XLSX.utils.sheet_to_json(workbook.Sheets.Sheet1).map((lead) => lead.externalId).join(" "));
NODE
cat >"$work/ask.py" <<'PYTHON'
import importlib.util
import sys

import pandas

leads = pandas.read_csv(sys.argv[1], dtype=str)
leads.to_excel(sys.argv[2], index=False)
writer = "XlsxWriter" if importlib.util.find_spec("xlsxwriter") else "openpyxl"
print("pandas, CSV:", *leads.externalId)
print(f"pandas, xlsx by {writer}:", pandas.read_excel(sys.argv[2], dtype=str).externalId.tolist())
PYTHON
"${PYTHON:-python3}" -m venv "$work/python"
"$work/python/bin/pip" install --quiet pandas==3.1.1 openpyxl==3.1.5
{
  node "$work/export.mjs" "$work/leads.csv"
  "$work/python/bin/python" "$work/ask.py" "$work/leads.csv" "$work/leads.xlsx"
  "$work/python/bin/pip" install --quiet xlsxwriter==3.3.1
  "$work/python/bin/python" "$work/ask.py" "$work/leads.csv" "$work/leads.xlsx"
} | tee "$work/seen"

diff - "$work/seen" <<'EXPECTED'
SheetJS: 007 1E5 CRM_001
pandas, CSV: ="007" ="1E5" ="CRM_001"
pandas, xlsx by openpyxl: []
pandas, CSV: ="007" ="1E5" ="CRM_001"
pandas, xlsx by XlsxWriter: ['0', '0', '0']
EXPECTED
