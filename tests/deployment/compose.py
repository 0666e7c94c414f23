"""Reads docker-compose.yml as Docker Compose does, as far as the tests need it: variables and
merged services.
"""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<sign>:[-?])(?P<word>[^${}]*))?\}")


def services():
    """The services by name, variables not yet replaced."""
    return yaml.safe_load(TEXT)["services"]


def variables(text=TEXT):
    """Every variable that is used in `text`, with its sign (`:-` default, `:?` required) and the
    word after it.
    """
    uses = []

    def note(match):
        uses.append((match["name"], match["sign"] or "", match["word"] or ""))
        return ""

    while _VARIABLE.search(text):  # inner ones first
        text = _VARIABLE.sub(note, text)
    return uses


def interpolate(text, values):
    """`text` with its variables replaced. Raises KeyError for a required one that is missing."""

    def value(match):
        found = values.get(match["name"])
        if not found and match["sign"] == ":?":
            raise KeyError(match["name"])
        return found or (match["word"] if match["sign"] == ":-" else "") or ""

    while _VARIABLE.search(text):
        text = _VARIABLE.sub(value, text)
    return text.replace("$$", "$")
