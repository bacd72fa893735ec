from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.cluster.clusters import OwnCluster
from kubevend_server.cluster.credentials import (
    NOTHING,
    Anonymous,
    ClientCertificateFiles,
    Presented,
    Stored,
    TokenFile,
)
from kubevend_server.cluster.trust import Endpoint
from kubevend_server.errors import FailedPrecondition
from kubevend_server.files import WatchedFile
from tests.unit.builders import NOW, Pair, bearer, client_certificate, minted

PAIR, OTHER = client_certificate(), client_certificate()


def _swap(link: Path, target: str) -> None:
    """What the kubelet does to rotate what it mounts."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(target)
    os.replace(fresh, link)  # noqa: PTH105 - the kubelet's own step, rename(2)


def _refusal(read: Callable[[], Presented]) -> tuple[str, str, dict[str, str]]:
    with pytest.raises(FailedPrecondition) as refusal:
        read()
    return refusal.value.reason, refusal.value.message, refusal.value.metadata


# Files that are read again.


def test_a_watched_file_is_read_when_it_is_another_one(tmp_path: Path) -> None:
    """A file is read again after it was written to or replaced, and not before."""
    file = tmp_path / "file"
    file.write_text("one")
    watched = WatchedFile(file)
    assert watched.read() == "one"
    before = file.stat()
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    # The same file, size and time of change: nothing tells that it is another one, and it is not read.
    assert watched.read() == "one"
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert watched.read() == "two"
    file.write_text("three")
    assert watched.read() == "three"


def test_a_watched_file_comes_and_goes(tmp_path: Path) -> None:
    """A file that is missing, or no text, is an error each time, until it can be read."""
    file = tmp_path / "file"
    watched = WatchedFile(file)
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            watched.read()
    file.write_bytes(b"\xff")
    for _ in range(2):
        with pytest.raises(UnicodeDecodeError):
            watched.read()
    file.write_text("text")
    assert watched.read() == "text"
    file.unlink()
    with pytest.raises(FileNotFoundError):
        watched.read()
    assert repr(watched) == f"WatchedFile({str(file)!r})"


# Token files.


def test_a_rotated_file_is_read_again(tmp_path: Path) -> None:
    """After the kubelet has swapped the symbolic link, the next call has the new token."""
    for name in ("old", "new"):
        (tmp_path / name).write_text(f"{name}\n")
    link = tmp_path / "token"
    link.symlink_to("old")
    token = TokenFile(link)
    assert (token.read(), token.what, token.renewed) == (Presented("old"), f"the token file {link}", True)
    _swap(link, "new")
    assert token.read() == Presented("new")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "is empty"),
        (b"\n ", "is empty"),
        (b"\xff", "cannot be read (it is not text)"),
    ],
)
def test_a_file_without_a_token_says_so(tmp_path: Path, content: bytes | None, told: str) -> None:
    """A file that is missing, empty or no text is refused with its path and what to do, each time."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    token = TokenFile(file)
    for _ in range(2):
        assert _refusal(token.read) == (
            "CREDENTIAL_UNUSABLE",
            f"The token file {file} {told}. Put a Kubernetes token into it, or give the config another credential.",
            {"subject": str(file)},
        )


@pytest.mark.parametrize("content", ["a\nb", "a\x00b", "a\r\nX-Header: b"])
def test_a_file_with_several_lines_is_no_token(tmp_path: Path, content: str) -> None:
    """What cannot stand in a header is refused with its path, before anything is sent."""
    (tmp_path / "token").write_text(content)
    assert _refusal(TokenFile(tmp_path / "token").read)[0] == "CREDENTIAL_UNUSABLE"


@pytest.mark.parametrize("content", ["", "\n", "  \n"])
def test_an_empty_file_is_being_written(tmp_path: Path, content: str) -> None:
    """A file that becomes empty leaves the last token, until there is a new one."""
    file = tmp_path / "token"
    file.write_text("old\n")
    token = TokenFile(file)
    assert token.read() == Presented("old")
    file.write_text(content)
    assert token.read() == Presented("old")
    file.write_text("newer\n")
    assert token.read() == Presented("newer")


# Client certificates in files.


def test_a_pair_is_read(tmp_path: Path) -> None:
    """A certificate and its key are shown as the files have them."""
    files = PAIR.write(tmp_path)
    assert (files.read(), files.renewed) == (PAIR.presented, True)
    assert files.what == f"the client certificate {tmp_path / 'tls.crt'}"


@pytest.mark.parametrize("first", ["tls.crt", "tls.key"])
def test_a_pair_is_exchanged_one_file_after_the_other(tmp_path: Path, first: str) -> None:
    """While one of the two files is the old one, the old pair is shown, and the new one from when it is whole."""
    files = PAIR.write(tmp_path)
    assert files.read() == PAIR.presented
    fresh = {"tls.crt": OTHER.certificate, "tls.key": OTHER.private_key}
    (tmp_path / first).write_text(fresh.pop(first))
    for _ in range(2):
        assert files.read() == PAIR.presented
    (((name, text)),) = fresh.items()
    (tmp_path / name).write_text(text)
    for _ in range(2):
        assert files.read() == OTHER.presented


@pytest.mark.parametrize("name", ["tls.crt", "tls.key"])
@pytest.mark.parametrize(
    "content",
    ["", "garbage", PAIR.certificate[:100], PAIR.private_key[:100]],
    ids=["empty", "garbage", "half a certificate", "half a key"],
)
def test_a_pair_that_is_being_written_leaves_the_last_one(tmp_path: Path, name: str, content: str) -> None:
    """A file that is empty or half written leaves the last pair, also when it comes back as it was."""
    files = PAIR.write(tmp_path)
    files.read()
    (tmp_path / name).write_text(content)
    assert files.read() == PAIR.presented
    PAIR.write(tmp_path)
    assert files.read() == PAIR.presented


def test_a_swapped_link_brings_the_new_pair(tmp_path: Path) -> None:
    """After the kubelet has swapped the symbolic link to both files at once, the next call shows the new pair."""
    for name, pair in (("old", PAIR), ("new", OTHER)):
        (tmp_path / name).mkdir()
        pair.write(tmp_path / name)
    link = tmp_path / "data"
    link.symlink_to("old")
    files = ClientCertificateFiles(link / "tls.crt", link / "tls.key")
    assert files.read() == PAIR.presented
    _swap(link, "new")
    assert files.read() == OTHER.presented


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        (Pair(PAIR.certificate, OTHER.private_key), "the private key is not that of the certificate"),
        (Pair("", PAIR.private_key), "the certificate is not PEM (-----BEGIN CERTIFICATE-----)"),
        (
            Pair(PAIR.certificate, ""),
            "the private key is not PEM without a passphrase (-----BEGIN PRIVATE KEY-----)",
        ),
    ],
    ids=["another key", "no certificate", "no key"],
)
def test_files_that_never_held_a_pair_say_so(tmp_path: Path, pair: Pair, told: str) -> None:
    """Files that are no pair from the first are refused each time with what is wrong, and used once they are one."""
    files = pair.write(tmp_path)
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    for _ in range(2):
        assert _refusal(files.read) == (
            "CREDENTIAL_UNUSABLE",
            f"{certificate} and {key} cannot be used: {told}.",
            {"subject": str(certificate)},
        )
    PAIR.write(tmp_path)
    assert files.read() == PAIR.presented


def test_two_empty_files_are_no_credential(tmp_path: Path) -> None:
    """Two files that are empty from the first are refused: nothing would be shown, and nobody would be told."""
    files = Pair("", "").write(tmp_path)
    assert _refusal(files.read)[0] == "CREDENTIAL_UNUSABLE"


@pytest.mark.parametrize("missing", ["tls.crt", "tls.key"])
def test_a_file_of_a_pair_that_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    """A file that is not there, or no text, is refused with its path, before there was a pair and after."""
    for before in (False, True):
        files = PAIR.write(tmp_path)
        if before:
            files.read()
        (tmp_path / missing).unlink()
        reason, message, metadata = _refusal(files.read)
        assert (reason, metadata) == ("CREDENTIAL_UNUSABLE", {"subject": str(tmp_path / missing)})
        assert f"file {tmp_path / missing} cannot be read (No such file or directory)" in message
    (tmp_path / missing).write_bytes(b"\xff")
    assert "it is not text" in _refusal(files.read)[1]


# What is presented.


def test_a_stored_credential_is_not_renewed() -> None:
    """What a config holds changes with the config alone, and no credential needs no renewal."""
    stored = Stored("the stored token", Presented("token"))
    assert (stored.read(), stored.renewed) == (Presented("token"), False)
    assert (Anonymous().read(), Anonymous().renewed) == (NOTHING, True)


@pytest.mark.parametrize(
    ("presented", "expiry"),
    [
        (Presented(bearer()), NOW.replace(microsecond=0) + timedelta(hours=1)),
        (Presented(minted()), NOW.replace(microsecond=0) + timedelta(hours=1)),
        (Presented(bearer(exp="1777899600")), datetime(2026, 5, 4, 13, tzinfo=UTC)),
        (PAIR.presented, NOW.replace(microsecond=0) + timedelta(days=90)),
        (
            Presented(certificate=PAIR.certificate + client_certificate(life=timedelta(days=1)).certificate),
            NOW.replace(microsecond=0) + timedelta(days=90),
        ),
        (NOTHING, None),
        (Presented("no JWT"), None),
        (Presented("a.b.c"), None),
        (Presented(bearer(exp=None)), None),
        (Presented(bearer(exp="soon")), None),
        (Presented(bearer(exp=[])), None),
        (Presented(bearer(exp=float("nan"))), None),
        (Presented(bearer(exp=10**30)), None),
        (Presented(bearer(exp=-(10**30))), None),
    ],
)
def test_a_credential_says_how_long_it_is_valid(presented: Presented, expiry: datetime | None) -> None:
    """A token is valid until its exp, a certificate until its end (the first one of a chain), and what does not say so
    for no time that is known.
    """
    assert presented.expiry() == expiry


@given(st.text(max_size=80) | st.builds(lambda text: f"e30.{text}.e30", st.text(max_size=40)))
def test_no_token_is_too_odd_for_its_expiry(token: str) -> None:
    """Whatever stands in a token file, to ask when it expires brings nothing down."""
    assert Presented(token).expiry() is None


# The pod's own cluster.


@pytest.mark.parametrize(
    ("environ", "host"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://10.96.0.1:6443"),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1"}, "https://[fd00::1]:443"),
        ({}, ""),
    ],
)
def test_the_own_cluster_is_where_the_pod_sees_it(tmp_path: Path, environ: dict[str, str], host: str) -> None:
    """The pod's own API server is told by the environment; outside of a pod there is none."""
    own = OwnCluster(tmp_path, environ)
    assert own.host == host
    if not host:
        with pytest.raises(FailedPrecondition, match="configs/a uses the in-cluster credential"):
            own.endpoint("configs/a")
        return
    (tmp_path / "ca.crt").write_text("the pod's CA")
    mounted, given_ = own.endpoint("configs/a"), own.endpoint("configs/a", "PEM")
    assert (mounted, mounted.authorities()) == (Endpoint("configs/a", host), "the pod's CA")
    assert (given_, given_.authorities()) == (Endpoint("configs/a", host, "PEM"), "PEM")


def test_an_endpoint_says_whom_it_trusts(tmp_path: Path) -> None:
    """The authorities of a config, of a file and of the system are told apart in words."""
    file = WatchedFile(tmp_path / "ca.crt")
    assert [
        Endpoint("configs/a", "https://a", "PEM", file).trusts,
        Endpoint("configs/a", "https://a", "", file).trusts,
        Endpoint("configs/a", "https://a").trusts,
    ] == ["kubernetes_ca_cert of configs/a", f"the CA file {tmp_path / 'ca.crt'}", "the system's authorities"]
    assert Endpoint("configs/a", "https://a").authorities() == ""


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file or directory"), (b"\xff", "it is not text")], ids=["none", "no text"]
)
def test_a_ca_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, why: str) -> None:
    """A CA file that is missing or no text is refused with its path and whose it is."""
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FailedPrecondition) as refusal:
        Endpoint("configs/a", "https://a", ca_file=WatchedFile(file)).authorities()
    assert (refusal.value.reason, refusal.value.message, refusal.value.metadata) == (
        "CREDENTIAL_UNUSABLE",
        f"The CA file {file} of configs/a cannot be read ({why}).",
        {"subject": str(file)},
    )
