#!/usr/bin/env bash
# Seen: Ruff 0.17.6 and FastAPI 0.125.0 on Python 3.11, 28 November 2026.
#
# One expects: an annotation means the same whether it is written where it is used or has a name of its own (`JobId = Annotated[…]`), as
# Python and FastAPI have it. Ruff's rule FAST003, which compares the parameters of a path with those of its function, knows the alias
# of a parameter only where the annotation is written out. Behind a name it reports a parameter that is there, and its unsafe fix adds a
# second one, which is then a parameter of the function that nobody reads. What FastAPI describes is the same for both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/python"
"$work/python/bin/pip" install --quiet ruff==0.17.6 fastapi==0.125.0
cd "$work"
cat >service.py <<'PYTHON'
from typing import Annotated

from fastapi import FastAPI, Path

app = FastAPI()
JobId = Annotated[str, Path(alias="jobId")]


@app.get("/inline/{jobId}")
def inline(job_id: Annotated[str, Path(alias="jobId")]) -> str:
    return job_id


@app.get("/named/{jobId}")
def named(job_id: JobId) -> str:
    return job_id
PYTHON

described=$("$work/python/bin/python" -c '
import service
print([[p["name"] for p in path["get"]["parameters"]] for path in service.app.openapi()["paths"].values()])')
said=$("$work/python/bin/ruff" check --isolated --select FAST003 --output-format concise service.py || true)
cp service.py mended.py
"$work/python/bin/ruff" check --isolated --select FAST003 --fix --unsafe-fixes --quiet mended.py
echo "FastAPI describes: $described"
echo "$said"
grep -n "^def" mended.py

[ "$described" = "[['jobId'], ['jobId']]" ]
[ "$(grep -c FAST003 <<<"$said")" = 1 ]
grep -q 'in `named` signature' <<<"$said"
grep -q '^def named(job_id: JobId, jobId)' mended.py
