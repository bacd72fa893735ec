from __future__ import annotations

import os
import ssl
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.certificates import authorities_fault, pair_fault
from kubevend_server.cluster.credentials import Presented
from kubevend_server.cluster.trust import load_certificate
from tests.unit.builders import SECRET, Key, ca_certificate, client_certificate, pem

KEYS: dict[str, Key] = {
    "EC": ec.generate_private_key(ec.SECP256R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}
PAIR = client_certificate(key=KEYS["EC"])
NO_CERTIFICATE = "the certificate is not PEM (-----BEGIN CERTIFICATE-----)"
NO_KEY = "the private key is not PEM without a passphrase (-----BEGIN PRIVATE KEY-----)"
NO_AUTHORITIES = "it is not PEM certificates (-----BEGIN CERTIFICATE-----)"
OTHER_KEY = "the private key is not that of the certificate"
HOLDS_KEY = "it holds a PRIVATE KEY: put that into private_key, and certificates only here"
HOLDS_MORE = "it must hold certificates only (-----BEGIN CERTIFICATE-----)"
TORN = "-----BEGIN {0}-----\nAAAA\n-----END {0}-----\n"


@pytest.mark.parametrize("kind", KEYS)
def test_a_pair_of_any_usual_kind_is_one(kind: str) -> None:
    """Keys of elliptic curves, RSA and Ed25519 are each accepted with their certificate and with no other one, and TLS
    takes the pair.
    """
    pair = client_certificate(key=KEYS[kind])
    assert pair_fault(pair.certificate, pair.private_key) == ""
    for other, key in KEYS.items():
        assert pair_fault(pair.certificate, pem(key)) == ("" if other == kind else OTHER_KEY)
    load_certificate(ssl.create_default_context(), pair.presented)


@pytest.mark.parametrize("form", [ec.SECP384R1(), ec.SECP256K1()])
def test_a_key_of_another_curve_is_another_key(form: ec.EllipticCurve) -> None:
    """A certificate's key is this very one, not one of its kind."""
    assert pair_fault(PAIR.certificate, pem(ec.generate_private_key(form))) == OTHER_KEY


def test_the_key_is_that_of_the_first_certificate() -> None:
    """A chain begins with the certificate of the key, and may go on with any."""
    chain = PAIR.certificate + ca_certificate()
    assert pair_fault(chain, PAIR.private_key) == ""
    assert pair_fault(ca_certificate() + PAIR.certificate, PAIR.private_key) == OTHER_KEY
    load_certificate(ssl.create_default_context(), Presented(certificate=chain, private_key=PAIR.private_key))


@pytest.mark.parametrize(
    ("certificate", "key", "fault"),
    [
        ("", PAIR.private_key, NO_CERTIFICATE),
        ("garbage", PAIR.private_key, NO_CERTIFICATE),
        ("ключ\ud800", PAIR.private_key, NO_CERTIFICATE),
        (TORN.format("CERTIFICATE"), PAIR.private_key, NO_CERTIFICATE),
        (PAIR.certificate[:200], PAIR.private_key, NO_CERTIFICATE),
        (PAIR.certificate + TORN.format("CERTIFICATE"), PAIR.private_key, NO_CERTIFICATE),
        (PAIR.private_key, PAIR.certificate, f"the certificate cannot be used: {HOLDS_KEY}"),
        (PAIR.certificate, "", NO_KEY),
        (PAIR.certificate, SECRET, NO_KEY),
        (PAIR.certificate, PAIR.certificate, NO_KEY),
        (PAIR.certificate, TORN.format("PRIVATE KEY"), NO_KEY),
        (PAIR.certificate, PAIR.private_key[:100], NO_KEY),
        (PAIR.certificate, pem(KEYS["EC"], passphrase=b"secret"), NO_KEY),
        (PAIR.certificate, "ключ\ud800", NO_KEY),
    ],
    ids=lambda _: "",
)
def test_what_is_no_pair_says_why(certificate: str, key: str, fault: str) -> None:
    """A certificate or a key that is missing, cut, encrypted or something else is told as such, without the key."""
    assert pair_fault(certificate, key) == fault


def test_a_key_that_signs_nothing_is_another_key() -> None:
    """A key of a kind that no certificate can have is refused like any other key."""
    key = x25519.X25519PrivateKey.generate()
    text = key.private_bytes_raw().hex()
    assert pair_fault(PAIR.certificate, text) == NO_KEY


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_pair_is_too_odd(certificate: str, key: str) -> None:
    """Whatever stands in the two fields, there is a fault to tell, and it does not tell the key."""
    for given_ in (certificate, PAIR.certificate):
        fault = pair_fault(given_, key)
        assert fault in (NO_CERTIFICATE, NO_KEY)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (ca_certificate(), ""),
        (ca_certificate() + ca_certificate(), ""),
        ("# a comment\n" + ca_certificate(), ""),
        ("", NO_AUTHORITIES),
        ("garbage", NO_AUTHORITIES),
        (TORN.format("CERTIFICATE"), NO_AUTHORITIES),
        (PAIR.private_key, HOLDS_KEY),
    ],
)
def test_authorities_are_certificates(text: str, fault: str) -> None:
    """One certificate or several are authorities, and anything else is told as what it is not."""
    assert authorities_fault(text) == fault


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        (PAIR.private_key, HOLDS_KEY),
        (TORN.format("RSA PRIVATE KEY"), HOLDS_KEY),
        (TORN.format("ENCRYPTED PRIVATE KEY"), HOLDS_KEY),
        (TORN.format("PUBLIC KEY"), HOLDS_MORE),
        (TORN.format("X509 CRL"), HOLDS_MORE),
    ],
    ids=lambda _: "",
)
@pytest.mark.parametrize("first", [True, False])
def test_a_combined_text_is_refused(block: str, fault: str, first: bool) -> None:
    """A key beside the certificates would be stored in clear and shown: it is refused, with where to put it, and not
    a line of it is told.
    """
    text = block + PAIR.certificate if first else PAIR.certificate + block
    assert authorities_fault(text) == fault
    assert pair_fault(text, PAIR.private_key) == f"the certificate cannot be used: {fault}"


def _huge() -> rsa.RSAPrivateKey:
    """A key of 8676 bits, of two Mersenne primes."""
    p, q, e = 2**4423 - 1, 2**4253 - 1, 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(e, p * q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def test_a_huge_key_takes_no_time() -> None:
    """An RSA key whose primes would take many seconds to prove is refused at once, by its certificate's size or as
    another's, so that whoever sends it stops nobody else.
    """
    key = _huge()
    own = client_certificate(key=key)
    began = time.process_time()
    assert pair_fault(own.certificate, own.private_key) == (
        "the certificate is for an RSA key of 8676 bits: make one of 4096 at the most"
    )
    assert pair_fault(PAIR.certificate, own.private_key) == OTHER_KEY
    assert pair_fault(PAIR.certificate, PAIR.private_key + " " * (16 << 10)) == (
        "the private key is longer than 16384 characters, which none is that can be used"
    )
    assert time.process_time() - began < 2


def _descriptors() -> set[str]:
    """The open files, apart from that which lists them."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.exists()}


@pytest.mark.parametrize("memory", [True, False], ids=["in memory", "on disk"])
def test_a_loaded_certificate_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: bool) -> None:
    """To show a client certificate leaves neither a file nor an open one behind, whether it could be loaded or not, on
    a system without files in memory too.
    """
    # How the system is: nothing of our own is replaced.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if not memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    descriptors = _descriptors()
    load_certificate(ssl.create_default_context(), PAIR.presented)
    mixed = Presented(certificate=PAIR.certificate, private_key=client_certificate().private_key)
    with pytest.raises(ssl.SSLError):
        load_certificate(ssl.create_default_context(), mixed)
    assert list(tmp_path.iterdir()) == []
    assert _descriptors() == descriptors


def test_an_expired_certificate_is_still_a_pair() -> None:
    """Whether a certificate is still valid is the cluster's to say; it is a pair all the same."""
    old = client_certificate(life=timedelta(hours=-1))
    assert pair_fault(old.certificate, old.private_key) == ""
