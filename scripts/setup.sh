#!/bin/sh
# Creates .venv with the pinned dependencies: `embedded` to run Leadsweep with servers of its own, `dev` to work on it as well.
# A lock keeps two runs at once from installing into each other's hands.
set -eu
kind="${1:-dev}"
python="${PYTHON:-python3}"
exec 9>.setup.lock
if command -v flock >/dev/null 2>&1; then flock 9; fi
stamp=".venv/.installed-$kind"
if [ -f "$stamp" ] && [ "$stamp" -nt pyproject.toml ] && [ "$stamp" -nt client/pyproject.toml ] && [ "$stamp" -nt "requirements-$kind.lock" ]; then exit 0; fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Leadsweep needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
echo "setting up .venv (once; a minute or so)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "requirements-$kind.lock"
# Server and client are installed from this folder, never by name: somebody else may own the name on an index.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation \
	-e . -e client
# Compiled ahead, also where PYTHONDONTWRITEBYTECODE is set: else each process would compile all of it at each start.
.venv/bin/python -m compileall -q api worker shared cli client
touch .venv/.installed-embedded  # which all of dev is more than
touch "$stamp"
