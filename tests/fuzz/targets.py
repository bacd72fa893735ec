"""What is fuzzed: every parser of kubevend's that reads what somebody else wrote.

A target takes any bytes. It may refuse them as the parser says that it does; anything else that it raises is a defect.
Where a parser has a property, the target asserts it.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import msgspec
from cryptography import x509
from google.protobuf import message_factory
from google.protobuf.message import DecodeError
from multidict import CIMultiDict

from kubevend.v1 import role_service_pb2
from kubevend_server.audit.chain import NO_HASH, Head, close_line
from kubevend_server.audit.verify import verify
from kubevend_server.authentication.claims import read_claims, read_payload
from kubevend_server.authentication.discovery import PublishedKeys
from kubevend_server.authentication.fetching import Fetcher
from kubevend_server.authentication.forwarded import Proxy, read_element
from kubevend_server.authentication.issuer_keys import IssuerKeys
from kubevend_server.authentication.json_web_keys import ALGORITHMS, read_keys
from kubevend_server.authentication.oidc import OidcIssuer
from kubevend_server.authentication.workloads import Workloads
from kubevend_server.callers import Caller, oidc_subject, service_account, workload
from kubevend_server.certificates import bundle_fault, identity_fault
from kubevend_server.cluster.connection import Answer
from kubevend_server.cluster.credentials import Presented
from kubevend_server.cluster.failures import Attempt, from_status
from kubevend_server.cluster.tokens import _read
from kubevend_server.encryption import KeyFileError, Keyring, parse_keys
from kubevend_server.errors import InvalidArgument, KubevendError, Unauthenticated, to_status
from kubevend_server.field_rules import check_no_credential, check_rules
from kubevend_server.listeners import PeerCertificate
from kubevend_server.paging import PageTokens
from kubevend_server.policy.access import AccessPolicy, Circumstances, Decision, PolicyError
from kubevend_server.policy.name_template import PREFIX, RANDOM_LENGTH, render, template_fault
from kubevend_server.policy.rbac_rules import parse_rules
from kubevend_server.policy.terms import Terms, terms
from kubevend_server.redaction import redact, redact_json
from kubevend_server.services.convert import duration, moment, written
from kubevend_server.services.roles import from_proto
from kubevend_server.settings import SettingsError, parse
from tests.support.malformed import methods
from tests.unit.builders import NAMING, NOW, asked, clock, limits, role

Check = Callable[[bytes], None]

CORPUS = Path(__file__).parent / "corpus"


_EDGE = Proxy("edge", frozenset({"example.org"}), by="spiffe://example.org/edge")
_CART = "spiffe://example.org/ns/shop/sa/cart"
_ELEMENT = f"By={_EDGE.by};Hash={'0' * 64};URI={_CART}"


class Pieces:
    """Bytes taken apart: small numbers from the front, texts as they come, separated by 0xFF, which no text has."""

    def __init__(self, data: bytes) -> None:
        """Take the bytes."""
        self._numbers, _, rest = data.partition(b"\xff")
        self._texts = rest.split(b"\xff")

    def choice(self, options: Sequence[Any]) -> Any:
        """One of these."""
        number, self._numbers = self._numbers[:1], self._numbers[1:]
        return options[(number or b"\0")[0] % len(options)]

    def text(self) -> str:
        """The next text; empty where there is none."""
        return self._texts.pop(0).decode(errors="replace") if self._texts else ""

    def rest(self) -> bytes:
        """All that is left."""
        return b"\xff".join(self._texts)


def settings(data: bytes) -> None:
    """Settings are read, or refused with words."""
    with suppress(SettingsError):
        parse(data.decode(errors="replace"))


_METHODS = methods()


def requests(data: bytes) -> None:
    """Bytes for any method are a request that keeps its rules, resource names among them, or refused by path."""
    pieces = Pieces(data)
    method = pieces.choice(_METHODS)
    request = message_factory.GetMessageClass(method.input_type)()
    payload = pieces.rest()
    try:
        request.ParseFromString(payload)
        check_no_credential(request, payload)
        check_rules(request)
        written(request)
    except (DecodeError, InvalidArgument):
        return
    for field in request.DESCRIPTOR.fields:
        if field.message_type is None or field.is_repeated or not request.HasField(field.name):
            continue
        with suppress(InvalidArgument):
            if field.message_type.name == "Duration":
                assert (duration(request, field.name) or timedelta()) >= timedelta()
            elif field.message_type.name == "Timestamp":
                moment(request, field.name)
    for name in ("name", "role", "config"):
        named = getattr(request, name, "")
        if isinstance(named, str) and named:
            assert re.fullmatch(r"(configs|roles)/[a-z0-9-]{1,63}|leases/[0-9a-z]{26}", named), named


def roles(data: bytes) -> None:
    """A role that keeps its fields' rules becomes one of the domain, or is refused."""
    proto = role_service_pb2.Role()
    with suppress(DecodeError, InvalidArgument):
        proto.ParseFromString(data)
        check_rules(proto)
        from_proto(proto)


_TOKENS = PageTokens(Keyring({"k1": b"1" * 32}))


def page_tokens(data: bytes) -> None:
    """Nobody but the server makes a page token: any other text is refused, and so is one with a byte changed."""
    text = data.decode(errors="replace")
    with suppress(InvalidArgument):
        assert not _TOKENS.read("roles", text), "a token that the server did not make"
    sealed = bytearray(base64.urlsafe_b64decode(_TOKENS.write("roles", "roles/ci")))
    place, change = (data[0] if data else 0) % len(sealed), data[1] if len(data) > 1 else 0
    if change:
        sealed[place] ^= change
        with suppress(InvalidArgument):
            _TOKENS.read("roles", base64.urlsafe_b64encode(sealed).decode())
            raise AssertionError(f"byte {place} was changed, and nobody noticed")


_NAME = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def name_templates(data: bytes) -> None:
    """A template that has no fault makes names that Kubernetes takes, whoever calls, with the random part whole."""
    pieces = Pieces(b"\xff" + data)
    template, role_id, caller = pieces.text(), pieces.text(), pieces.text()
    if template_fault(template):
        return
    random = "0123456789abcdef"
    assert len(random) == RANDOM_LENGTH
    made = render(template, role_id, caller, random)
    assert _NAME.fullmatch(made), made
    assert made.startswith(PREFIX)
    assert random in made


def generated_rules(data: bytes) -> None:
    """RBAC rules become JSON in one form, which reads as itself, or are refused."""
    text = data.decode(errors="replace")
    with suppress(ValueError):
        found = parse_rules(text, "Role")
        assert parse_rules(found, "Role") == found


def bearer_tokens(data: bytes) -> None:
    """What a token says of itself is read, or refused, whatever it says."""
    text = data.decode(errors="replace")
    # As the whole token, and as the payload of one that is well-formed otherwise.
    middle = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    for token in (text, f"eyJhbGciOiJSUzI1NiJ9.{middle}.c2ln"):
        with suppress(Unauthenticated):
            read_claims(read_payload(token), clock)
        Presented(token).owner()
        Presented(token).expiry()
        Presented(token).audiences()


def issuers_keys(data: bytes) -> None:
    """What an issuer publishes in place of its keys is read, or refused; what is read are public keys."""
    with suppress(ValueError):
        for key in read_keys(data, ALGORITHMS):
            assert key.algorithms <= ALGORITHMS
            assert not hasattr(key.public, "sign")


_ISSUER = OidcIssuer(
    name="ci",
    url="https://ci.example",
    audiences=("kubevend",),
    algorithms=ALGORITHMS,
    claims=("repository", "ref"),
    groups_claim="teams",
    clock_skew=30,
    keys=IssuerKeys("ci", PublishedKeys("", "", ALGORITHMS, Fetcher().fetch).read, 300, 3600, lambda: 0.0),
    clock=clock,
)


def issuers_claims(data: bytes) -> None:
    """Whatever an issuer has signed makes a caller with a name of that issuer, or is refused."""
    try:
        claims = json.loads(data)
    except (ValueError, RecursionError):
        return
    with suppress(Unauthenticated):
        caller = _ISSUER.recognize(claims) if isinstance(claims, dict) else None
        assert caller is None or (caller.name.isascii() and caller.name.startswith("oidc://ci/"))
        assert caller is None or all(group.startswith("ci:") for group in caller.groups)


def forwarded(data: bytes) -> None:
    """Before the element of a proxy anything can stand, and after it nothing: the proxy's own, or a refusal."""
    text = data.decode("latin-1")
    for header in (text, f"{text},{_ELEMENT}", f"{_ELEMENT};{text}"):
        with suppress(Unauthenticated):
            found = read_element(_EDGE, header.split("\n"))
            assert header == text or found == (_CART, "0" * 64), header


def certificates(data: bytes) -> None:
    """A certificate in DER is told or refused whatever is in it, and counts only as an authority has signed it."""
    text = _certificate(data)
    assert bundle_fault(text) or x509.load_pem_x509_certificates(text.encode())
    assert identity_fault(text, "no key")
    for chain in (text, text + _certificate(_signed("between")), _certificate(_signed("leaf")) + text):
        peer = PeerCertificate((_CART,), "0" * 64, chain.encode())
        bundle = SimpleNamespace(authorities=(x509.load_der_x509_certificate(_signed("root")),))
        with suppress(Unauthenticated):
            Workloads({"example.org": bundle}, clock).recognize(peer, "example.org")
            assert data in (_signed("leaf"), _signed("between"), _signed("direct")), data.hex()


def _certificate(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n"


@functools.cache
def _signed(name: str) -> bytes:
    return (CORPUS / "certificates" / name).read_bytes()


def policies(data: bytes) -> None:
    """Policies are read, or refused with words."""
    with suppress(PolicyError):
        AccessPolicy(data.decode(errors="replace"))


_POLICY = AccessPolicy(
    """
    @id("own-namespace") permit (principal is ServiceAccount, action == Action::"IssueToken", resource)
      when { principal.namespace == context.namespace };
    @id("repository") permit (principal is OidcSubject, action, resource)
      when { principal.hasTag("repository") && principal.getTag("repository") like "acme/*" };
    @id("mesh") permit (principal is Workload, action, resource) when { principal.path like "/ns/apps/*" };
    @id("guard") forbid (principal, action == Action::"IssueToken", resource)
      when { context.namespace like "kube-*" || context.ttl > 3600 };
    @id("office") forbid (principal, action, resource)
      when { context has source && !context.source.isInRange(ip("10.0.0.0/8")) };
    """
)


def policy_context(data: bytes) -> None:
    """Whoever calls and whatever would be granted, there is a decision; and no text makes it wider than its policy."""
    pieces = Pieces(data)
    kind = pieces.choice(range(3))
    source = pieces.choice(("", "10.0.0.7", "192.0.2.1", "::1"))
    one, two, namespace, name, audience = (pieces.text() for _ in range(5))
    granted = _granted(namespace, name, audience, pieces.choice(range(0, 10_000, 60)))
    made: tuple[Caller, ...] = (
        service_account("prod", one, two, pod=two),
        workload(f"spiffe://example.org/{one}", proxy=two),
        oidc_subject("github", one, (("repository", two),), (f"github:{one}",)),
    )
    caller = made[kind]
    decision = _POLICY.authorize(caller, "IssueToken", role(), Circumstances(NOW, source, granted))
    allowed = {
        "own-namespace": kind == 0 and one == namespace,
        "mesh": kind == 1 and one.startswith("ns/apps/"),
        "repository": kind == 2 and two.startswith("acme/"),
    }
    forbidden = {
        "guard": namespace.startswith("kube-") or granted.ttl > timedelta(hours=1),
        "office": source not in ("", "10.0.0.7"),
    }
    against = tuple(sorted(name for name, holds in forbidden.items() if holds))
    for_it = tuple(sorted(name for name, holds in allowed.items() if holds))
    expected = Decision(bool(for_it) and not against, against or for_it)
    assert decision == expected, (decision, expected)


_TERMS: Terms = terms(role(), asked(), limits(), NAMING)


def _granted(namespace: str, account: str, audience: str, ttl: int) -> Terms:
    return replace(
        _TERMS, namespace=namespace, service_account=account, audiences=(audience,), ttl=timedelta(seconds=ttl)
    )


def redaction(data: bytes) -> None:
    """No JWT stays in a text or a JSON document, wherever it stands in it, and the document stays one."""
    text = data.decode(errors="replace")
    token = jwt.encode({"sub": text[:20]}, "k" * 32)
    assert token not in redact(text + token)
    document = json.dumps({text: [text, f"{text} {token}"], f"{token} ": {"a": text}}).encode()
    left = redact_json(document)
    json.loads(left)
    assert token.encode() not in left


_AUDIT_KEY = b"k" * 32


def _log() -> tuple[list[bytes], Head]:
    lines, head = [], Head(0, NO_HASH)
    for sequence in range(1, 4):
        body = msgspec.json.encode({"sequence": str(sequence), "previousHash": head.hash, "stage": "STAGE_COMPLETE"})
        line, digest = close_line(body, _AUDIT_KEY)
        lines.append(line)
        head = Head(sequence, digest)
    return lines, head


_LINES, _HEAD = _log()


def audit_log(data: bytes) -> None:
    """Any bytes are verified; and what is put into a log, or in place of a line, is found out or is torn."""
    verify(data.splitlines(keepends=True), _AUDIT_KEY, Head())
    if not data.endswith(b"\n") or data in _LINES:
        return
    # A log may begin later than with its first line.
    for place in (1, 2):
        changed = [*_LINES[:place], data, *_LINES[place + 1 :]]
        assert verify(_split(changed), _AUDIT_KEY, _HEAD).faults


def _split(chunks: Sequence[bytes]) -> Iterator[bytes]:
    yield from b"".join(chunks).splitlines(keepends=True)


_ATTEMPT = Attempt(
    "configs/default", "https://10.0.0.1:6443", "a CA", "a token", "a token", "apps", "deployer", mints=True
)


def kubernetes_answers(data: bytes) -> None:
    """Whatever an API server answers becomes one of our own errors that fits on the wire, or a token."""
    pieces = Pieces(data)
    status = pieces.choice((400, 401, 403, 404, 409, 422, 429, 500, 503))
    header, body = pieces.text(), pieces.rest()
    error = from_status(status, CIMultiDict({"Retry-After": header, "Warning": header}), body, _ATTEMPT)
    assert to_status(error, "request").ByteSize() < 1 << 13
    # What `request_token` turns into an error of ours.
    with suppress(KubevendError, ValueError, OverflowError, OSError):
        _read(Answer(201, CIMultiDict({"Warning": header}), body), _ATTEMPT)


def key_files(data: bytes) -> None:
    """Keys are read, or refused without showing one."""
    text = data.decode(errors="replace")
    with suppress(KeyFileError):
        assert all(len(key) == 32 for key in parse_keys(text, Path("store.key")).values())


TARGETS: dict[str, Check] = {
    check.__name__: check
    for check in (
        settings,
        requests,
        roles,
        page_tokens,
        name_templates,
        generated_rules,
        bearer_tokens,
        issuers_keys,
        issuers_claims,
        forwarded,
        certificates,
        policies,
        policy_context,
        redaction,
        audit_log,
        kubernetes_answers,
        key_files,
    )
}
"""All of them, by name; `corpus/{name}` has bytes to begin with."""
