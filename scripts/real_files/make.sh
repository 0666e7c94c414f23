#!/usr/bin/env bash
# Makes the files in tests/real_files anew from those in its folder source: each is what a tool, at the version pinned here,
# writes of them. For developers, now and then; neither `make test` nor CI runs it. Needs Python, Node.js and npm, and
# LibreOffice Calc for its folder (the files that are there were written by 7.4.7.2, of Debian 12). What changes in a file
# is what changed in a tool: put it into docs/reference/files.md too.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
files=$(cd "$here/../../tests/real_files" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/python"
"$work/python/bin/pip" install --quiet pandas==3.1.1 openpyxl==3.1.5 polars==2.1.0 xlsxwriter==3.3.1 duckdb==2.0.1 pyarrow==26.0.1
"$work/python/bin/python" "$here/python_tools.py" "$files"

cp "$here/node_tools.mjs" "$work"
npm install --silent --no-audit --no-fund --prefix "$work" xlsx@0.18.5 csv-parse@7.0.3 csv-stringify@6.9.0 \
  @json2csv/plainjs@7.0.8 @json2csv/formatters@7.0.8 export-to-csv@1.5.0
node "$work/node_tools.mjs" "$files"

if command -v soffice >/dev/null; then
  sh "$here/libreoffice.sh" "$files" "$work"
else
  echo "LibreOffice is not installed; its files stay as they are" >&2
fi
