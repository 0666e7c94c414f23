#!/bin/sh
# Creates .venv with the pinned dependencies. A lock keeps two runs at once from installing into each other's hands.
set -eu
python="${PYTHON:-python3}"
exec 9>.setup.lock
if command -v flock >/dev/null 2>&1; then flock 9; fi
if [ -f .venv/.installed ] && [ .venv/.installed -nt pyproject.toml ] && [ .venv/.installed -nt requirements-dev.lock ]; then exit 0; fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Leadsweep needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
echo "setting up .venv (once; a minute or so)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
touch .venv/.installed
