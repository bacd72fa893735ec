from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from kubevend_server.certificates import bundle_fault, identity_fault, pair_fault
from kubevend_server.metrics import Metrics
from kubevend_server.tls import Handshake, Identity, LastGood, TlsFiles, TrustBundle
from tests.support.spiffe import Authority, Svid
from tests.unit.builders import client_certificate

ORG = Authority()
METRIC = "kubevend_certificate_expiry_timestamp_seconds"


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    """What a listener shows, from files of the test's own."""
    return Identity("listener", *ORG.svid("/kubevend").write(tmp_path))


@pytest.fixture
def bundle(tmp_path: Path) -> TrustBundle:
    """Whom a listener trusts, from a file of the test's own."""
    file = tmp_path / "bundle.pem"
    file.write_text(ORG.bundle)
    return TrustBundle('callers.trust_domains."example.org"', file)


def kept(
    *identities: Identity, bundles: tuple[TrustBundle, ...] = (), now: datetime | None = None
) -> tuple[TlsFiles, CollectorRegistry]:
    """Files that are looked at, and where it is told when their certificates expire."""
    registry = CollectorRegistry()
    return TlsFiles(identities, bundles, Metrics(registry).certificate, lambda: now or datetime.now(UTC)), registry


def test_the_last_good_pair_goes_on(identity: Identity, tmp_path: Path) -> None:
    """A pair counts once both files are there; until then the old one does, and that is told once, at a second look."""
    files, _ = kept(identity)
    old, new = identity.pair, ORG.svid("/kubevend")
    certificate, private_key = tmp_path / "svid.crt", tmp_path / "svid.key"

    certificate.write_text(new.certificate)
    with capture_logs() as logs:
        for _ in range(4):
            files.look()
    assert identity.pair == old
    assert logs == [
        {
            "event": "tls_files_unusable",
            "log_level": "error",
            "setting": "certificate_file and private_key_file of listener",
            "error": f"{certificate} and {private_key} cannot be used: the private key is not that of the certificate",
            "hint": "what was good before goes on",
        }
    ]

    private_key.write_text(new.private_key)
    with capture_logs() as logs:
        for _ in range(2):
            files.look()
    assert identity.pair == (new.private_key.encode(), new.certificate.encode())
    assert [line["event"] for line in logs] == ["tls_files_renewed"]


def break_pair(svid: Svid, folder: Path, how: str) -> None:
    """Leave the files of a pair as something that goes wrong would."""
    certificate, private_key = folder / "svid.crt", folder / "svid.key"
    if how == "gone":
        private_key.unlink()
    elif how == "a folder":
        private_key.unlink()
        private_key.mkdir()
    elif how == "empty":
        private_key.write_text("")
    elif how == "not text":
        certificate.write_bytes(b"\xff")
    elif how == "cut":
        certificate.write_text(svid.certificate + ORG.bundle[:-40])
    else:
        certificate.write_text(svid.private_key)
        private_key.write_text(svid.certificate)


@pytest.mark.parametrize("how", ["gone", "empty", "cut", "not text", "a folder", "swapped"])
def test_what_cannot_be_used_changes_nothing(tmp_path: Path, how: str) -> None:
    """However files are broken, what was good goes on, the start alone is refused, and no key is ever told."""
    svid = ORG.svid("/kubevend")
    paths = svid.write(tmp_path)
    identity = Identity("listener", *paths)
    files, _ = kept(identity)
    before = identity.pair

    break_pair(svid, tmp_path, how)

    with capture_logs() as logs:
        for _ in range(3):
            files.look()
    assert identity.pair == before
    assert [line["event"] for line in logs] == ["tls_files_unusable"]
    with pytest.raises(ValueError, match="certificate_file and private_key_file of listener: ") as refusal:
        Identity("listener", *paths)
    middle = svid.private_key.splitlines()[1]
    assert middle not in f"{logs}{refusal.value}{identity!r}{files!r}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it is not PEM certificates"),
        (ORG.bundle + Authority().bundle[:-40], "it ends in the middle of a certificate"),
        (ORG.bundle + ORG.svid("/a").certificate, "it holds a certificate of nobody who may issue any"),
        (ORG.svid("/a").private_key, "it holds a PRIVATE KEY"),
    ],
)
def test_a_bundle_that_is_none(bundle: TrustBundle, text: str, fault: str) -> None:
    """A bundle that is empty, cut, or holds what is no authority leaves the last one, since less would trust others."""
    before = bundle.authorities

    Path(bundle.files.paths[0]).write_text(text)
    bundle.files.look()

    assert bundle.authorities is before
    assert bundle_fault(text).startswith(fault)


def test_a_new_bundle_is_another_object(bundle: TrustBundle) -> None:
    """Authorities stay the same object for as long as they are the same, so that others can tell."""
    before = bundle.authorities
    new = Authority()

    Path(bundle.files.paths[0]).write_text(new.bundle)
    assert bundle.authorities is before
    assert bundle.files.look()

    assert bundle.authorities is not before
    assert bundle.authorities is bundle.authorities
    assert bundle.pem == new.bundle.encode()


def test_grpc_is_given_what_is_new_once(identity: Identity, bundle: TrustBundle, tmp_path: Path) -> None:
    """A handshake gets a configuration where pair or bundle are others than at the last, and else none."""
    handshakes = [Handshake(identity, bundle), Handshake(identity)]
    for handshake in handshakes:
        handshake.credentials()
    files, _ = kept(identity, bundles=(bundle,))

    def given() -> list[bool]:
        return [handshake.renewed() is not None for handshake in handshakes]

    assert given() == [False, False]
    ORG.svid("/kubevend").write(tmp_path)
    assert given() == [False, False]
    files.look()
    assert given() == [True, True]
    assert given() == [False, False]
    Path(bundle.files.paths[0]).write_text(Authority().bundle)
    files.look()
    assert given() == [True, False]
    assert given() == [False, False]


def test_a_certificate_that_ends_is_told(tmp_path: Path) -> None:
    """The metric has each certificate's end, and the log warns once of one with a tenth of its life left."""
    # One hour has passed of each life.
    fresh, late = ORG.svid("/a", life=timedelta(hours=1)), ORG.svid("/a", life=timedelta(minutes=5))
    identity = Identity("listener", *fresh.write(tmp_path))
    files, registry = kept(identity)

    with capture_logs() as logs:
        files.look()
    assert logs == []
    file = str(tmp_path / "svid.crt")
    end = identity.life[1]
    assert registry.get_sample_value(METRIC, {"file": file}) == end.timestamp()

    late.write(tmp_path)
    with capture_logs() as logs:
        for _ in range(3):
            files.look()
    end = identity.life[1]
    assert [line["event"] for line in logs] == ["tls_files_renewed", "tls_certificate_expires"]
    assert logs[1]["expires"] == end.isoformat(timespec="seconds")
    assert registry.get_sample_value(METRIC, {"file": file}) == end.timestamp()


def test_a_key_that_grpc_does_not_know_is_told(identity: Identity, tmp_path: Path) -> None:
    """A pair that OpenSSL would take, and BoringSSL would not, counts as none: gRPC itself would go on in silence."""
    before, files = identity.pair, kept(identity)[0]

    pair = client_certificate(key=ec.generate_private_key(ec.SECP256K1()))
    (tmp_path / "svid.crt").write_text(pair.certificate)
    (tmp_path / "svid.key").write_text(pair.private_key)
    files.look()

    assert identity.pair == before
    assert identity_fault(pair.certificate, pair.private_key).startswith("gRPC knows no such key")
    for key in (ec.generate_private_key(ec.SECP521R1()), ed25519.Ed25519PrivateKey.generate()):
        pair = client_certificate(key=key)
        assert identity_fault(pair.certificate, pair.private_key) == ""


def test_a_chain_that_is_cut_is_no_pair(tmp_path: Path) -> None:
    """A chain that ends in the middle of a certificate is being written, however good its first one is."""
    svid = Authority(above=ORG).svid("/kubevend")
    cut = svid.certificate[:-40]

    assert pair_fault(svid.certificate, svid.private_key) == ""
    assert pair_fault(cut, svid.private_key) == (
        "the certificate cannot be used: it ends in the middle of a certificate"
    )
    assert repr(LastGood("x", svid.write(tmp_path), pair_fault)).find(svid.private_key.splitlines()[1]) == -1
