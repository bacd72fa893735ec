from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kubevend_server.callers import Caller
from kubevend_server.cluster.credentials import Presented, Stored, TokenFile
from kubevend_server.configs import Config, Credential
from kubevend_server.encryption import Keyring
from kubevend_server.paging import PageTokens
from kubevend_server.redaction import redact
from tests.unit.builders import SECRET, bearer, call, client_certificate, config, granted, minted, shown

PROCESS = """
import logging
import sys

import structlog
from kubevend_server import logs

logs.configure("info")

def authenticate(token, metadata):
    headers = {"Authorization": "Bearer " + token}
    raise RuntimeError("a defect")

try:
    authenticate("s3cr3t-jwt-of-a-cluster", {"authorization": "Bearer s3cr3t-jwt-of-a-cluster"})
except RuntimeError:
    structlog.get_logger().exception("defect", method="x")
    logging.getLogger("library").exception("a library's error")

structlog.get_logger().warning("shown " + sys.argv[1], file=[sys.argv[1]], **{sys.argv[1]: b"x" + sys.argv[1].encode()})
try:
    raise RuntimeError("a path: /" + sys.argv[1])
except RuntimeError:
    structlog.get_logger().exception("defect", request=Exception(sys.argv[1]))
    logging.getLogger("library").exception("%s", sys.argv[1], extra={"headers": sys.argv[1]})
"""


def test_the_process_log_shows_no_locals() -> None:
    """A defect's traceback in the process log names files and lines, and no values: on the way of an issuance they are
    bearer tokens, headers and requests. What libraries log is held to the same.
    """
    lines, written = _logged("x")
    assert [line["event"] for line in lines] == ["defect", "a library's error", "shown x", "defect", "x"]
    assert all("authenticate" in json.dumps(line["exception"]) for line in lines[:2])
    assert SECRET not in written


@pytest.mark.parametrize(
    "secret", [minted(), bearer(), client_certificate().private_key], ids=["minted", "bearer", "key"]
)
def test_the_process_log_shows_no_credential(secret: str) -> None:
    """A credential that is in an event, its fields, or an exception's text is in no line, and each line is JSON."""
    lines, written = _logged(secret)
    note = redact(secret)
    assert [line["event"] for line in lines] == ["defect", "a library's error", f"shown {note}", "defect", note]
    assert secret not in written
    # A key's lines are escaped in JSON.
    assert not any(part in written for part in secret.split("\n") if len(part) > 30 and "-----" not in part)


def _logged(shown: str) -> tuple[list[dict[str, Any]], str]:
    """What a process writes to its log that logs a text wherever one can be; parsed, and as it was written."""
    done = subprocess.run([sys.executable, "-c", PROCESS, shown], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stderr.splitlines()], done.stderr


@pytest.mark.parametrize(
    "holder",
    [
        Credential("service_account_jwt", service_account_jwt=SECRET),
        config(),
        Config("configs/a", credential=Credential("service_account_jwt", service_account_jwt=SECRET)),
        Credential("client_certificate", certificate="PEM", private_key=SECRET),
        Config("configs/a", credential=Credential("client_certificate", private_key=SECRET)),
        Presented(SECRET),
        Presented(certificate="PEM", private_key=SECRET),
        Stored("the stored token", Presented(SECRET)),
        Stored("the client certificate", Presented(certificate="PEM", private_key=SECRET)),
        Keyring({"k1": SECRET.ljust(32, "x")[:32].encode()}),
        PageTokens(Keyring({"k1": SECRET.ljust(32, "x")[:32].encode()})),
        call(payload=SECRET.encode(), shown=shown({"authorization": f"Bearer {SECRET}"})),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_what_holds_a_secret_does_not_show_it(holder: object) -> None:
    """Neither the representation nor the text of an object holds the secret that it holds."""
    for text in (repr(holder), str(holder), f"{holder}"):
        assert SECRET not in text


def test_a_token_file_shows_its_path_only(tmp_path: Path) -> None:
    """A token file's representation has its path, before and after it was read."""
    file = tmp_path / "token"
    file.write_text(SECRET)
    token = TokenFile(file)
    assert token.read() == Presented(SECRET)
    assert repr(token) == f"TokenFile({str(file)!r})"


def test_certificate_files_show_their_paths_only(tmp_path: Path) -> None:
    """The representation of a client certificate's files has their paths, before and after they were read."""
    pair = client_certificate()
    files = pair.write(tmp_path)
    assert files.read() == pair.presented
    assert repr(files) == f"ClientCertificateFiles({str(tmp_path / 'tls.crt')!r}, {str(tmp_path / 'tls.key')!r})"


def test_what_is_public_is_shown() -> None:
    """A caller and a grant are there to be read."""
    assert "deployer" in repr(granted())
    assert "admin" in repr(Caller("admin://local/bootstrap", "Admin", "bootstrap_token"))
