"""Bad input of every kind for every method of a real server: each answer is kubevend's own, and none is a defect."""

from __future__ import annotations

import base64
import itertools
import json
import secrets
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import strategies as st

from devcluster import DevCluster
from devcluster.server import BOOTSTRAP_POLICY, KubevendServer
from kubevend.v1 import audit_event_pb2, config_service_pb2, issue_service_pb2, lease_service_pb2, role_service_pb2
from tests.integration.conftest import Vending, config_of
from tests.support.client import KUBERNETES_AUDIENCE, Client
from tests.support.clusters import make_namespace
from tests.support.evidence import EVIDENCE
from tests.support.malformed import Malformed, described, explore, made, methods

REQUESTS = 1000
PAYLOADS = 300
METADATA = 100
IN_FLIGHT = 32
SECONDS = 60
_TRAILERS = 8192
REFUSED_EARLY = {"REQUEST_MALFORMED", "FIELD_INVALID"}
RULES = '[{apiGroups: [""], resources: [pods], verbs: [get]}]'
EXPRESSION = {"key": "env", "operator": "OPERATOR_IN", "values": ["dev"]}
OUTCOMES = {
    audit_event_pb2.AuditEvent.OUTCOME_UNSPECIFIED,
    audit_event_pb2.AuditEvent.OUTCOME_SUCCEEDED,
    audit_event_pb2.AuditEvent.OUTCOME_DENIED,
    audit_event_pb2.AuditEvent.OUTCOME_FAILED,
}
IDS = ["x-request-id", "traceparent", "tracestate", "user-agent"]
ODD_IDS = [
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" * 3,
    "ff-" + "0" * 32 + "-" + "0" * 16 + "-00",
    "{urn:uuid:7d8f3f5e-3c55-4b6e-8f0e-2b1d5a9c0d11}",
    "0x8f3f5e3c554b6e8f0e2b1d5a9c0d11",
    "+7d8f3f5e3c554b6e8f0e2b1d5a9c0d1",
    "1_1" * 10 + "11",
    "../" * 50,
    "a" * 2000,
]
SOUND = {"alg": "RS256", "aud": ["kubevend"], "exp": 4102444800}
"""What a JWT must say to be shown to a cluster, header and claims in one."""
METHODS = {method.full_name: method for method in methods()}

POLICY = (
    BOOTSTRAP_POLICY
    + """
// It looks at whatever a policy can look at, so that no value keeps it from an answer.
@id("looks-at-everything")
forbid (principal, action in [Action::"CreateRole", Action::"UpdateRole"], resource)
when { context.proposed.hasTag("forbidden") && context.proposed.getTag("forbidden") == "yes"
       && context.proposed.allowed_audiences.contains("forbidden") };
"""
)


Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Answer:
    """How a call ended: `problem` says what must not be; `reply` are the bytes of a success."""

    reason: str
    problem: str = ""
    reply: bytes = b""


@dataclass
class House:
    """A server for all tests of this module, and a channel that takes 8 KiB of trailers, as gRPC says, and no more.

    `jwt` is kubevend's own token in the cluster, and `namespace` one that it may issue tokens for.
    """

    vending: Vending
    cluster: DevCluster
    namespace: str
    jwt: str
    channel: grpc.Channel
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def send(self, method: MethodDescriptor, payloads: Iterable[bytes]) -> list[Answer]:
        """Send payloads as the bootstrap admin, many at a time; the answers come in their order."""
        return self.send_each(method, ((payload, self.vending.admin.metadata) for payload in payloads))

    def send_each(self, method: MethodDescriptor, calls: Iterable[tuple[bytes, Metadata]]) -> list[Answer]:
        """Send payloads, each with metadata of its own."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        unary: Any = self.channel.unary_unary(path)
        begin: Any = self.channel.unary_stream(path) if method.server_streaming else unary.future
        answers: list[Answer] = []
        under_way: deque[Any] = deque()
        for payload, metadata in calls:
            if len(under_way) == IN_FLIGHT:
                answers.append(answer_of(under_way.popleft(), streams=method.server_streaming))
            under_way.append(begin(payload, metadata=tuple(metadata), timeout=SECONDS))
        answers += (answer_of(call, streams=method.server_streaming) for call in under_way)
        return answers

    def check(self, method: MethodDescriptor, strategy: st.SearchStrategy[bytes], count: int) -> Counter[str]:
        """Send what a strategy makes, and fail with the smallest payload whose answer must not be.

        Returns:
            How often each reason was answered.
        """
        payloads = made(strategy, count)
        answers = self.send(method, payloads)
        faults = [(payload, answer) for payload, answer in zip(payloads, answers, strict=True) if answer.problem]
        if faults:
            # Fails with a smaller one, unless it was what the others had changed that made it fail.
            explore(strategy, count, lambda payload: self.check_one(method, payload))
            payload, answer = min(faults, key=lambda fault: len(fault[0]))
            pytest.fail(f"{len(faults)} answers must not be, as {answer.problem}\n{described(method, payload)}")
        self.remember_tokens(method, answers)
        assert len(answers) == count
        return Counter(answer.reason for answer in answers)

    def check_one(self, method: MethodDescriptor, payload: bytes) -> None:
        """Send one payload, and fail if its answer must not be."""
        (answer,) = self.send(method, [payload])
        assert not answer.problem, f"{answer.problem}\n{described(method, payload)}"

    def remember_tokens(self, method: MethodDescriptor, answers: Iterable[Answer]) -> None:
        """Remember the tokens in replies, so that they are looked for in what the server wrote."""
        if method.output_type is issue_service_pb2.IssueTokenResponse.DESCRIPTOR:
            replies = (issue_service_pb2.IssueTokenResponse.FromString(answer.reply) for answer in answers)
            self.vending.admin.tokens += [reply.token for reply in replies if reply.token]
        elif method.output_type is issue_service_pb2.StreamTokensResponse.DESCRIPTOR:
            firsts = (issue_service_pb2.StreamTokensResponse.FromString(answer.reply) for answer in answers)
            self.vending.admin.tokens += [first.token.token for first in firsts if first.token.token]

    def add_config(self, config_id: str) -> None:
        """Make a config for the cluster."""
        self.vending.add_config(self.cluster, config_id, service_account_jwt=self.jwt)

    def still_serves(self) -> None:
        """Issue a token through a config and a role of their own, as if nothing had been."""
        own = f"after-{secrets.token_hex(8)}"
        self.add_config(own)
        self.vending.admin.create_role(own, config=f"configs/{own}", allowed_namespaces=[self.namespace])
        assert self.vending.admin.issue(f"roles/{own}").token

    def defects(self) -> list[str]:
        """The lines of the process log that tell of a defect, or of what could not be recorded."""
        lines = map(json.loads, self.vending.server.log_file.read_bytes().splitlines())
        return [line["event"] for line in lines if line["event"] == "defect" or "not_recorded" in line["event"]]


def answer_of(call: Any, *, streams: bool = False) -> Answer:
    """Wait for the end of a call, or for the first answer of a stream, and judge it."""
    error, reply = _first(call) if streams else _only(call)
    if error is None:
        return Answer("OK", reply=reply)
    info = error_details_pb2.ErrorInfo()
    name = error.code().name
    try:
        status = rpc_status.from_call(cast("grpc.Call", error))
    except ValueError as contradiction:  # gRPC put a status of its own in the place of kubevend's
        return Answer(name, f"{name}: {error.details()} ({contradiction})")
    if status is None or not any(detail.Unpack(info) for detail in status.details):
        return Answer(name, f"{name} without ErrorInfo: {error.details()}")
    if error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        return Answer(info.reason, f"{name} ({info.reason}): {status.message}")
    if info.domain != "kubevend.dev" or not info.reason:
        return Answer(name, f"{name} with {info}")
    return Answer(info.reason)


def _only(call: Any) -> tuple[Any, bytes]:
    """With which error a call ends, if with any, and its reply."""
    error = call.exception()
    return error, b"" if error else call.result()


def _first(call: Any) -> tuple[Any, bytes]:
    """With which error a stream ends before it has an answer, if with any, and its first answer."""
    try:
        first = next(call)
    except grpc.RpcError as error:
        return error, b""
    call.cancel()
    return None, first


@pytest.fixture(scope="module")
def house(cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server whose callers the cluster can review."""
    folder = tmp_path_factory.mktemp("bad-input")
    namespace, jwt = "bad-input", cluster.token("kubevend", "kubevend")
    make_namespace(cluster, namespace)
    (folder / "reviewer").write_text(jwt)
    reviewer = {
        "kubernetes_host": cluster.server,
        "ca_file": str(cluster.ca_file),
        "token_file": str(folder / "reviewer"),
    }
    # What is made up fails oftener than one address may.
    overrides: dict[str, dict[str, Any]] = {
        "callers": {"clusters": {"dev": reviewer}},
        "limits": {"source_failures_per_second": 0.0},
    }
    server = KubevendServer(folder / "kubevend", overrides=overrides, policies=POLICY)
    server.start()
    vending = Vending(server, Client(server.address, server.folder / "ca.crt", server.admin_token))
    vending.admin.tokens.append(jwt)
    credentials = grpc.ssl_channel_credentials((server.folder / "ca.crt").read_bytes())
    # By default what is a little more than 8 KiB is taken at random.
    options = [("grpc.max_metadata_size", _TRAILERS), ("grpc.absolute_max_metadata_size", _TRAILERS)]
    with grpc.secure_channel(server.address, credentials, options) as channel:
        yield House(vending, cluster, namespace, jwt, channel)
    vending.admin.close()
    server.stop()
    EVIDENCE.note_token(jwt)
    EVIDENCE.note_token(server.admin_token)
    EVIDENCE.folders[server.folder] = None
    assert list(EVIDENCE.leaks_in(server.folder)) == []


@pytest.fixture
def examples(house: House) -> list[Message]:
    """What exists, made for one test: configs and roles in use and not in use, a lease, pages, and sound requests."""
    admin, namespace, jwt = house.vending.admin, house.namespace, house.jwt
    tag = f"bad-{next(house.numbers)}"
    token_file = house.vending.server.folder / "credentials" / "token"
    token_file.write_text(jwt)
    in_use, spare = f"configs/{tag}", f"configs/{tag}-spare"
    for config_id in (tag, f"{tag}-spare"):
        house.add_config(config_id)
    allowed = {"allowed_namespaces": [namespace], "config": in_use}

    def made_by(**way: Any) -> dict[str, Any]:
        return {**allowed, "allowed_service_accounts": [], **way, "extra_labels": {"team": "a"}}

    ci = admin.create_role(tag, **allowed, labels={"team": "payments"}, max_ttl=Duration(seconds=3600))
    wide = admin.create_role(
        f"{tag}-wide",
        config=in_use,
        allowed_namespaces=["*"],
        allowed_service_accounts=["*"],
        allowed_audiences=[KUBERNETES_AUDIENCE, "é", "a\x00b"],
        default_audiences=["é"],
    )
    made = [
        admin.create_role(f"{tag}-bound", **made_by(kubernetes_role={"kind": 2, "name": "view"})),
        admin.create_role(f"{tag}-made", **made_by(generated_role={"rules": RULES}, ttl=Duration(seconds=60))),
        admin.create_role(
            f"{tag}-labels",
            config=in_use,
            allowed_namespace_selector={"match_labels": {"team": "a"}, "match_expressions": [EXPRESSION]},
        ),
        admin.create_role(f"{tag}-anchors", **allowed, revocation="REVOCATION_PER_ROLE"),
    ]
    spares = [admin.create_role(f"{tag}-spare-{number}", **allowed) for number in range(3)]
    lease = admin.issue(ci.name).lease
    configs = admin.call(admin.configs.ListConfigs, config_service_pb2.ListConfigsRequest(page_size=1))
    roles = admin.call(admin.roles.ListRoles, role_service_pb2.ListRolesRequest(page_size=1))
    ask = issue_service_pb2.IssueTokenRequest
    return [
        ci,
        wide,
        *made,
        *spares,
        config_of(house.cluster, name=in_use, service_account_jwt=jwt),
        config_of(house.cluster, name=spare, token_file=str(token_file)),
        config_service_pb2.ListConfigsRequest(page_token=configs.next_page_token, page_size=1000),
        role_service_pb2.ListRolesRequest(page_token=roles.next_page_token, page_size=1000),
        role_service_pb2.GetRoleRequest(name=ci.name),
        config_service_pb2.GetConfigRequest(name=in_use),
        config_service_pb2.DeleteConfigRequest(name=spare),
        lease_service_pb2.GetLeaseRequest(name=lease),
        lease_service_pb2.RevokeLeaseRequest(name=admin.issue(ci.name).lease),
        lease_service_pb2.LeaseFilter(caller="admin://local/bootstrap", namespace=namespace, service_account="demo"),
        ask(role=ci.name, namespace=namespace, service_account_name="demo", audiences=[KUBERNETES_AUDIENCE]),
        ask(role=wide.name, namespace="kube-system", service_account_name="ghost", audiences=["é"]),
        role_service_pb2.UpdateRoleRequest(update_mask=FieldMask(paths=["ttl"])),
    ]


@pytest.mark.parametrize("name", METHODS)
def test_no_request_is_a_defect(house: House, examples: list[Message], name: str) -> None:
    """Whatever a method is asked, its answer is a success or an error with a reason, and the server serves on."""
    method = METHODS[name]
    strategy = Malformed(examples).requests(method.input_type)

    reasons = house.check(method, strategy, REQUESTS)

    if len(method.input_type.fields) > 1:
        early = sum(reasons[reason] for reason in REFUSED_EARLY)
        assert reasons.total() - early >= REQUESTS / 3, f"too few reach the service: {reasons}"
    house.still_serves()


@pytest.mark.parametrize("name", METHODS)
def test_no_bytes_are_a_defect(house: House, examples: list[Message], name: str) -> None:
    """Whatever bytes a method is sent, its answer is a success or an error with a reason, and the server serves on."""
    method = METHODS[name]
    strategy = Malformed(examples).payloads(method.input_type)

    reasons = house.check(method, strategy, PAYLOADS)

    assert reasons["REQUEST_MALFORMED"] >= PAYLOADS / 4, f"too few are no message: {reasons}"
    house.still_serves()


@pytest.mark.parametrize("name", METHODS)
def test_no_metadata_are_a_defect(house: House, name: str) -> None:
    """Whatever metadata a call carries, its answer is a success or an error with a reason, and the server serves on."""
    method = METHODS[name]
    admin = [(key, value) for key, value in house.vending.admin.metadata]
    found = made(odd_metadata(admin), METADATA)

    answers = house.send_each(method, ((b"", metadata) for metadata in found))

    faults = [(answer.problem, metadata) for answer, metadata in zip(answers, found, strict=True) if answer.problem]
    assert faults == []
    reasons = Counter(answer.reason for answer in answers)
    assert {"CREDENTIAL_MISSING", "TOKEN_MALFORMED", "TOKEN_REJECTED"} <= set(reasons)
    house.still_serves()


def test_the_audit_log_is_whole_after_all_that(house: House) -> None:
    """The log verifies, every line of it is an AuditEvent, no outcome is unknown, and the process log has no defect."""
    house.still_serves()
    settings = str(house.vending.server.folder / "settings.toml")

    command = [sys.executable, "-m", "kubevend_server.cli", "audit", "verify", "--settings", settings]
    verified = subprocess.run(command, check=False, capture_output=True, text=True)

    assert verified.returncode == 0, verified.stdout + verified.stderr
    # Not splitlines, for which U+2028 ends a line too.
    lines = house.vending.server.audit_file.read_text().removesuffix("\n").split("\n")
    events = [json_format.Parse(line, audit_event_pb2.AuditEvent()) for line in lines]
    assert [event.sequence for event in events] == list(range(1, len(lines) + 1))
    assert {event.outcome for event in events} <= OUTCOMES
    assert house.defects() == []


def odd_metadata(admin: Metadata) -> st.SearchStrategy[Metadata]:
    """Metadata of which some is odd: the credential, the ids, anything else, as text and in bytes, and a lot of it."""
    plain = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
    long = st.tuples(plain, st.sampled_from([1, 10, 60])).map(lambda of: of[0] * of[1])
    tokens = st.one_of(plain, long, st.tuples(odd_json(), odd_json()).map(lambda parts: to_jwt(*parts)))
    credentials = st.tuples(st.sampled_from(["Bearer ", "bearer  ", "Basic ", "", "Bearer"]), tokens).map("".join)
    odd = st.one_of(
        *[credentials.map(lambda value: [("authorization", value)])] * 3,
        st.just([("authorization", f"Bearer {to_jwt(json.dumps(SOUND).encode(), json.dumps(SOUND).encode())}")]),
        st.tuples(st.sampled_from(IDS), plain).map(lambda of: [*admin, of]),
        st.tuples(st.sampled_from(IDS), st.sampled_from(ODD_IDS)).map(lambda of: [*admin, of]),
        st.tuples(
            st.sampled_from(["x-bin", "authorization-bin", "grpc-tags-bin", "grpc-trace-bin"]), st.binary(max_size=99)
        ).map(lambda of: [*admin, of]),
        plain.map(lambda value: [*admin, *[("x-many", value)] * 100]),
        st.lists(st.tuples(st.just("authorization"), credentials), min_size=2, max_size=5),
    )
    # What is more than a server takes is refused by gRPC itself.
    return odd.filter(lambda found: sum(len(key) + len(value) + 32 for key, value in found) < _TRAILERS - 500)


def odd_json() -> st.SearchStrategy[bytes]:
    """What may stand in a JWT: objects with the claims that are looked at, sound or not, and what is no object."""
    values = st.one_of(
        st.none(),
        st.booleans(),
        st.floats(),
        st.integers(),
        st.text(max_size=10),
        st.sampled_from(["kubevend", ["kubevend"], ["kubevend", {}], 4102444800, 2**63, "1e400", [[]], {"": {}}]),
    )
    names = st.sampled_from(["alg", "typ", "kid", "crit", "b64", "aud", "exp", "iat", "nbf", "iss", "sub", "jti", ""])
    objects = st.dictionaries(names, values, max_size=2).map(lambda odd: json.dumps({**SOUND, **odd}).encode())
    return objects | st.sampled_from([b"", b"null", b"1" * 3000, b"[" * 2000, b"{}", b'{"aud":"\xff"}', b"\xff\xfe"])


def to_jwt(header: bytes, claims: bytes) -> str:
    """A JWT with a signature that nobody made."""
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (header, claims, b"signature"))
