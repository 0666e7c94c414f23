"""The two distributions as people install them: the client alone, in a fresh environment, beside
modules of the user's own that have the names of our rooms.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.faults.conftest import ground  # noqa: F401 - a fixture
from tests.support.stack import PROJECT, running_api, running_ticker, running_worker

MOST_PACKAGES = 12
MOST_BYTES = 15_000_000
OWN = ("client.py", "shared/__init__.py", "api/__init__.py", "cli/__init__.py", "worker.py")
PROGRAM = """
import os, sys
import api, cli, client, shared, worker
from leadsweep import Client, Lead

assert {api.MINE, cli.MINE, client.MINE, shared.MINE, worker.MINE} == {"the user's own"}
with Client(os.environ["LEADSWEEP_URL"], os.environ["LEADSWEEP_API_KEY"]) as leads:
    job = leads.wait(leads.submit("cmp", [{"externalId": "crm-1"}, {"externalId": "x"}]).job_id)
    missing = [result.identifier for result in leads.results(job.job_id, outcome="notFound")]
print(job.status, job.deleted, *missing)
print(sorted(name for name in ("rich", "sqlalchemy", "celery", "fastapi") if name in sys.modules))
"""


def run(*command, **options):
    """What the command printed; it must end well."""
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, **options
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The wheels of both, by the names of their distributions. Nothing is asked of an index."""
    folder = tmp_path_factory.mktemp("wheels")
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"]
    run(*wheel, "--no-build-isolation", "--wheel-dir", folder, PROJECT, PROJECT / "client")
    return {path.name.partition("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def python(wheels, tmp_path_factory):
    """The interpreter of a fresh environment that has the client, and of the packages that are
    installed here those that the client's wheel asks for, directly or not; no others.
    """
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    for name in needed(wheels["leadsweep"]):
        copy(name, site)
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    run(*install, "--no-index", "--no-deps", wheels["leadsweep"])
    return python


def needed(wheel):
    """The names of all that the wheel needs here, without extras, by the metadata."""
    waiting, seen = requirements(metadata(wheel).get_all("Requires-Dist", ())), set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += requirements(distribution(name).requires or ())
    return seen


def requirements(written):
    read = map(Requirement, written)
    return [
        canonicalize_name(one.name)
        for one in read
        if not one.marker or one.marker.evaluate({"extra": ""})
    ]


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def copy(name, site):
    """The files of an installed distribution, without its scripts."""
    for path in distribution(name).files:
        if ".." not in path.parts and path.suffix != ".pyc":
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_bytes(Path(path.locate()).read_bytes())


def top_level(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name.partition("/")[0] for name in archive.namelist()}


def test_the_client_brings_one_name_and_the_server_is_another_distribution(wheels):
    assert wheels.keys() == {"leadsweep", "leadsweep-server"}
    client, server = top_level(wheels["leadsweep"]), top_level(wheels["leadsweep-server"])
    assert {name for name in client if ".dist-info" not in name} == {"leadsweep"}
    assert {name for name in server if ".dist-info" not in name} == {
        "api",
        "cli",
        "shared",
        "worker",
    }
    with zipfile.ZipFile(wheels["leadsweep"]) as archive:
        assert "leadsweep/py.typed" in archive.namelist()
        assert b"def printable(" in archive.read("leadsweep/rules/printable.py"), "not a link"


def test_the_client_is_small(wheels, python):
    names = needed(wheels["leadsweep"])
    assert len(names) + 1 <= MOST_PACKAGES, names
    assert "rich" not in names
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    run(python, "-m", "compileall", "-q", site)
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) <= MOST_BYTES


def test_an_index_is_never_asked_for_the_name_of_the_client():
    """It is not in a lock, nor among the requirements of the server: both are installed from the
    checkout.
    """
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    asked = requirements([*project["dependencies"], *(one for extra in extras for one in extra)])
    client = tomllib.loads((PROJECT / "client" / "pyproject.toml").read_text())["project"]
    assert not {"leadsweep", "leadsweep-server"} & {*asked, *requirements(client["dependencies"])}
    for lock in PROJECT.glob("requirements*.lock"):
        pinned = set(re.findall(r"^([a-z0-9.-]+)==", lock.read_text(), re.MULTILINE))
        assert not {"leadsweep", "leadsweep-server"} & pinned, lock
        assert {*requirements(client["dependencies"])} <= pinned, lock
    assert client["version"] == project["version"]


def test_it_works_beside_modules_of_the_users_own_that_are_called_as_our_rooms(
    python,
    ground,  # noqa: F811
    tmp_path,
):
    pairs = ground.add_leads(4)
    for name in OWN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('MINE = "the user\'s own"\n')
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "leads.csv").write_text(f"externalId\n{pairs[2][0]}\n{pairs[3][0]}\nnobody\n")
    with (
        running_api(ground.env()) as url,
        running_worker(ground.env()),
        running_ticker(ground.env()),
    ):
        here = {
            "cwd": tmp_path,
            "env": {
                "PATH": os.environ["PATH"],
                "LEADSWEEP_URL": url,
                "LEADSWEEP_API_KEY": ground.key,
            },
        }
        leadsweep = python.with_name("leadsweep")
        job_id = run(leadsweep, "submit", "leads.csv", "--campaign", "cmp", "--yes", **here).strip()
        run(leadsweep, "watch", job_id, **here)
        job = json.loads(run(leadsweep, "status", job_id, "--json", **here))
        assert (job["status"], job["deleted"], job["notFound"]) == ("completed", 2, 1)
        assert "nobody,notFound" in run(leadsweep, "results", job_id, **here)
        assert job_id in run(leadsweep, "jobs", "list", **here)
        assert run(python, "program.py", **here) == "completed 1 x\n[]\n"
        assert run(leadsweep, "--version", **here).count("\n") == 1
        assert " up " not in run(leadsweep, "--help", **here)
