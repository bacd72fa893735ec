from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from kubevend_server.cluster.connection import Answer, Request
from kubevend_server.cluster.failures import Attempt, from_status
from kubevend_server.cluster.reviews import review_self, review_token
from kubevend_server.cluster.rights import covered_service_accounts, has_right
from kubevend_server.cluster.status import parse_status
from kubevend_server.cluster.tokens import probe_service_account, request_token
from kubevend_server.cluster.version import read_version
from kubevend_server.errors import FailedPrecondition, KubevendError, OutcomeUnknown
from kubevend_server.findings import Finding, Report
from kubevend_server.inspection import Inspected, show
from kubevend_server.rights import Right
from kubevend_server.text import is_plain, shown
from tests.unit.builders import config, granted, minted
from tests.unit.fake_cluster import HOST, FakeApi, FakeCluster

_REQUEST_TOKENS = Right("create", "serviceaccounts/token", "", "apps", "deployer")

EVIL = "a\x1b[2J\nb\u202ec"
CLEAN = r"a\x1b[2J\nb\u202ec"
DEEP = b'{"x":' + b"[" * 100_000
ODD = [DEEP, b"\xff", b"", b"null", b'{"status":5}', b'{"kind":"\xff\xfe"}']


def _good(body: Any, **headers: str) -> Answer:
    return Answer(200, CIMultiDict(headers), body if isinstance(body, bytes) else json.dumps(body).encode())


def _saying(kind: str, answer: Answer) -> FakeCluster:
    return FakeCluster(FakeApi(instead={kind: answer}))


@given(st.text(max_size=80), st.integers(0, 60))
def test_what_is_shown_can_be_printed(text: str, most: int) -> None:
    """Whatever a cluster says, what is shown of it is printable and as short as it must be; what could be printed is
    shown as it is.
    """
    got = shown(text, most)
    assert is_plain(got, most)
    assert (got == text) == is_plain(text, most)


def test_what_is_shown_tells_what_was_there() -> None:
    """What cannot be printed stands there as its escape."""
    assert shown(EVIL, 100) == CLEAN
    assert shown("Füße \ud800", 100) == r"Füße \ud800"


async def _issue(cluster: FakeCluster) -> object:
    return await request_token(cluster, granted(), "audit-1")


ASKING: dict[str, Callable[[FakeCluster], Awaitable[object]]] = {
    "version": read_version,
    "tokenreviews": lambda cluster: review_token(cluster, "token", "kubevend"),
    "selfsubjectreviews": review_self,
    "selfsubjectaccessreviews": lambda cluster: has_right(cluster, _REQUEST_TOKENS),
    "selfsubjectrulesreviews": lambda cluster: covered_service_accounts(cluster, "apps"),
}


class Stranger(FakeCluster):
    """A cluster that is asked without looking at what is shown."""

    async def _send(self, request: Request, *_: Any) -> Answer:
        return await self.api.answer(request.path, request.body or {})


@pytest.mark.parametrize("body", ODD, ids=["deep", "bytes", "empty", "null", "other", "text"])
@pytest.mark.parametrize("kind", ASKING)
async def test_an_odd_success_is_not_kubernetes(kind: str, body: bytes) -> None:
    """A success that nests deeply, is no text or something else becomes one of our errors, whatever was asked."""
    with pytest.raises(FailedPrecondition) as refusal:
        await ASKING[kind](Stranger(FakeApi(instead={kind: _good(body)})))
    assert refusal.value.reason == "NOT_KUBERNETES"


def _token(**claims: Any) -> dict[str, Any]:
    return {"spec": {"expirationSeconds": 3600}, "status": {"token": minted(**claims)}}


@pytest.mark.parametrize(
    "body",
    [
        *ODD,
        _token(jti=""),
        _token(jti="j" * 129),
        _token(jti=EVIL),
        _token(aud=["https://api", EVIL]),
        _token(exp=10**18),
    ],
    ids=lambda _: "",
)
async def test_an_odd_token_is_an_unknown_outcome(body: Any) -> None:
    """A token that was issued and cannot be read, or whose id or audience cannot be shown, may be somewhere."""
    with pytest.raises(OutcomeUnknown) as unknown:
        await _issue(_saying("token", _good(body)))
    assert (unknown.value.reason, unknown.value.metadata["kubernetes_audit_id"]) == ("KUBERNETES_UNREADABLE", "audit-1")


async def test_the_longest_id_is_one() -> None:
    """A jti of 128 characters is one."""
    token = await request_token(_saying("token", _good(_token(jti="j" * 128))), granted(), "audit-1")
    assert (token.jti, token.kubernetes_audit_id) == ("j" * 128, "audit-1")


async def test_warnings_are_cleaned_and_few() -> None:
    """A warning is printable and of 500 characters at the most, and there are 20 at the most."""
    headers = CIMultiDict([("Warning", f'299 - "{EVIL.replace(chr(10), chr(11))}{"x" * 900}"')] * 30)
    answer = Answer(200, headers, json.dumps(_token()).encode())
    token = await request_token(_saying("token", answer), granted(), "audit-1")
    assert token.warnings == ((r"a\x1b[2J\x0bb\u202ec" + "x" * 900)[:500],) * 20


def _review(**user: Any) -> Answer:
    status = {"authenticated": False, "user": user, "error": EVIL + "x" * 900}
    return _good({"status": status})


async def test_a_review_is_cleaned() -> None:
    """The words with which a token is rejected are printable, and 500 characters at the most."""
    reviewed = await review_token(_saying("tokenreviews", _review(username="u")), "token", "kubevend")
    assert reviewed.error == (CLEAN + "x" * 900)[:500]


@pytest.mark.parametrize(
    "user",
    [
        {"username": "u" * 1001},
        {"username": EVIL},
        {"username": "u", "extra": {"authentication.kubernetes.io/credential-id": ["JTI=" + "j" * 129]}},
        {"username": "u", "extra": {"authentication.kubernetes.io/credential-id": ["JTI=" + EVIL]}},
        {"username": "u", "extra": {"authentication.kubernetes.io/pod-name": [EVIL]}},
        {"username": "u", "extra": {"authentication.kubernetes.io/node-name": ["n" * 254]}},
    ],
)
async def test_an_odd_reviewed_name_is_nobodys(user: dict[str, Any]) -> None:
    """A name or an id that could not be shown is not cut or escaped, which would make it another's: it is refused."""
    with pytest.raises(KubevendError) as refusal:
        await review_token(_saying("tokenreviews", _review(**user)), "token", "kubevend")
    assert refusal.value.reason == "NOT_KUBERNETES"


@pytest.mark.parametrize("name", [EVIL, "u" * 1001, ""])
async def test_an_odd_name_of_ones_own_is_refused(name: str) -> None:
    """A name that would not stand in RBAC as it is, is none."""
    with pytest.raises(KubevendError) as refusal:
        await review_self(FakeCluster(FakeApi(identity=name)))
    assert refusal.value.reason == "NOT_KUBERNETES"


async def test_a_version_is_cleaned() -> None:
    """A version is printable and of 64 characters at the most."""
    said = await read_version(Stranger(FakeApi(instead={"version": _good({"gitVersion": EVIL + "x" * 90})})))
    assert said.version == (CLEAN + "x" * 90)[:64]


async def test_a_reason_is_cleaned() -> None:
    """The reason of a right is printable and of 500 characters at the most."""
    answer = _good({"status": {"allowed": True, "reason": EVIL + "x" * 900}})
    got = await has_right(_saying("selfsubjectaccessreviews", answer), _REQUEST_TOKENS)
    assert got == (True, (CLEAN + "x" * 900)[:500])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["b", "a", EVIL, "A", "-a", "a-", "a..b", "x" * 254, "", "a.b-c"], ("a", "a.b-c", "b")),
        ([f"n{n:02d}" for n in range(20)], tuple(f"n{n:02d}" for n in range(20))),
        ([f"n{n:02d}" for n in range(50)], (*(f"n{n:02d}" for n in range(19)), "31 more")),
    ],
)
async def test_covered_names_are_names_and_few(names: list[str], told: tuple[str, ...]) -> None:
    """Only what can be a ServiceAccount's name is told, 20 at the most, and how many more there are."""
    rule = {"verbs": ["create"], "apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": names}
    answer = _good({"status": {"resourceRules": [rule]}})
    assert await covered_service_accounts(_saying("selfsubjectrulesreviews", answer), "apps") == told


async def test_a_refusal_does_not_name_other_accounts() -> None:
    """Who may have a token issued is not told for which other ServiceAccounts tokens could be."""
    said = 'User "system:serviceaccount:kubevend:server" cannot create resource "serviceaccounts/token"'
    refused = Answer(403, CIMultiDict(), json.dumps({"kind": "Status", "message": said}).encode())
    api = FakeApi(rights={("apps", "payroll-root"), ("apps", "other")}, instead={"token": refused})
    with pytest.raises(FailedPrecondition) as refusal:
        await _issue(FakeCluster(api))
    assert refusal.value.reason == "KUBERNETES_RESOURCE_NAMES"
    assert "payroll-root" not in f"{refusal.value.message}{refusal.value.metadata}"


ATTEMPT = Attempt(
    "configs/default", HOST, "the CA", "the token", "a token", "apps", "deployer", "a right", "kubectl bind {identity}"
)


def _forbidden(identity: str) -> KubevendError:
    body = json.dumps({"kind": "Status", "message": f'User "{identity}" cannot create'}).encode()
    return from_status(403, CIMultiDict(), body, ATTEMPT)


@pytest.mark.parametrize(
    ("identity", "command"),
    [
        ("system:serviceaccount:kubevend:server", "`kubectl bind --serviceaccount=kubevend:server`"),
        ("jane", "`kubectl bind --user=jane`"),
        ("o'hara", """`kubectl bind '--user=o'"'"'hara'`"""),
        (EVIL.replace("\n", ""), ""),
        (r"a\nb", ""),
        ("u" * 400, ""),
        ("x` rm `", ""),
        ("system:serviceaccount:a:b; id", ""),
        ("system:serviceaccount:a", ""),
    ],
)
def test_no_command_names_an_odd_identity(identity: str, command: str) -> None:
    """A command is printed for an identity that is somebody's name as it stands, and for no other."""
    error = _forbidden(identity)
    commands = [found for found in re.findall("`[^`]*`", error.message) if "kubectl" in found]
    assert commands == ([command] if command else [])
    assert is_plain(error.metadata["identity"], 300)
    assert error.message.isprintable()


@given(st.text(max_size=700), st.integers(400, 599))
def test_a_refusal_is_printable_and_short(text: str, status: int) -> None:
    """Whatever a refusal says, the error that becomes of it is printable and under 1,500 characters."""
    body = json.dumps({"kind": "Status", "message": text}).encode()
    error = from_status(status, CIMultiDict(), body, ATTEMPT)
    assert is_plain(error.message, 1499)
    assert all(is_plain(value, 600) for value in error.metadata.values())


@pytest.mark.parametrize("status", [400, 403, 404, 409, 500, 504])
def test_a_refusal_without_words_is_one(status: int) -> None:
    """A Status whose message is empty is told as such."""
    error = from_status(status, CIMultiDict(), b'{"kind":"Status"}', ATTEMPT)
    assert "without a reason" in error.message


def test_a_status_that_nests_deeply_is_none() -> None:
    """A refusal that nests deeply is no Status."""
    assert parse_status(b'{"kind":"Status","x":' + b"[" * 100_000) is None


async def test_a_probe_has_an_audit_id() -> None:
    """Each probe for a ServiceAccount can be found in Kubernetes' audit log under an id of its own."""
    sent: list[Attempt] = []

    class Recording(FakeCluster):
        async def _send(self, *args: Any) -> Answer:
            sent.append(args[1])
            return await super()._send(*args)

    cluster = Recording(FakeApi())
    for _ in range(2):
        assert not await probe_service_account(cluster, "apps", "deployer")
    assert [bool(re.fullmatch("[0-9a-f-]{36}", attempt.audit_id)) for attempt in sent] == [True, True]
    assert sent[0].audit_id != sent[1].audit_id
    assert not sent[0].mints


def test_a_terminal_gets_nothing_to_obey(capsys: pytest.CaptureFixture[str]) -> None:
    """What `kubevend-server check` prints of a finding is printable, wherever its words are from."""
    show(Inspected(config(), Report("", (Finding("KUBERNETES", "FAILED", EVIL, "NOT_KUBERNETES"),), "")))
    lines = capsys.readouterr().out.splitlines()
    assert [line.isprintable() for line in lines] == [True, True]
    assert CLEAN in lines[1]
