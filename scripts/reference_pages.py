"""Writes the pages of the guide that repeat what stands elsewhere: settings, the command line, the
list of decisions, and what is proved how often.

    python scripts/reference_pages.py

The pages are kept in the repository, so that they can be read without building anything;
tests/project/test_docs.py holds them to the code.
"""

import json
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from shared.settings import Rate, Settings
from shared.windows import Window, window_text

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COLUMNS = 96  # of the help that is shown


def settings() -> Iterator[tuple[str, str, str]]:
    """(variable, default, meaning) of every setting, as they are to be written down."""
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        default = field.default
        match default:
            case Rate(limit, period):
                word = {1: "second", 60: "minute", 3600: "hour"}[int(period.total_seconds())]
                default = f"{limit}/{word}"
            case Window():
                default = window_text(default)
            case ():
                default = ""
            case bool():
                default = str(default).lower()
        variable = alias.choices[0] if alias else f"LEADSWEEP_{name}".upper()
        yield variable, str(default), field.description


def settings_page() -> str:
    """The page of all settings."""
    rows = "\n".join(
        f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |"
        for name, default, meaning in settings()
    )
    return f"""# Settings

Settings are environment variables. `make up` needs none; `.env.example` has them all for Docker
Compose. This page is made from the code by `make docs`.

| name | default | meaning |
|---|---|---|
{rows}
"""


def leadsweep() -> click.Group:
    """The `leadsweep` command, as it is installed."""
    [script] = entry_points(group="console_scripts", name="leadsweep")
    return script.load()


def helps(
    command: click.Command, name: str, parent: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """(path, help) of a command and of all below it, as they are within their groups."""
    settings = command.context_settings | {
        "terminal_width": COLUMNS,
        "max_content_width": COLUMNS,
    }
    context = click.Context(command, parent, info_name=name, **settings)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for below, child in command.commands.items():
            yield from helps(child, below, context)


def make_targets() -> list[tuple[str, str]]:
    """(target, what it does) of every command of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    return re.findall(r"^([a-z]+):.*?## (.*)$", makefile, re.MULTILINE)


def command_line_page() -> str:
    """The page of every command, with its help as it is printed."""
    commands = "\n".join(
        f"## {path}\n\n```text\n{text}\n```\n" for path, text in helps(leadsweep(), "leadsweep")
    )
    targets = "\n".join(f"| `make {target}` | {does} |" for target, does in make_targets())
    return f"""# Command line

The help of every command, as `--help` prints it. This page is made from the code by `make docs`.

## make

From the folder of the source:

| command | does |
|---|---|
{targets}

{commands}"""


def decisions_page() -> str:
    """The list of decisions, oldest first."""
    titles = {
        path.name: path.read_text().splitlines()[0].removeprefix("# ")
        for path in sorted((DOCS / "decisions").glob("[0-9]*.md"))
    }
    rows = "\n".join(f"- [{title}]({name})" for name, title in titles.items())
    return f"""# Decisions

Why Leadsweep is built as it is: one screen for each decision, with what was tried. This list is
made by `make docs`.

{rows}
"""


def last_run(proof: dict[str, Any]) -> str:
    """What the last whole `make proof` saw of a kind of proof, as `1,000 on 2026-11-28`."""
    run = proof["last_run"]
    return f"{run['count']:,} on {run['at'][:10]}" if run else ""


def proof_page() -> str:
    """The page of what is proved, from what `make proof` has written down."""
    proofs = json.loads((DOCS / "proof.json").read_text())["proofs"]
    rows = "\n".join(
        f"| {proof['what']} | {proof['in_make_test']:,} | {proof['in_make_proof']:,} |"
        f" {last_run(proof)} |"
        for proof in proofs
    )
    return f"""# Proof

That the [guarantees](reference/guarantees.md) hold is tested on real PostgreSQL and Redis. After
every fault one checker (`tests/support/invariants.py`) looks at all of it: one outcome an entry,
counts that match, leads as the oracle says, nothing else deleted. The oracle is a plain Python
function of entries and leads (`tests/support/oracle.py`).

`make test` runs every kind of proof in this table. `make proof` runs the full counts, which takes
half an hour, and writes what it saw to `docs/proof.json`. `make docs` makes this page from that
file.

| what | in `make test` | in `make proof` | last full run |
|---|---|---|---|
{rows}
"""


PAGES = {
    "reference/settings.md": settings_page,
    "reference/command-line.md": command_line_page,
    "decisions/index.md": decisions_page,
    "proof.md": proof_page,
}


def main() -> None:
    """Writes every page that is not as it should be."""
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


if __name__ == "__main__":
    main()
