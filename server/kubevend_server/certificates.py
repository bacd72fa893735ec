"""X.509 certificates and their keys, as PEM."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

_UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.InvalidVersion)


def authorities_fault(pem: str) -> str:
    """What is wrong with certificates that are to be trusted; empty where nothing is."""
    try:
        x509.load_pem_x509_certificates(pem.encode())
    except _UNREADABLE:
        return "it is not PEM certificates (-----BEGIN CERTIFICATE-----)"
    return ""


def only_certificates(pem: str) -> str:
    """The certificates in a PEM text, without what stands between them.

    Raises:
        ValueError: there is none.
    """
    found = x509.load_pem_x509_certificates(pem.encode())
    return "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in found)


def pair_fault(certificate: str, private_key: str) -> str:
    """What is wrong with a certificate and its key; empty where nothing is. Never shows the key."""
    try:
        certified = x509.load_pem_x509_certificates(certificate.encode())[0].public_key()
    except _UNREADABLE:
        return "the certificate is not PEM (-----BEGIN CERTIFICATE-----)"
    try:
        key = serialization.load_pem_private_key(private_key.encode(), password=None)
    except (TypeError, *_UNREADABLE):
        return "the private key is not PEM without a passphrase (-----BEGIN PRIVATE KEY-----)"
    if key.public_key() != certified:
        return "the private key is not that of the certificate"
    return ""
