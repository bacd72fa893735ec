"""What kubevend itself shows to a cluster: client certificates and tokens, made with the development cluster's keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devcluster import DevCluster


def client_certificate(cluster: DevCluster, user: str, life: timedelta = timedelta(days=60)) -> tuple[str, str]:
    """A certificate by which a cluster knows a user, and its key, both PEM."""
    folder = cluster.ca_file.parent
    ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + life)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    written = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), written.decode()


def expired_token(
    cluster: DevCluster, namespace: str, service_account: str, audience: str = "https://kubernetes.default.svc"
) -> str:
    """A token that the cluster itself would have signed two hours ago, and that ended an hour ago."""
    key = serialization.load_pem_private_key((cluster.ca_file.parent / "sa.key").read_bytes(), password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    now = int(datetime.now(UTC).timestamp())
    claims = {
        "iss": "https://kubernetes.default.svc",
        "aud": [audience],
        "iat": now - 7200,
        "nbf": now - 7200,
        "exp": now - 3600,
        "sub": f"system:serviceaccount:{namespace}:{service_account}",
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": service_account, "uid": "0"}},
    }
    return jwt.encode(claims, key, "RS256")
