"""The table of proofs is that of the tests: what they are marked with, and how many there are."""

import json
import re

from tests.support.counts import PROOFS, WHOLE
from tests.support.stack import PROJECT

RENEW = "PROOF=docs/proof.json .venv/bin/python -m tests.support.counts"


def test_every_kind_of_proof_has_tests_and_every_test_a_kind():
    sources = (PROJECT / "tests").rglob("test_*.py")
    marked = [re.findall(r'mark\.proof\("([^"]+)"\)', path.read_text()) for path in sources]
    assert {kind for kinds in marked for kind in kinds} == PROOFS.keys()


def test_the_file_says_what_the_tests_are_told():
    written = json.loads((PROJECT / "docs/proof.json").read_text())["proofs"]
    assert [
        (proof["kind"], proof["what"], proof["in_make_test"], proof["in_make_proof"])
        for proof in written
    ] == [(kind, *proof) for kind, proof in PROOFS.items()], f"renew it: {RENEW}"


def test_no_run_was_smaller_than_what_is_promised_of_it():
    written = json.loads((PROJECT / "docs/proof.json").read_text())["proofs"]
    ran = {proof["kind"]: proof["last_run"]["count"] for proof in written if proof["last_run"]}
    assert {
        kind: count for kind, count in ran.items() if count < WHOLE * PROOFS[kind].in_proof
    } == {}
