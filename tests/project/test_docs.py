"""Holds README.md, docs/ and .env.example against the code: what they name exists, and what exists
is named.
"""

import ast
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from scripts.reference_pages import DOCS, PAGES, leadsweep, make_targets, settings
from shared import states

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
ROOMS = ("api", "worker", "shared", "cli", "client/leadsweep")
LEADSWEEP = leadsweep()


def page(name):
    """The text of a page of the guide."""
    return (DOCS / f"{name}.md").read_text()


def document_name(path):
    """How a test of a document is called."""
    return path.relative_to(ROOT).as_posix()


def section(text, title):
    """What stands under the heading `title`."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def table(text):
    """The cells of the rows of the first table in `text`, without its head."""
    lines = re.search(r"(^\|.*\n)+", text, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 160


def test_a_folder_of_the_guide_has_at_most_twelve_entries():
    for folder in (DOCS, *filter(Path.is_dir, DOCS.iterdir())):
        if folder.name != "decisions":  # which is a log
            assert len(list(folder.iterdir())) <= 12, folder


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_made_from_the_code_is_as_it_would_be_made(name):
    assert (DOCS / name).read_text() == PAGES[name](), "run: make docs"


def test_the_example_of_an_environment_lists_every_setting_with_its_default():
    example = (ROOT / ".env.example").read_text()
    for name, default, _ in settings():
        assert re.search(rf"^#?{name}={re.escape(default)}$", example, re.MULTILINE), name


def test_the_picture_of_the_states_is_that_of_the_code_and_names_them_all():
    text = page("reference/states")
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
    text = page("reference/states")
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
        for row in table(page("reference/errors"))
        for error in re.findall(r"`([^`]+)`", row[1])
    ]
    assert len(errors) > 25
    for error in errors:
        assert any(matches(error, text) for text in known), error


def test_every_text_of_an_error_class_is_in_the_table():
    documented = page("reference/errors")
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


@pytest.mark.parametrize("path", DOCUMENTS, ids=document_name)
def test_every_make_target_that_is_named_exists(path):
    targets = {target for target, _ in make_targets()}
    assert set(re.findall(r"(?:`|^ +|&& )make ([a-z]+)", path.read_text(), re.MULTILINE)) <= targets


def test_the_readme_shows_the_two_commands_that_begin():
    begin = [row[0] for row in table(section(README, "Start"))]
    assert begin == ["`make demo`", "`make up`"]


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
            r"(?:docker compose (?:exec|run) [\w -]*|(?:export )?\w+=\$\()?"
            r"leadsweep(?= |$)([^#|<>)]*)",
            code,
        ):
            yield shlex.split(found[1])


@pytest.mark.parametrize("path", DOCUMENTS, ids=document_name)
def test_every_command_that_is_shown_exists_with_its_options(path):
    for words in commands_in(path.read_text()):
        command = LEADSWEEP
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


def test_every_command_is_shown_somewhere_beside_its_help():
    written = [path for path in DOCUMENTS if path != DOCS / "reference/command-line.md"]
    shown = {words[0] for path in written for words in commands_in(path.read_text()) if words}
    assert {word for word in shown if not word.startswith("-")} == set(LEADSWEEP.commands)


def rooms():
    """Every folder of code with its rooms, but for the tables' history."""
    for room in map(ROOT.joinpath, ROOMS):
        for folder in (room, *room.iterdir()):
            if (folder / "__init__.py").exists():
                yield folder.relative_to(ROOT).as_posix()


def test_the_map_names_every_room_and_no_other():
    named = [row[0].strip("`/") for row in table(section(page("architecture"), "Map"))]
    assert {name for name in named if name.startswith(ROOMS)} == set(rooms())
    for name in named:
        assert (ROOT / name).is_dir(), name


def test_a_room_has_at_most_twelve_entries():
    """But for worker/, which reads well as one (decision 22)."""
    for name in set(rooms()) - {"worker"}:
        entries = {path.name for path in (ROOT / name).iterdir()} - {"__init__.py", "__pycache__"}
        assert len(entries) <= 12, name


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
    documented = {
        (row[0].strip("`"), row[1]) for row in table(section(page("operations"), "Log events"))
    }
    assert documented == set(log_events())


def anchor(heading):
    """The link target of a heading, as renderers make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=document_name)
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


@pytest.mark.parametrize("path", sorted(DOCS.glob("decisions/[0-9]*.md")), ids=document_name)
def test_a_decision_is_one_screen_of_context_decision_and_consequences(path):
    text = path.read_text()
    places = [text.index(f"**{part}.**") for part in ("Context", "Decision", "Consequences")]
    assert places == sorted(places)
    assert len(text.splitlines()) <= 45


def pages_of(navigation):
    """Every page that the navigation of the site names."""
    for entry in navigation:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else pages_of(target)


def test_the_navigation_names_every_page_but_the_decisions():
    site = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert set(pages_of(site["nav"])) == {
        name for name in pages if not name.startswith("decisions/0")
    }


def test_the_first_page_leads_to_every_page():
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    linked = set(re.findall(r"\]\(([\w/.-]+\.md)\)", page("index")))
    assert linked | {"index.md", "decisions/index.md"} == {
        name for name in pages if not name.startswith("decisions/0")
    }


def built(folder, *, breaking=None):
    """How the build in `folder` ended, after `breaking` has changed its sources, and the site.

    Nothing is fetched for it: every proxy leads nowhere.
    """
    shutil.copy(ROOT / "zensical.toml", folder)
    shutil.copytree(DOCS, folder / "docs")
    if breaking:
        breaking(folder / "docs")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=folder,
        env={"PATH": "", "LANG": "C.UTF-8"} | nowhere,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done, folder / "api/description/static/guide"


def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path):
    done, site = built(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(list(DOCS.rglob("*.md")))
    for html in pages:
        text = html.read_text()
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]* src="?([^" >]+)', text)
        loaded += re.findall(
            r'<link[^>]* rel="?(?:stylesheet|icon|preload)[^>]* href="?([^" >]+)', text
        )
        loaded += re.findall(
            r'<link[^>]* href="?([^" >]+)"?[^>]* rel="?(?:stylesheet|icon|preload)', text
        )
        assert loaded, html
        for target in loaded:
            assert not re.match(r"(?:\w+:)?//", target), (html, target)
            place = site / target.lstrip("/") if target.startswith("/") else html.parent / target
            assert place.resolve().is_file(), (html, target)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet


@pytest.mark.parametrize("link", ["nothing.md", "tutorial.md#nothing"])
def test_a_dead_link_fails_the_build(tmp_path, link):
    def breaking(docs):
        (docs / "proof.md").write_text(f"# Proof\n\n[nowhere]({link})\n")

    done, _ = built(tmp_path, breaking=breaking)
    assert done.returncode != 0, done.stdout
