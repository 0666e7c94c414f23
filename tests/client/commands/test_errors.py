"""An error is one clear line that says how to mend it: never a traceback, never a password, always
the right exit code.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from leadsweep.commands.main import main
from sqlalchemy import text

from shared.database.migrations import downgrade, newest_version

LEADSWEEP = Path(sys.executable).with_name("leadsweep")


def at(leadsweep, monkeypatch, url, *args):
    """The command with another DATABASE_URL."""
    monkeypatch.setenv("DATABASE_URL", url)
    return leadsweep(*(args or ("keys", "list")))


def test_a_database_that_cannot_be_had_is_one_line_without_the_password(leadsweep, monkeypatch):
    for url, complaint in {
        "postgresql://u:sesame@127.0.0.1:1/x": (
            "cannot use the database at postgresql://127.0.0.1:1/x: "
        ),
        "postgresql://u:sesame@[::1/x": "DATABASE_URL",
        "postgresql://u:ses/ame@127.0.0.1:sesame/x": "DATABASE_URL",
        "u:sesame@127.0.0.1/x": (
            "DATABASE_URL is not a URL; write postgresql://user:password@host:port/name"
        ),
        "mysql://u:sesame@127.0.0.1/x": "DATABASE_URL must begin with postgresql://",
        "postgresql://u:sesame@127.0.0.1/x?other=sesame": (
            "DATABASE_URL has an option that PostgreSQL does not know, other;"
        ),
    }.items():
        ran = at(leadsweep, monkeypatch, url)
        assert (ran.code, ran.out) == (1, "")
        assert complaint in ran.error
        assert "ses" not in ran.error.replace("postgresql://user:password@", "")


def test_a_wrong_password_is_one_line_and_not_repeated(leadsweep, monkeypatch, engine):
    wrong = engine.url.set(drivername="postgresql", username="nobody_at_all", password="sesame")
    ran = at(leadsweep, monkeypatch, wrong.render_as_string(hide_password=False))
    assert ran.code == 1
    assert "nobody_at_all" in ran.error
    assert "sesame" not in ran.error


def test_wrong_settings_are_named(leadsweep, monkeypatch):
    monkeypatch.setenv("LEADSWEEP_CHUNK_SIZE", "0")
    monkeypatch.setenv("LEADSWEEP_RATE_LIMIT_READ", "many")
    ran = leadsweep("keys", "list")
    assert ran.code == 1
    assert "LEADSWEEP_CHUNK_SIZE: should be greater than or equal to 1" in ran.error
    assert "LEADSWEEP_RATE_LIMIT_READ: write a rate as 1000/hour" in ran.error


def test_without_database_and_stack_it_says_how_to_start_one(leadsweep, monkeypatch, tmp_path):
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("LEADSWEEP_DATA_DIR", str(tmp_path / "default"))
    assert leadsweep("keys", "list").error == (
        f"no stack is running in {tmp_path}/default, and DATABASE_URL is not set; start one: "
        f"leadsweep up, or set DATABASE_URL"
    )


def test_a_named_data_dir_wins_over_database_url(leadsweep, tmp_path):
    ran = leadsweep("keys", "list", "--data-dir", tmp_path)
    assert (
        ran.error
        == f"no stack is running in {tmp_path}; start one: leadsweep up --data-dir {tmp_path}"
    )


def test_a_schema_that_is_missing_or_of_another_time_is_told_with_the_command_that_mends_it(
    leadsweep, engine
):
    args = ("leads", "import", "-", "--campaign", "x")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    assert leadsweep(*args).error.endswith("; run: leadsweep migrate")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert leadsweep(*args).error.endswith("; upgrade Leadsweep")
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE alembic_version SET version_num = :newest"), {"newest": newest_version()}
        )
        downgrade(connection, "base")
    assert (
        leadsweep(*args).error
        == "the database has no tables of Leadsweep yet; run: leadsweep migrate"
    )


def test_wrong_usage_is_one_line_with_the_help_to_ask_for(leadsweep):
    for args in (
        "nonsense",
        "keys nonsense",
        "keys create",
        "keys list --nonsense",
        "leads count x",
        "migrate --to",
    ):
        ran = leadsweep(*args.split())
        assert (ran.code, ran.out) == (2, ""), args
        assert "--help'." in ran.error


FILES = [
    ("submit", "{}", "--campaign", "x"),
    ("submit", "{}", "--campaign", "x", "--by", "externalId", "--dry-run"),
    ("leads", "import", "{}", "--campaign", "x"),
    ("leads", "import", "-", "--campaign", "x", "--rejects", "{}/x"),
    ("results", "job", "-o", "{}/x"),
]


@pytest.mark.parametrize("command", FILES, ids=" ".join)
def test_a_file_that_cannot_be_had_is_wrong_usage_wherever_one_is_named(
    leadsweep, tmp_path, command
):
    """Before anything is asked, or a server looked for: there is none here."""
    (tmp_path / "dangling").symlink_to("nowhere")
    missing = [
        tmp_path / "none",
        tmp_path / "none" / "none.csv",
        tmp_path / "dangling",
        "",
        "x" * 5000,
    ]
    for name in [*missing, tmp_path] if command[-1] != "{}/x" else missing[:2]:
        ran = leadsweep(*(word.format(name) for word in command))
        assert (ran.code, ran.out) == (2, ""), name
        assert "--help'." in ran.error


def test_a_file_that_may_not_be_read_is_wrong_usage(tmp_path):
    """As somebody else, since root may read everything."""
    (tmp_path / "secret.csv").write_text("externalId\na\n")
    (tmp_path / "secret.csv").chmod(0)
    unprivileged = (
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        if os.geteuid() == 0
        else []
    )
    for command in FILES[:3]:
        words = [word.format(tmp_path / "secret.csv") for word in command]
        ran = subprocess.run(
            [*unprivileged, LEADSWEEP, *words], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 2, ran.stderr
        assert "secret.csv" in ran.stderr


def test_a_group_alone_shows_its_commands(leadsweep):
    ran = leadsweep("keys")
    assert ran.code == 2
    assert "revoke" in ran.err


def test_a_defect_is_one_line_as_well(monkeypatch):
    monkeypatch.setattr("cli.connection.connected", lambda _: 1 / 0)
    result = CliRunner().invoke(main, ["keys", "list"])
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: unexpected ZeroDivisionError: division by zero (LEADSWEEP_LOG_LEVEL=DEBUG "
        "shows where)\n"
    )


def leadsweep_process(engine, *args, **options):
    """The real executable, on the test's database."""
    environment = os.environ | {
        "DATABASE_URL": engine.url.set(drivername="postgresql").render_as_string(
            hide_password=False
        )
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([LEADSWEEP, *args], env=environment, **(pipes | options))


def test_ctrl_c_in_the_middle_of_an_import_imports_nothing_and_is_one_line(leadsweep, engine):
    leadsweep("companies", "create", "acme")
    leadsweep("campaigns", "create", "spring", "--company", "acme")
    with leadsweep_process(engine, "leads", "import", "-", "--campaign", "spring") as process:
        process.stdin.write(
            b"externalId\n" + b"".join(b"CRM_%d\n" % number for number in range(50_000))
        )
        process.stdin.flush()
        wait_for_copy(engine)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read().strip() == b"Error: stopped before it was done"
        process.stdin.close()
    assert leadsweep("leads", "count", "--campaign", "spring").out == "0\n"


def wait_for_copy(engine):
    copying = text(
        "SELECT count(*) FROM pg_stat_progress_copy WHERE tuples_processed > 0 AND datname = "
        "current_database()"
    )
    deadline = time.monotonic() + 30
    with engine.connect() as connection:
        while not connection.scalar(copying):
            assert time.monotonic() < deadline, "the import never began"


def test_a_reader_that_goes_away_ends_the_command_quietly(engine):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with leadsweep_process(engine, "keys", "list", "--json", stdout=write_end) as process:
        os.close(write_end)
        assert process.wait(timeout=30) == 1
        assert process.stderr.read() == b""


def test_help_and_version_answer_at_once():
    for args in (
        ["--help"],
        ["keys", "--help"],
        ["leads", "import", "--help"],
        ["up", "--help"],
        ["--version"],
    ):
        assert min(cpu_seconds([LEADSWEEP, *args]) for _ in range(3)) < 0.3, args


def cpu_seconds(command):
    """What the command costs; what else the machine does meanwhile is not its fault."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime
