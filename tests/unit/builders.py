"""Things with defaults, for tests to override one at a time."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtensionOID, NameOID

from kubevend.v1 import issue_service_pb2
from kubevend_server.callers import BOOTSTRAP_ADMIN
from kubevend_server.calls import Call, Method
from kubevend_server.cluster.credentials import ClientCertificateFiles, Presented
from kubevend_server.configs import Config, Credential
from kubevend_server.leases import Lease, LeaseToken
from kubevend_server.listeners import BEARER, Listener, PeerCertificate, Shown
from kubevend_server.policy.access import Decision
from kubevend_server.policy.grant import Grant, grant
from kubevend_server.policy.limits import Limits
from kubevend_server.policy.terms import Asked, Naming, terms
from kubevend_server.roles import Role

NOW = datetime(2026, 5, 4, 12, 0, 0, 123456, tzinfo=UTC)
"""The present. It has microseconds, so that proto JSON writes it in the six digits that kubevend writes."""

AUDIT_KEY = bytes(range(32))
ADMIN_TOKEN = "kubevend-admin-for-the-tests"
SECRET = "s3cr3t-jwt-of-a-cluster"
PERMIT_ALL = '@id("everything") permit(principal, action, resource);'


NAMING = Naming("leases/01kqr6d2m0abcdefghjkmnpqrs", "kubernetes://prod/ci/runner")


class Stopwatch:
    """Seconds that never go back, and go on only where a test moves them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The seconds."""
        return self.now


def clock() -> datetime:
    """The clock that stands still at `NOW`."""
    return NOW


def role(**overrides: Any) -> Role:
    """A role that allows one namespace, one ServiceAccount and one audience, for an hour."""
    made = Role(
        name="roles/ci",
        config="configs/default",
        allowed_namespaces=("apps",),
        allowed_service_accounts=("deployer",),
        allowed_audiences=("https://api",),
        ttl=timedelta(hours=1),
        max_ttl=timedelta(hours=2),
        labels=(("team", "payments"),),
        etag="e1",
        create_time=NOW,
        update_time=NOW,
    )
    return replace(made, **overrides)


def asked(**overrides: Any) -> Asked:
    """A request that leaves everything to the role."""
    return replace(Asked(), **overrides)


def limits(**overrides: Any) -> Limits:
    """A server that gives half an hour where nobody says, and a day at the most."""
    made = Limits(
        default_ttl=timedelta(minutes=30), max_ttl=timedelta(days=1), reserved_audiences=frozenset({"kubevend"})
    )
    return replace(made, **overrides)


def granted(**overrides: Any) -> Grant:
    """The grant of a request through `role`, with overrides of the request."""
    return grant(terms(role(), asked(**overrides), limits(), NAMING), Decision(True, ("everything",)))


def config(**overrides: Any) -> Config:
    """A config of another cluster, with a stored credential."""
    made = Config(
        name="configs/default",
        kubernetes_host="https://10.0.0.1:6443",
        credential=Credential("service_account_jwt", service_account_jwt=SECRET),
        etag="e1",
        create_time=NOW,
        update_time=NOW,
    )
    return replace(made, **overrides)


def lease(number: int = 1, **overrides: Any) -> Lease:
    """A lease that lives for another hour; its number goes into its name and its token's id."""
    made = Lease(
        name=f"leases/{number:026d}",
        role="roles/ci",
        config="configs/default",
        caller="kubernetes://prod/ci/runner",
        namespace="apps",
        service_account="deployer",
        audiences=("https://api",),
        create_time=NOW,
        expire_time=NOW + timedelta(hours=1),
        tokens=(LeaseToken(f"jti-{number}", f"audit-{number}", NOW, NOW + timedelta(hours=1)),),
    )
    return replace(made, **overrides)


ISSUE_TOKEN = Method("kubevend.v1.IssueService", "IssueToken", issue_service_pb2.IssueTokenRequest, reads=False)


def shown(
    metadata: Mapping[str, str], listener: Listener = BEARER, certificate: PeerCertificate | None = None
) -> Shown:
    """What a call shows, each key once."""
    return Shown(listener, {key: (value,) for key, value in metadata.items()}, certificate)


async def nothing() -> bytes:
    """What a caller sends who asks for what is asked for by default."""
    return b""


def call(**overrides: Any) -> Call:
    """A call of IssueToken by the bootstrap admin, just begun."""
    made = Call(
        method=ISSUE_TOKEN,
        receive=nothing,
        shown=shown({"user-agent": "grpcurl/1.9.4"}),
        peer="ipv4:10.0.0.7:51234",
        started=time.monotonic(),
        request_id="5f0c7f3e-64a7-4f11-8f0e-3b3f0f0a1b2c",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        caller=BOOTSTRAP_ADMIN,
    )
    return replace(made, **overrides)


def bearer(**claims: Any) -> str:
    """A ServiceAccount's token for kubevend that lives for another hour, signed by nobody who counts."""
    made = {"iss": "https://issuer", "aud": ["kubevend"], "exp": int((NOW + timedelta(hours=1)).timestamp())}
    return jwt.encode({**made, **claims}, "k" * 32)


def minted(**claims: Any) -> str:
    """A token as a cluster mints it."""
    made: Mapping[str, object] = {
        "jti": "8d6f9a52-6a0e-4c55-9f0f-0c3a2a9f1d11",
        "aud": ["https://api"],
        "iat": int(NOW.timestamp()),
        "exp": int((NOW + timedelta(hours=1)).timestamp()),
    }
    parts = (b'{"alg":"RS256"}', msgspec.json.encode({**made, **claims}), b"signature")
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: str
    private_key: str

    @property
    def presented(self) -> Presented:
        """It, as it is shown to a cluster."""
        return Presented(certificate=self.certificate, private_key=self.private_key)

    @property
    def credential(self) -> Credential:
        """It, as a config stores it."""
        return Credential("client_certificate", certificate=self.certificate, private_key=self.private_key)

    def write(self, folder: Path) -> ClientCertificateFiles:
        """It in files, as cert-manager names them."""
        (folder / "tls.crt").write_text(self.certificate)
        (folder / "tls.key").write_text(self.private_key)
        return ClientCertificateFiles(folder / "tls.crt", folder / "tls.key")


def pem(key: Key, passphrase: bytes = b"") -> str:
    """A private key as PEM."""
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode()


def client_certificate(user: str = "kubevend", key: Key | None = None, life: timedelta = timedelta(days=90)) -> Pair:
    """A client certificate that signed itself, and its key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    return Pair(_certificate(user, key, life), pem(key))


def ca_certificate() -> str:
    """A certificate authority that signed itself, as PEM."""
    return _certificate("ca", ec.generate_private_key(ec.SECP256R1()), timedelta(days=1), ca=True)


def _certificate(common_name: str, key: Key, life: timedelta, *, ca: bool = False) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=NOW - timedelta(days=1),
        not_valid_after=NOW + life,
        extensions=[
            x509.Extension(ExtensionOID.BASIC_CONSTRAINTS, critical=True, value=x509.BasicConstraints(ca, None))
        ],
    )
    signed = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()
