"""X.509 certificates and their keys, as PEM."""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What reading a certificate raises where it cannot be read."""

_LABEL = re.compile("BEGIN ([A-Z0-9 ]{1,40})-", re.IGNORECASE)
_MOST_BITS = 4096
_LONGEST_KEY = 16 << 10


def authorities_fault(pem: str) -> str:
    """What is wrong with certificates that are to be trusted; empty where nothing is."""
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except UNREADABLE:
        return _other_fault(pem) or "it is not PEM certificates (-----BEGIN CERTIFICATE-----)"
    return _other_fault(pem) or _cut_fault(pem, len(found))


def bundle_fault(pem: str) -> str:
    """What is wrong with the authorities of a trust domain; empty where nothing is."""
    fault = authorities_fault(pem)
    if fault:
        return fault
    try:
        others = [c for c in x509.load_pem_x509_certificates(pem.encode()) if not may_issue(c)]
    except UNREADABLE:
        return "one of its certificates cannot be read"
    if others:
        return f"it holds a certificate of nobody who may issue any (serial number {others[0].serial_number:x})"
    return ""


def may_issue(certificate: x509.Certificate) -> bool:
    """Whether a certificate says that it may issue others (RFC 5280, sections 4.2.1.3 and 4.2.1.9)."""
    constraints, usage = _purposes(certificate)
    return constraints is not None and constraints.ca and (usage is None or usage.key_cert_sign)


def is_leaf(certificate: x509.Certificate) -> bool:
    """Whether a certificate says nowhere that it may sign certificates, or lists of revoked ones."""
    constraints, usage = _purposes(certificate)
    return not (constraints and constraints.ca) and not (usage and (usage.key_cert_sign or usage.crl_sign))


def _purposes(certificate: x509.Certificate) -> tuple[x509.BasicConstraints | None, x509.KeyUsage | None]:
    values = [extension.value for extension in certificate.extensions]
    constraints = next((value for value in values if isinstance(value, x509.BasicConstraints)), None)
    return constraints, next((value for value in values if isinstance(value, x509.KeyUsage)), None)


def only_certificates(pem: str) -> str:
    """The certificates in a PEM text, without what stands between them.

    Raises:
        ValueError: there is none.
    """
    found = x509.load_pem_x509_certificates(pem.encode())
    return "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in found)


def pair_fault(certificate: str, private_key: str) -> str:
    """What is wrong with a certificate and its key; empty where nothing is. Never shows the key."""
    other = _other_fault(certificate)
    if other:
        return f"the certificate cannot be used: {other}"
    try:
        chain = x509.load_pem_x509_certificates(certificate.encode())
        certified = chain[0].public_key()
    except UNREADABLE:
        return "the certificate is not PEM (-----BEGIN CERTIFICATE-----)"
    cut = _cut_fault(certificate, len(chain))
    if cut:
        return f"the certificate cannot be used: {cut}"
    if isinstance(certified, rsa.RSAPublicKey) and certified.key_size > _MOST_BITS:
        return f"the certificate is for an RSA key of {certified.key_size} bits: make one of {_MOST_BITS} at the most"
    return _key_fault(private_key, certified)


def identity_fault(certificate: str, private_key: str) -> str:
    """What is wrong with a pair that a listener is to show; empty where nothing is."""
    fault = pair_fault(certificate, private_key)
    if fault:
        return fault
    key = x509.load_pem_x509_certificates(certificate.encode())[0].public_key()
    # gRPC has BoringSSL, which knows no others; it would go on with the old pair, and say so to nobody but stderr.
    if isinstance(key, rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        return ""
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
        return ""
    return "gRPC knows no such key: make one of ECDSA (P-256, P-384, P-521), RSA or Ed25519"


def _key_fault(private_key: str, certified: object) -> str:
    if len(private_key) > _LONGEST_KEY:
        return f"the private key is longer than {_LONGEST_KEY} characters, which none is that can be used"
    try:
        # To prove that the primes of a large RSA key are prime takes seconds, in which nobody else would be served. It
        # need not be: a key that is wrong in itself makes a handshake fail, and nothing else.
        key = serialization.load_pem_private_key(
            private_key.encode(), password=None, unsafe_skip_rsa_key_validation=True
        )
    except (TypeError, *UNREADABLE):
        return "the private key is not PEM without a passphrase (-----BEGIN PRIVATE KEY-----)"
    if key.public_key() != certified:
        return "the private key is not that of the certificate"
    return ""


def _other_fault(pem: str) -> str:
    """What a PEM text holds besides certificates, which are stored in clear and shown; empty where that is nothing."""
    labels = [label.upper() for label in _LABEL.findall(pem)]
    if any("PRIVATE KEY" in label for label in labels):
        return "it holds a PRIVATE KEY: put that into private_key, and certificates only here"
    if any(label != "CERTIFICATE" for label in labels):
        return "it must hold certificates only (-----BEGIN CERTIFICATE-----)"
    return ""


def _cut_fault(pem: str, whole: int) -> str:
    """Whether a PEM text begins more certificates than it has whole, as one that is being written does."""
    return "" if len(_LABEL.findall(pem)) == whole else "it ends in the middle of a certificate"
