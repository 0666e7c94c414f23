"""Holds README.md, docs/ and .env.example against the code: what they name exists, and what exists
is named.
"""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest
from leadsweep.commands.main import main as leadsweep

from shared import states
from shared.settings import Rate, Settings
from shared.windows import Window, window_text

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
ROOMS = ("api", "worker", "shared", "cli", "client/leadsweep")


def section(text, title):
    """What stands under the heading `title`."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def table(text):
    """The cells of the rows of the first table in `text`, without its head."""
    lines = re.search(r"(^\|.*\n)+", text, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def settings_of_the_code():
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
        yield (
            (alias.choices[0] if alias else f"LEADSWEEP_{name}".upper()),
            str(default),
            field.description,
        )


def test_the_settings_table_says_what_the_code_says():
    rows = [tuple(row) for row in table(section(README, "Settings"))]
    assert rows == [
        (f"`{name}`", f"`{default}`" if default else "", text)
        for name, default, text in settings_of_the_code()
    ]


def test_the_example_of_an_environment_lists_every_setting_with_its_default():
    example = (ROOT / ".env.example").read_text()
    for name, default, _ in settings_of_the_code():
        assert re.search(rf"^#?{name}={re.escape(default)}$", example, re.MULTILINE), name


def test_the_picture_of_the_states_is_that_of_the_code_and_names_them_all():
    text = section(README, "States of a job")
    picture = re.search(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    assert [line for line in picture.splitlines() if line] == re.findall(
        r"^ {4}(.+)$", states.__doc__, re.MULTILINE
    )
    for state in states.JobState:
        assert state in picture
    for outcome in states.Outcome:
        assert f"`{outcome.word}`" in text
        assert outcome.reason is None or f"`{outcome.reason}`" in text


def test_the_table_of_actions_is_that_of_the_code():
    text = section(README, "States of a job")
    head = re.search(r"^\| \| (`cancel`.*) \|$", text, re.MULTILINE)[1]
    actions = [states.Action(cell.strip("` ")) for cell in head.split("|")]
    assert set(actions) == set(states.Action)
    possible = {action: set() for action in actions}
    for state in states.JobState:
        row = re.search(rf"^\| `{state}` \|(.*)\|$", text, re.MULTILINE)[1]
        for action, cell in zip(actions, row.split("|"), strict=True):
            assert cell.strip() in {"yes", ""}
            possible[action] |= {state} if cell.strip() else set()
    assert possible == states.POSSIBLE_IN


def strings_of(folder):
    """Every string in the code of a room; what is filled in while it runs is `…`."""
    found = set()
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.add(
                    "".join(
                        part.value if isinstance(part, ast.Constant) else "…"
                        for part in node.values
                    )
                )
    return found


def matches(error, template):
    """Whether `template`, with something for each `…`, can become `error`."""
    return re.fullmatch(".+".join(map(re.escape, template.split("…"))), error)


def test_every_error_of_the_table_is_one_that_the_api_can_give():
    about_urls = {f"… {text}" for text in strings_of("shared")}  # after the name of the field
    known = [text for text in strings_of("api") | about_urls if re.search(r"[A-Za-z]{4}", text)]
    errors = [
        error
        for row in table(section(README, "Errors"))
        for error in re.findall(r"`([^`]+)`", row[1])
    ]
    assert len(errors) > 25
    for error in errors:
        assert any(matches(error, text) for text in known), error


def test_every_text_of_an_error_class_is_in_the_table():
    documented = section(README, "Errors")
    for path in (ROOT / "api").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {
                "ApiError",
                "InvalidRequest",
            }:
                texts = [
                    a.value
                    for a in node.args
                    if isinstance(a, ast.Constant) and isinstance(a.value, str)
                ]
                for text in texts:
                    assert f"`{re.sub('(?<=query parameter: ).*', 'limit', text)}`" in documented, (
                        text
                    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_that_is_named_exists(path):
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ +|&& )make ([a-z]+)", path.read_text(), re.MULTILINE)) <= targets


def test_the_readme_names_every_make_target():
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert all(f"make {target}" in README for target in targets)


def code_of(text):
    """Every piece of code in a document: spans, indented blocks and lines of shell; continued lines
    joined.
    """
    text = text.replace("\\\n", " ")
    lines = "\n".join(
        re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ).splitlines()
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", text)
    return [*spans, *lines, *re.findall(r"^ {4}(.+)$", text, re.MULTILINE)]


def commands_in(text):
    """Every `leadsweep …` that a document shows, as words."""
    for code in code_of(text):
        if found := re.match(
            r"(?:docker compose (?:exec|run) [\w -]*|(?:export )?\w+=\$\()?leadsweep(?= |$)([^#|<>)]*)",
            code,
        ):
            yield shlex.split(found[1])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_shown_exists_with_its_options(path):
    for words in commands_in(path.read_text()):
        command = leadsweep
        for word in words:
            if word.startswith("--"):
                known = {option for parameter in command.params for option in parameter.opts} | {
                    "--help",
                    "--version",
                }
                assert word.partition("=")[0] in known, words
            elif isinstance(command, click.Group):
                assert word in command.commands, words
                command = command.commands[word]


def test_every_command_is_named_in_the_readme():
    shown = {words[0] for words in commands_in(README) if words}
    assert shown - {"--help"} == set(leadsweep.commands)


def test_the_map_names_every_file_of_the_rooms_and_no_other():
    rows = {row[0].strip("`/"): row for row in table(section(README, "Map"))}
    for room in ROOMS:
        named = set(re.findall(r"`(\w+)`", rows[room][2]))
        files = {path.stem for path in (ROOT / room).glob("*.py")} - {"__init__", "__main__"}
        folders = {
            path.name
            for path in (ROOT / room).iterdir()
            if path.is_dir() and not path.name.startswith((".", "__"))
        }
        assert named == files | folders, room
    for name in rows:
        assert (ROOT / name).exists(), name


def log_events():
    """The events that the code logs, with their level."""
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    owner, level = getattr(node.func.value, "id", ""), node.func.attr
                    if owner == "log" and level in {
                        "debug",
                        "info",
                        "warning",
                        "error",
                        "exception",
                        "critical",
                    }:
                        yield node.args[0].value, "error" if level == "exception" else level


def test_every_log_event_is_explained_and_no_other():
    documented = {(row[0].strip("`"), row[1]) for row in table(section(OPERATIONS, "Log events"))}
    assert documented == set(log_events())


def anchor(heading):
    """The link target of a heading, as renderers make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        name, _, wanted = target.partition("#")
        file = path if not name else (path.parent / name).resolve()
        assert file.exists(), target
        if wanted:
            assert wanted in {
                anchor(heading)
                for heading in re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            }, target


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs/decisions").glob("*.md")), ids=lambda path: path.name
)
def test_a_decision_is_one_screen_of_context_decision_and_consequences(path):
    text = path.read_text()
    places = [text.index(f"**{part}.**") for part in ("Context", "Decision", "Consequences")]
    assert places == sorted(places)
    assert len(text.splitlines()) <= 45
