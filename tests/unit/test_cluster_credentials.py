from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubevend_server.cluster.clusters import OwnCluster
from kubevend_server.cluster.connection import Endpoint
from kubevend_server.cluster.credentials import TokenFile
from kubevend_server.errors import FailedPrecondition


def test_a_rotated_file_is_read_again(tmp_path: Path) -> None:
    """After the kubelet has swapped the symbolic link, the next call has the new token."""
    for name in ("old", "new"):
        (tmp_path / name).write_text(f"{name}\n")
    link = tmp_path / "token"
    link.symlink_to("old")
    token = TokenFile(link)
    assert token.read() == "old"
    fresh = tmp_path / "fresh"
    fresh.symlink_to("new")
    os.replace(fresh, link)  # noqa: PTH105 - the kubelet's own step, rename(2)
    assert token.read() == "new"


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read: No such file"), (b"", "is empty"), (b"\n ", "is empty"), (b"\xff", "not text")],
)
def test_a_file_without_a_token_says_so(tmp_path: Path, content: bytes | None, told: str) -> None:
    """A file that is missing, empty or no text is refused with its path and what to do."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FailedPrecondition, match=told) as refusal:
        TokenFile(file).read()
    assert (refusal.value.reason, refusal.value.metadata) == (
        "CREDENTIAL_UNUSABLE",
        {"token_file": str(file), "subject": str(file)},
    )


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
    if host:
        assert own.endpoint() == Endpoint(host, "", str(tmp_path / "ca.crt"))
        assert own.endpoint("PEM") == Endpoint(host, "PEM", "")
    else:
        with pytest.raises(FailedPrecondition):
            own.endpoint()
