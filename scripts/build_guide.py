"""Builds the guide of docs/ before a wheel is packed, so that the API of the wheel serves it."""

import subprocess
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildGuide(BuildHookInterface):
    """Runs what `make docs` runs. An installation from the folder serves what `make` has built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - Hatch's signature
        """Fails where a link leads nowhere."""
        if version == "standard":
            command = [sys.executable, "-m", "zensical", "build", "--strict"]
            subprocess.run(command, cwd=self.root, check=True)
