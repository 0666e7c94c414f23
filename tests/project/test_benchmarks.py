"""`make bench ARGS='--against COMMIT'`: what is measured as the other build is its code, and
nothing of this tree.
"""

import re
import shutil
from pathlib import Path
from uuid import uuid4

import pytest

from benchmarks.__main__ import main
from benchmarks.builds import LOCK, ROOT, Build, ours_serve
from benchmarks.contests import OURS_ALONE, Round, in_turn
from benchmarks.ground import Ground, Processes

ROOMS = ("api", "worker", "shared", "cli")


@pytest.fixture
def other(tmp_path):
    """A copy of this tree, as another commit would be, without packages of its own."""
    for room in (*ROOMS, "client"):
        shutil.copytree(
            ROOT / room,
            tmp_path / room,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    shutil.copy(ROOT / LOCK, tmp_path)
    return Build(tmp_path)


def test_a_commit_that_is_not_there_is_one_line_of_error(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--against", "nosuch", "accept"])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith("python -m benchmarks: --against nosuch: ")


def test_a_contest_that_is_not_there_is_named_before_anything_is_built(capsys):
    with pytest.raises(SystemExit):
        main(["--against", "HEAD", "accept", "sprint"])
    assert "no such contest: sprint" in capsys.readouterr().err


def test_another_build_runs_its_own_code_on_a_database_of_its_own(servers, other):
    code = other.folder / "worker/__init__.py"
    code.write_text("from pathlib import Path\n\nPath('imported').write_text(__file__)\n")
    other.require_own_code()
    ground = Ground(servers, other, f"theirs_{uuid4().hex}")
    ground.fill(1000)
    with (
        Processes(ground).run("ticker", "worker.ticker", ready="ticker ready") as process,
        ground.connect() as connection,
    ):
        assert Path(f"/proc/{process.pid}/cwd").readlink() == other.folder
        assert (other.folder / "imported").read_text() == str(code)
        assert connection.execute("SELECT count(*) FROM leads").fetchone() == (1000,)


@pytest.mark.parametrize("room", ROOMS)
def test_a_build_that_would_borrow_a_room_of_ours_is_refused(other, room):
    shutil.rmtree(other.folder / room)
    with pytest.raises(RuntimeError, match=re.escape(str(ROOT / room))):
        other.require_own_code()


def test_our_packages_serve_who_pins_the_same_or_fewer_of_them(other):
    lock = other.folder / LOCK
    assert ours_serve(other.folder)
    _first, separator, others = lock.read_text().partition("\namqp==")
    lock.write_text(f"amqp=={others}")
    assert separator
    assert ours_serve(other.folder)
    lock.write_text(f"amqp==0{others}")
    assert not ours_serve(other.folder)


def test_the_side_that_was_first_is_second_in_the_next_round():
    order = []
    sides = [lambda: order.append("ours") or 1.0, lambda: order.append("theirs") or 2.0]
    assert [in_turn(number, *sides) for number in range(2)] == [Round(1.0, 2.0)] * 2
    assert order == ["ours", "theirs", "theirs", "ours"]
    assert in_turn(OURS_ALONE, *sides) == Round(1.0, None)
    assert order[4:] == ["ours"]
