from __future__ import annotations

import itertools
import json
import string
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from kubevend.v1 import audit_event_pb2
from kubevend.v1 import config_service_pb2 as cs
from kubevend.v1 import issue_service_pb2 as iss
from kubevend_server.audit.chain import Head
from kubevend_server.audit.log import AuditLog
from kubevend_server.audit.verify import Report, verify
from kubevend_server.cli import main
from kubevend_server.errors import InvalidArgument, Violation, to_status
from kubevend_server.field_rules import check_no_credential
from kubevend_server.redaction import KEY_NOTE, TOKEN_NOTE, redact, redact_json
from tests.support.malformed import methods
from tests.support.misplaced import misplaced
from tests.unit.builders import AUDIT_KEY, bearer, ca_certificate, client_certificate, clock, minted
from tests.unit.world import Refused, World

ADMIN = "kubevend-admin-Zk3_x0m8QeYb1fT-7uHc2vLw9sNd4pRg6aJi5oKtEyU"
PAIR = client_certificate()
KEY = PAIR.private_key
TOKENS = [minted(), bearer(), ADMIN]
SECRETS = [*TOKENS, KEY.strip()]
KINDS = ["minted", "bearer", "admin", "key"]
INPUTS = [method.input_type for method in methods()]


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (minted(), TOKEN_NOTE),
        (f"Bearer {minted()}", f"Bearer {TOKEN_NOTE}"),
        (f"/run/{bearer()}/token", f"/run/{TOKEN_NOTE}/token"),
        (f"no {minted()}, nor {bearer()}.", f"no {TOKEN_NOTE}, nor {TOKEN_NOTE}."),
        (minted() * 2, TOKEN_NOTE),
        (minted()[1:], TOKEN_NOTE),
        (minted().rpartition(".")[0], TOKEN_NOTE),
        (minted() + ".", TOKEN_NOTE + "."),
        (f"é{minted()}é", f"é{TOKEN_NOTE}é"),
        (ADMIN, TOKEN_NOTE),
        (ADMIN[1:], TOKEN_NOTE),
        (ADMIN[:-1], TOKEN_NOTE),
        (f"token={ADMIN}\n", f"token={TOKEN_NOTE}\n"),
        (KEY, KEY_NOTE + "\n"),
        (f"a {KEY} b {KEY} c", f"a {KEY_NOTE}\n b {KEY_NOTE}\n c"),
        (KEY.replace("\n", " "), KEY_NOTE + " "),
        (KEY[:-40], KEY_NOTE),
        (KEY.replace("PRIVATE", "RSA PRIVATE"), KEY_NOTE + "\n"),
        (PAIR.certificate + KEY, f"{PAIR.certificate}{KEY_NOTE}\n"),
    ],
    ids=itertools.count(),
)
def test_a_note_stands_for_a_credential(text: str, redacted: str) -> None:
    """What has the form of a credential gives way to a note that says what it was; what is around it stays."""
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "roles/ci",
        "https://kubernetes.default.svc",
        "kubernetes://prod/kubevend-admin-tools/kubevend-admin-of-all-the-clusters-that-there-are",
        "kubevend-admin-for-the-tests",
        "it holds a PRIVATE KEY: put that into private_key",
        "the private key is not PEM without a passphrase (-----BEGIN PRIVATE KEY-----)",
        "eyJhbGciOiJub25lIn0",
        "10.0.0.1:6443, a.b.c",
        ca_certificate(),
    ],
    ids=itertools.count(),
)
def test_what_is_no_credential_stays(text: str) -> None:
    """Names, hosts, certificates and kubevend's own words stay as they are."""
    assert redact(text) == text


@given(st.text(), st.sampled_from(SECRETS), st.text())
def test_no_surroundings_hide_a_credential(before: str, secret: str, after: str) -> None:
    """Whatever stands around a credential, it is taken out, and nothing is left to take out."""
    found = redact(before + secret + after)
    assert secret not in found
    assert redact(found) == found


@given(st.text(string.ascii_letters + ".-_eyJ \\n\n"))
def test_a_document_without_credentials_stays_to_the_byte(text: str) -> None:
    """Where there is nothing to take out, JSON stays as it was encoded, or is at least the same value."""
    document = msgspec.json.encode({"a": [text, 1, None, 2.5, True]})
    redacted = redact_json(document)
    assert json.loads(redacted) == {"a": [redact(text), 1, None, 2.5, True]}
    assert redacted == document or ".eyJ" in text


@pytest.mark.parametrize("secret", SECRETS, ids=KINDS)
@pytest.mark.parametrize("before", ["", "\n", "\\", '"', "\x00", "é", "\u2028"])
def test_an_escape_before_a_credential_stays_whole(before: str, secret: str) -> None:
    """A document is JSON afterwards too, whatever is escaped just before a credential, in names as in values."""
    document = msgspec.json.encode({"a": {before + secret: [before + secret]}, "n": 1})
    note = before + redact(secret)
    assert json.loads(redact_json(document)) == {"a": {note: [note]}, "n": 1}


# The audit log.


@pytest.mark.parametrize("secret", SECRETS, ids=KINDS)
def test_an_audit_line_without_its_credentials_verifies(tmp_path: Path, secret: str) -> None:
    """A line that had a credential in its texts and names is an AuditEvent without it, and the chain is sound."""
    file = tmp_path / "audit.jsonl"
    log = AuditLog(file, AUDIT_KEY, Head(), clock)
    request = {"role": {"labels": {secret: f"é {secret}"}, "allowedAudiences": [secret, "x"]}, "pageSize": 3}
    event = {"stage": "STAGE_COMPLETE", "userAgent": f"curl\n{secret}", "request": request, "message": secret}
    log.append({"stage": "STAGE_INTENT", "resource": "roles/é"})
    log.append(event)
    log.append({"stage": "STAGE_COMPLETE"})
    log.close()

    lines = file.read_bytes().splitlines()
    assert verify(lines, AUDIT_KEY, log.head) == Report(lines=3)
    note = redact(secret)
    written = json_format.Parse(lines[1], audit_event_pb2.AuditEvent())
    assert secret.rsplit("\n", maxsplit=1)[-1] not in file.read_text()
    assert (written.sequence, written.user_agent, written.message) == (2, f"curl\n{note}", note)
    assert json_format.MessageToDict(written.request) == {
        "role": {"labels": {note: f"é {note}"}, "allowedAudiences": [note, "x"]},
        "pageSize": 3,
    }


@pytest.mark.parametrize("key", ["user-agent", "x-request-id", "traceparent", "tracestate", "x-anything"])
@pytest.mark.parametrize("token", TOKENS, ids=KINDS[:3])
async def test_metadata_bring_no_token_into_the_audit_log(world: World, key: str, token: str) -> None:
    """A token in the metadata is in no event, whatever the key."""
    with pytest.raises(Refused):
        await world.call(iss.IssueTokenRequest(role="roles/ci"), {"authorization": f"Basic {token}", key: token})
    (line,) = world.lines()
    assert line["reason"] == "CREDENTIAL_MISSING"
    assert token not in world.audit_file.read_text()


# Errors.


@pytest.mark.parametrize("secret", SECRETS, ids=KINDS)
def test_an_error_holds_no_credential(secret: str) -> None:
    """Neither an error's text nor anything of its status has the credential that it was made with."""
    made = InvalidArgument(
        "REASON",
        f"It is {secret}, alas.",
        metadata={"fact": secret, "other": "x"},
        violations=[Violation(f"labels[{secret}]", f"is {secret}: wrong")],
    )
    note = redact(secret)
    assert (made.message, str(made), made.metadata) == (
        f"It is {note}, alas.",
        f"It is {note}, alas.",
        {"fact": note, "other": "x"},
    )
    assert made.violations == (Violation(f"labels[{note}]", f"is {note}: wrong"),)
    status = to_status(made, "5f0c7f3e-64a7-4f11-8f0e-3b3f0f0a1b2c")
    assert secret.encode() not in status.SerializeToString()


def test_a_credential_is_taken_out_before_an_error_is_cut() -> None:
    """A token that stands where a long message is cut leaves no piece of itself."""
    for place in range(1880, 2010):
        made = InvalidArgument("REASON", "m" * place + f" {minted()}")
        assert "eyJ" not in made.message


def test_the_command_line_shows_no_token(tmp_path: Path) -> None:
    """A token in the wrong place of the settings is not in what the command says of it."""
    file = tmp_path / "settings.toml"
    file.write_text(f'log_level = "{ADMIN}"')
    for command in ("serve", "check", "rbac"):
        done = CliRunner().invoke(main, [command, "--settings", str(file)])
        assert done.exit_code == 1
        assert ADMIN not in done.output


# Requests.


@pytest.mark.parametrize("secret", SECRETS, ids=KINDS)
@pytest.mark.parametrize("descriptor", INPUTS, ids=lambda descriptor: descriptor.name)
def test_no_field_takes_a_credential_that_is_not_for_one(descriptor: Descriptor, secret: str) -> None:
    """A credential in any field of any request that is not for one is refused by the field's path."""
    for path, request in misplaced(descriptor, secret):
        payload = request.SerializeToString()
        with pytest.raises(InvalidArgument) as refusal:
            check_no_credential(request, payload)
        assert refusal.value.reason == "FIELD_INVALID"
        assert [violation.field for violation in refusal.value.violations] == [path]
        assert secret not in str(refusal.value)


@pytest.mark.parametrize(
    "config",
    [
        cs.Config(service_account_jwt=minted()),
        cs.Config(client_certificate=cs.ClientCertificate(certificate=PAIR.certificate, private_key=KEY)),
        cs.Config(kubernetes_ca_cert=ca_certificate(), token_file="/run/kubevend-admin-of-prod/token"),
    ],
    ids=["token", "pair", "neither"],
)
def test_a_credential_has_its_fields(config: cs.Config) -> None:
    """The fields for a token and a private key take them."""
    request = cs.CreateConfigRequest(config_id="prod", config=config)
    check_no_credential(request, request.SerializeToString())


@pytest.mark.parametrize("secret", [minted(), KEY], ids=["minted", "key"])
async def test_a_pasted_credential_is_refused_by_the_whole_server(world: World, secret: str) -> None:
    """What was pasted into the wrong field is told by its path, and is neither in the answer nor in any file."""
    authority = ca_certificate()
    pasted: list[Message] = [
        cs.CreateConfigRequest(config_id="prod", config=cs.Config(kubernetes_host="https://a", token_file=secret)),
        cs.CreateConfigRequest(
            config_id="prod",
            config=cs.Config(kubernetes_host="https://a", kubernetes_ca_cert=authority + secret),
        ),
        iss.IssueTokenRequest(role="roles/ci", audiences=[secret]),
    ]
    paths = ["config.token_file", "config.kubernetes_ca_cert", "audiences[0]"]
    for request, path in zip(pasted, paths, strict=True):
        with pytest.raises(Refused) as refused:
            await world.call(request)
        assert refused.value.status.code == code_pb2.INVALID_ARGUMENT
        assert [v.field for v in refused.value.detail(error_details_pb2.BadRequest).field_violations] == [path]
        assert refused.value.status.message == (
            f"The request has a credential where none belongs: {path} must not hold a token or a private key, since "
            "what is there is stored and shown: a config's goes into service_account_jwt, into private_key or into a "
            "file, a caller's own into the authorization metadata."
        )
        assert secret.encode() not in refused.value.status.SerializeToString()
    events: list[Any] = world.lines()
    assert [event["reason"] for event in events] == ["FIELD_INVALID"] * 3
    for file in world.folder.iterdir():
        assert secret.strip().encode() not in file.read_bytes()
