// Writes the files of SheetJS, csv-parse with csv-stringify, json2csv and export-to-csv: `node_tools.mjs FOLDER`.
// make.sh installs what this needs, and runs a copy that lies beside it.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { stringExcel } from "@json2csv/formatters";
import { Parser } from "@json2csv/plainjs";
import { parse } from "csv-parse/sync";
import { stringify } from "csv-stringify/sync";
import { asString, generateCsv, mkConfig } from "export-to-csv";
import XLSX from "xlsx";

const files = process.argv[2];
const text = (name) => readFileSync(`${files}/source/${name}.csv`, "utf8");
const rows = (name) => parse(text(name), { columns: true });

function write(folder, name, content) {
  mkdirSync(`${files}/${folder}`, { recursive: true });
  writeFileSync(`${files}/${folder}/${name}`, content);
}

// SheetJS: as it reads, and by way of objects, as web pages do it.
const workbook = XLSX.read(text("mixed"), { type: "string" });
const objects = XLSX.utils.sheet_to_json(workbook.Sheets.Sheet1);
write("sheetjs", "read-and-written.csv", XLSX.write(workbook, { type: "buffer", bookType: "csv" }));
write("sheetjs", "through-objects.csv", XLSX.utils.sheet_to_csv(XLSX.utils.json_to_sheet(objects)));
write("sheetjs", "through-objects.ndjson", objects.map((one) => `${JSON.stringify(one)}\n`).join(""));
write("sheetjs", "unicode-text.csv", XLSX.write(workbook, { type: "buffer", bookType: "txt" }));
write("sheetjs", "leads.html", XLSX.write(workbook, { type: "buffer", bookType: "html" }));
write("sheetjs", "leads.xls", XLSX.write(workbook, { type: "buffer", bookType: "biff8" }));
write("sheetjs", "leads.xlsx", XLSX.write(workbook, { type: "buffer", bookType: "xlsx", compression: true }));

// csv-parse reads, csv-stringify writes.
const options = { header: true };
write("csv-parse", "cast.csv", stringify(parse(text("mixed"), { columns: true, cast: true }), options));
write("csv-parse", "cast-large-ids.csv", stringify(parse(text("numbers"), { columns: true, cast: true }), options));
write("csv-parse", "escaped-formulas.csv", stringify(rows("mixed"), { ...options, escape_formulas: true }));
write("csv-parse", "carriage-returns.csv", stringify(rows("mixed"), { ...options, bom: true, record_delimiter: "mac" }));

// json2csv writes ="…" so that a spreadsheet leaves a text alone; in the header too, unless that is formatted otherwise.
const string = stringExcel;
const filled = parse(text("mixed"), { columns: true, skip_records_with_empty_values: true });
write("json2csv", "excel-strings.csv", new Parser({ formatters: { string, header: (name) => name } }).parse(filled));
write("json2csv", "excel-strings-in-header.csv", new Parser({ formatters: { string } }).parse(filled));

// export-to-csv has a title above the header, which is where its users put Excel's sep=.
const titled = mkConfig({ showTitle: true, title: "sep=;", fieldSeparator: ";", useKeysAsHeaders: true });
write("export-to-csv", "sep-line.csv", asString(generateCsv(titled)(rows("mixed"))));
