"""X.509 certificates and their keys, as PEM."""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

_UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.InvalidVersion)
_LABEL = re.compile("BEGIN ([A-Z0-9 ]{1,40})-", re.IGNORECASE)
_MOST_BITS = 4096
_LONGEST_KEY = 16 << 10


def authorities_fault(pem: str) -> str:
    """What is wrong with certificates that are to be trusted; empty where nothing is."""
    try:
        x509.load_pem_x509_certificates(pem.encode())
    except _UNREADABLE:
        return _other_fault(pem) or "it is not PEM certificates (-----BEGIN CERTIFICATE-----)"
    return _other_fault(pem)


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
        certified = x509.load_pem_x509_certificates(certificate.encode())[0].public_key()
    except _UNREADABLE:
        return "the certificate is not PEM (-----BEGIN CERTIFICATE-----)"
    if isinstance(certified, rsa.RSAPublicKey) and certified.key_size > _MOST_BITS:
        return f"the certificate is for an RSA key of {certified.key_size} bits: make one of {_MOST_BITS} at the most"
    return _key_fault(private_key, certified)


def _key_fault(private_key: str, certified: object) -> str:
    if len(private_key) > _LONGEST_KEY:
        return f"the private key is longer than {_LONGEST_KEY} characters, which none is that can be used"
    try:
        # To prove that the primes of a large RSA key are prime takes seconds, in which nobody else would be served. It
        # need not be: a key that is wrong in itself makes a handshake fail, and nothing else.
        key = serialization.load_pem_private_key(
            private_key.encode(), password=None, unsafe_skip_rsa_key_validation=True
        )
    except (TypeError, *_UNREADABLE):
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
