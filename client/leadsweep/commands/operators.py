"""The operators' commands, which come with the server and join the same `leadsweep` command.

The distribution `leadsweep-server` names them as entry points in the group `leadsweep.commands`.
Each is imported only when it is needed. A command that cannot be imported says so when it is
called, and does not break the others.
"""

from collections.abc import Iterator, MutableMapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution

import click

from leadsweep.terminal.failure import Failure

CLIENT, SERVER = "leadsweep", "leadsweep-server"
_GROUP = "leadsweep.commands"


def server_version() -> str | None:
    """The version of the server that is installed here; None where only the client is."""
    try:
        return distribution(SERVER).version
    except PackageNotFoundError:
        return None


def misfit(client: str, server: str) -> str | None:
    """Why two versions do not fit, and what to do; None where major and minor are the same."""
    if client.split(".")[:2] == server.split(".")[:2]:
        return None
    return (
        f"{CLIENT} {client} and {SERVER} {server} do not fit: the first two numbers must be the "
        "same; install both from one checkout"
    )


class CommandTable(MutableMapping[str, click.Command]):
    """All commands by their names: the callers' and, if the server is installed, the operators',
    which replace a caller's command of the same name.

    They come in the given order; names that are not in it come last.
    """

    def __init__(self, order: Sequence[str]) -> None:
        self._order = order
        self._callers: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        entry_point = _entry_points().get(name)
        return _loaded(entry_point) if entry_point else self._callers[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._callers[name] = command

    def __delitem__(self, name: str) -> None:
        del self._callers[name]

    def __iter__(self) -> Iterator[str]:
        names = {*self._callers, *_entry_points()}
        yield from (name for name in self._order if name in names)
        yield from sorted(names.difference(self._order))

    def __len__(self) -> int:
        return len({*self._callers, *_entry_points()})


@cache
def _loaded(entry_point: EntryPoint) -> click.Command:
    """The command, or one that says why it cannot run."""
    try:
        command = entry_point.load()
    except Exception as error:  # noqa: BLE001 - a broken command must not break the others
        return _broken(entry_point.name, error)
    if not isinstance(command, click.Command):
        return _broken(entry_point.name, TypeError(f"{entry_point.value} is not a command"))
    return command


@cache
def _entry_points() -> dict[str, EntryPoint]:
    try:
        server = distribution(SERVER)
    except PackageNotFoundError:
        return {}
    return {entry.name: entry for entry in server.entry_points.select(group=_GROUP)}


def _broken(name: str, error: Exception) -> click.Command:
    """A command that takes any arguments and ends with what is wrong."""
    wrong = f"{name} cannot be loaded: {type(error).__name__}: {error}"

    def fail() -> None:
        raise Failure(wrong, f"install {SERVER} again")

    return click.Command(
        name,
        callback=fail,
        help=f"Cannot be loaded; install {SERVER} again.",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
