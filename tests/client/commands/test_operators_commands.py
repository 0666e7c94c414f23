"""The operators' commands join the client's by entry points, and a broken one breaks no other."""

from importlib.metadata import EntryPoint, version

import pytest
from click.testing import CliRunner
from leadsweep.commands import operators
from leadsweep.commands.main import main

ORDER = [
    *("up", "demo", "submit", "status", "watch", "results", "jobs", "migrate", "doctor"),
    *("companies", "campaigns", "keys", "leads", "webhooks", "completion"),
]


def run(*args):
    result = CliRunner().invoke(main, args, prog_name="leadsweep")
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def entry_points(monkeypatch):
    """The entry points that are found, by name: a test changes them."""
    found = dict(operators._entry_points())
    monkeypatch.setattr(operators, "_entry_points", lambda: found)
    return found


def test_all_commands_are_listed_in_the_order_of_their_importance():
    assert [name for name in main.commands if name in ORDER] == ORDER
    assert len(main.commands) == len(list(main.commands))


def test_a_broken_command_says_so_and_leaves_the_others_alone(entry_points):
    entry_points["doctor"] = EntryPoint("doctor", "no_such_module:doctor", operators._GROUP)
    entry_points["keys"] = EntryPoint("keys", "cli.accounts.keys:Path", operators._GROUP)
    code, out, _ = run("--help")
    assert code == 0
    assert "\n  doctor      Cannot be loaded" in out
    assert "\n  campaigns   Campaigns, which hold leads" in out
    code, _, err = run("doctor", "--json", "anything")
    assert code == 1
    assert err == (
        "Error: doctor cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'; "
        "install leadsweep-server again\n"
    )
    code, _, err = run("keys", "list")
    assert code == 1
    assert "cli.accounts.keys:Path is not a command" in err


def test_a_command_that_this_client_does_not_know_comes_last(entry_points):
    entry_points["archive"] = entry_points["doctor"]
    assert list(main.commands)[-1] == "archive"
    assert run("archive", "--help")[0] == 0


def test_without_the_server_there_are_the_callers_commands(entry_points):
    entry_points.clear()
    callers = ["submit", "status", "watch", "results", "jobs", "webhooks", "completion"]
    assert list(main.commands) == callers
    assert list(main.commands["webhooks"].commands) == ["listen"]
    assert run("doctor")[0] == 2


def test_the_versions_of_client_and_server_are_told_and_whether_they_fit(monkeypatch):
    here = version("leadsweep")
    assert run("--version") == (0, f"leadsweep {here}\nleadsweep-server {here}\n", "")
    monkeypatch.setattr("leadsweep.commands.main.server_version", lambda: "77.0.1")
    code, out, err = run("--version")
    assert (code, out) == (0, f"leadsweep {here}\nleadsweep-server 77.0.1\n")
    assert err == (
        f"warning: leadsweep {here} and leadsweep-server 77.0.1 do not fit: "
        "the first two numbers must be the same; install both from one checkout\n"
    )
    monkeypatch.setattr("leadsweep.commands.main.server_version", lambda: None)
    assert run("--version") == (0, f"leadsweep {here}\n", "")


@pytest.mark.parametrize(
    ("client", "server", "fit"),
    [("1.2.3", "1.2.9", True), ("1.2.3", "1.3.0", False), ("1.2", "2.2", False)],
)
def test_versions_fit_where_their_first_two_numbers_are_the_same(client, server, fit):
    assert (operators.misfit(client, server) is None) == fit
