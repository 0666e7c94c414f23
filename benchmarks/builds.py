"""Whose code is measured: this tree's, or that of another commit, in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements-dev.lock"
WHERE_FROM = """
from importlib.util import find_spec
for room in ("api", "worker", "shared", "cli"):
    print(find_spec(room).origin)
"""


class Build(NamedTuple):
    """A folder with our code, and the Python whose packages serve it."""

    folder: Path
    python: str = sys.executable

    @property
    def command(self):
        """Python text that runs this build's `leadsweep`, whose place has changed."""
        has_client = (self.folder / "client/leadsweep").exists()
        module = "leadsweep.commands.main" if has_client else "cli.main"
        return f"from {module} import main; main()"

    def start(self, *arguments, env, **options):
        """A process of this build, `python arguments`, which ends with ours.

        This tree is installed in our .venv, so that any process of that can import it; PYTHONPATH
        goes before what is installed.
        """
        command = ["setpriv", "--pdeathsig", "KILL", self.python, *map(str, arguments)]
        folders = [self.folder]
        if (self.folder / "client/leadsweep").exists():  # else it is a package itself
            folders.append(self.folder / "client")
        env = env | {"PYTHONPATH": ":".join(map(str, folders))}
        return subprocess.Popen(command, cwd=self.folder, env=env, **options)

    def migrate(self, database_url):
        """Brings the database to this build's schema."""
        env = os.environ | {"DATABASE_URL": database_url}
        if self.start("-c", self.command, "migrate", env=env, stdout=subprocess.DEVNULL).wait():
            raise RuntimeError(f"the code in {self.folder} did not migrate its database")

    def require_own_code(self):
        """Raises RuntimeError where a process of this build would import code from elsewhere: no
        figure would show it.
        """
        process = self.start("-c", WHERE_FROM, env=os.environ, stdout=subprocess.PIPE, text=True)
        origins = process.communicate()[0].splitlines()
        strays = [origin for origin in origins if not Path(origin).is_relative_to(self.folder)]
        if process.returncode or strays:
            raise RuntimeError(
                f"the build in {self.folder} would import code from elsewhere: {', '.join(strays)}"
            )


THIS = Build(ROOT)


def check_out(commit, folder):
    """The build of `commit`, in the new `folder`, with our packages if it pins the same ones, else
    with a .venv of its own.
    """
    folder.mkdir()
    tree = subprocess.run(
        ["git", "-C", ROOT, "archive", commit], stdout=subprocess.PIPE, check=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=tree, check=True)
    build = Build(folder)
    if not ours_serve(folder):
        subprocess.run(
            ["sh", "scripts/setup.sh"],
            cwd=folder,
            env=os.environ | {"PYTHON": sys.executable},
            check=True,
        )
        build = Build(folder, str(folder / ".venv/bin/python"))
    build.require_own_code()
    os.sync()  # what has just been written is not to be written while something is measured
    return build


def ours_serve(folder):
    """Whether our packages are those that the code in `folder` pins. More of them do no harm."""
    return _pins(folder) <= _pins(ROOT)


def _pins(folder):
    return {
        line
        for line in (folder / LOCK).read_text().splitlines()
        if "==" in line and not line.startswith((" ", "#"))
    }


def resolve(name):
    """The commit that `name` names. Raises ValueError, with git's reason where it has one, if there
    is none.
    """
    try:
        command = ["git", "-C", ROOT, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ValueError(str(error)) from None
    if completed.returncode:
        raise ValueError(completed.stderr.partition("\n")[0] or "no such commit in this repository")
    return completed.stdout.strip()


def title(commit):
    """Its short hash and subject."""
    return _git("log", "-1", "--format=%h %s", commit)


def is_dirty():
    """Whether the files of this tree are others than those of its commit; results of benchmarks
    aside.
    """
    return bool(_git("status", "--porcelain", "--", ".", ":!benchmarks/results"))


def _git(*arguments):
    return subprocess.run(
        ["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
