"""Writes the files of pandas, Polars, DuckDB and PyArrow: `python_tools.py FOLDER`. make.sh
installs what this needs.
"""

import sys
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.csv
import pyarrow.parquet

FILES = Path(sys.argv[1])
MIXED, NUMBERS, GAPS, EXPONENTS, PLUS_BELOW = (
    FILES / "source" / f"{name}.csv"
    for name in ("mixed", "numbers", "numbers-with-gaps", "exponents", "plus-below")
)


def folder(name: str) -> Path:
    """The one of a tool, made if need be."""
    path = FILES / name
    path.mkdir(exist_ok=True)
    return path


def write_with_pandas() -> None:
    """Read as pandas does without being told, but for those named text."""
    at = folder("pandas")
    pd.read_csv(NUMBERS).to_csv(at / "numbers.csv", index=False)
    pd.read_csv(GAPS).to_csv(at / "numbers-with-gaps.csv", index=False)
    pd.read_csv(EXPONENTS).to_csv(at / "exponents.csv", index=False)
    pd.read_csv(NUMBERS).to_csv(at / "numbers-and-index.csv")
    pd.read_csv(GAPS).to_json(at / "numbers.ndjson", orient="records", lines=True)
    pd.read_csv(NUMBERS).to_excel(at / "leads.xlsx", index=False)
    text = pd.read_csv(MIXED, dtype=str)
    excel = text.rename(columns={"name": "name,\nas given"})
    excel.to_csv(
        at / "text-for-excel.csv", index=False, sep=";", encoding="utf-8-sig", lineterminator="\r\n"
    )
    text.to_csv(at / "utf-16.csv", index=False, encoding="utf-16")
    text.to_csv(at / "utf-16-without-mark.csv", index=False, encoding="utf-16-le")
    text.to_csv(at / "leads.zip", index=False)
    text.to_json(at / "text.ndjson", orient="records", lines=True)
    text.to_json(at / "text.json", orient="records")


def write_with_polars() -> None:
    """The plus stays where it is among the first 100 rows, by which Polars guesses."""
    at = folder("polars")
    pl.read_csv(NUMBERS).write_csv(at / "numbers.csv")
    pl.read_csv(PLUS_BELOW).write_csv(at / "plus-below.csv")
    pl.read_csv(EXPONENTS).write_csv(at / "exponents.csv")
    pl.read_csv(NUMBERS).write_ndjson(at / "numbers.ndjson")
    text = pl.read_csv(MIXED, infer_schema=False)
    text.write_csv(
        at / "quoted.csv", include_bom=True, line_terminator="\r\n", quote_style="always"
    )
    text.write_json(at / "text.json")
    text.write_parquet(at / "leads.parquet")
    text.write_excel(at / "leads.xlsx")


def write_with_duckdb() -> None:
    """COPY of what its sniffer made of each column."""
    at = folder("duckdb")
    for source, name, options in (
        (NUMBERS, "numbers.csv", ""),
        (EXPONENTS, "exponents.csv", ""),
        (MIXED, "pipes.csv", ", DELIM '|'"),
        (MIXED, "text.json", ", ARRAY true"),
        (MIXED, "text.ndjson", ", FORMAT json"),
        (MIXED, "leads.parquet", ""),
    ):
        duckdb.sql(
            f"COPY (FROM read_csv('{source}')) TO '{at / name}' (USE_TMP_FILE false{options})"
        )


def write_with_pyarrow() -> None:
    """Numbers behind a plus are doubles to its reader, and its writer gives them exponents."""
    at = folder("pyarrow")
    pyarrow.csv.write_csv(pyarrow.csv.read_csv(NUMBERS), at / "numbers.csv")
    pyarrow.csv.write_csv(pyarrow.csv.read_csv(GAPS), at / "numbers-with-gaps.csv")
    pyarrow.csv.write_csv(pyarrow.csv.read_csv(EXPONENTS), at / "exponents.csv")
    pyarrow.csv.write_csv(pyarrow.csv.read_csv(MIXED), at / "mixed.csv")
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(NUMBERS), at / "leads.parquet")


write_with_pandas()
write_with_polars()
write_with_duckdb()
write_with_pyarrow()
