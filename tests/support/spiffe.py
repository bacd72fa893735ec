"""Trust domains of a test's own: authorities, and the certificates (X.509-SVIDs) that they give to workloads.

See https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LOOPBACK = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
)


@dataclass(frozen=True)
class Svid:
    """A certificate, those that lead from it to its root, and its key.

    Attributes:
        certificate: the chain, PEM, the certificate itself first.
        private_key: PEM.
    """

    certificate: str
    private_key: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate itself, in hexadecimal."""
        return x509.load_pem_x509_certificate(self.certificate.encode()).fingerprint(hashes.SHA256()).hex()

    def write(self, folder: Path, name: str = "svid") -> tuple[Path, Path]:
        """Put `{name}.crt` and `{name}.key` into a folder, which is made; the two paths."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, private_key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_text(self.certificate)
        private_key.touch(mode=0o600)
        private_key.write_text(self.private_key)
        return certificate, private_key


class Authority:
    """An authority of a trust domain: its root, or one below another authority, whose root alone is then trusted."""

    def __init__(
        self,
        trust_domain: str = "example.org",
        above: Authority | None = None,
        life: timedelta = timedelta(days=365),
        *,
        signs: bool = True,
    ) -> None:
        """Make a key, and a certificate for it by the authority above, or by itself; it may say that it signs none."""
        self.trust_domain = trust_domain
        self._above = above
        self._key = ec.generate_private_key(ec.SECP256R1())
        # Two authorities of a trust domain have the same name, as SPIRE's do.
        self._name = x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{'below ' if above else ''}{trust_domain}")]
        )
        issuer = above or self
        self._certificate = (
            _builder(self._name, issuer._name, self._key.public_key(), life)
            .add_extension(x509.BasicConstraints(ca=signs, path_length=None), critical=True)
            .add_extension(_usage(signs=signs), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer._key.public_key()), critical=False)
            .sign(issuer._key, hashes.SHA256())
        )

    @property
    def bundle(self) -> str:
        """The root that is to be trusted, PEM."""
        return self._above.bundle if self._above else _pem(self._certificate)

    def svid(
        self, *uris: str, life: timedelta = timedelta(hours=1), names: Sequence[str] = (), signs: bool = False
    ) -> Svid:
        """A certificate for a client or a server on loopback.

        Args:
            uris: its URI SANs, as they are; a path alone, `/ns/shop/sa/cart`, is completed with the trust domain.
            life: how long it is still valid; less than nothing for one that has expired.
            names: further DNS SANs.
            signs: whether it says that it may sign others, which no workload's may.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        ids = [f"spiffe://{self.trust_domain}{uri}" if uri.startswith("/") else uri for uri in uris]
        sans = [
            *map(x509.UniformResourceIdentifier, ids),
            *_LOOPBACK,
            *map(x509.DNSName, names),
        ]
        certificate = (
            _builder(x509.Name([]), self._name, key.public_key(), life)
            .add_extension(x509.BasicConstraints(ca=signs, path_length=None), critical=True)
            .add_extension(_usage(signs=signs), critical=True)
            .add_extension(x509.SubjectAlternativeName(sans), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        written = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Svid(_pem(certificate) + self._chain(), written.decode())

    def _chain(self) -> str:
        return _pem(self._certificate) + self._above._chain() if self._above else ""


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + min(life, timedelta()) - timedelta(hours=1))
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
