"""Commands run in this process here too, as those of operators do."""

from tests.cli.conftest import leadsweep  # noqa: F401 - a fixture
