"""Credentials and keys that change while tokens are being issued: picked up without a restart, and nobody notices."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from devcluster import DevCluster
from kubevend.v1 import config_service_pb2 as pb
from tests.integration.conftest import Start, Vending
from tests.support.client import claims
from tests.support.clusters import token_requests
from tests.support.identities import client_certificate
from tests.support.waiting import until

ROTATIONS = 10
CALLERS = 4


@dataclass
class Load:
    """What callers got while something changed."""

    issued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def await_more(self, count: int = 2 * CALLERS) -> None:
        """Wait until so many more tokens have been issued; a failure ends the wait."""
        goal = len(self.issued) + count
        until(lambda: len(self.issued) >= goal or self.failed, "tokens to be issued")


@contextmanager
def under_load(vending: Vending) -> Iterator[Load]:
    """Have callers issue tokens, without a pause, until the block ends; none may fail."""
    load, enough = Load(), Event()

    def call() -> None:
        client = vending.client(vending.server.admin_token)
        while not enough.is_set():
            try:
                load.issued.append(client.issue().token)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not be
                load.failed.append(str(error))

    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call) for _ in range(CALLERS)]
        try:
            load.await_more()
            yield load
        finally:
            enough.set()
        for done in calls:
            done.result()
    assert not load.failed, load.failed[0]


def identities(cluster: DevCluster, namespace: str) -> set[str]:
    """The credentials by which kubevend's TokenRequests in a namespace were authenticated."""
    key = "authentication.kubernetes.io/credential-id"
    return {
        credential
        for entry in token_requests(cluster, namespace)
        for credential in entry["user"].get("extra", {}).get(key, [])
    }


def write(path: Path, text: str) -> None:
    """Write a file in place, as an editor or a shell does: for a moment it is empty."""
    path.write_text(text)


def swap(path: Path, text: str) -> None:
    """Put another file in its place, as the kubelet does."""
    fresh = path.with_suffix(".fresh")
    fresh.write_text(text)
    fresh.replace(path)


def test_a_token_file(start: Start, cluster: DevCluster, namespace: str) -> None:
    """A token file that is replaced, or written anew in place, again and again."""
    vending = start()
    file = vending.server.folder / "credentials" / "token"
    file.write_text(cluster.token("kubevend", "kubevend"))
    vending.add_config(cluster, token_file=str(file))
    vending.admin.create_role(allowed_namespaces=[namespace])

    shown = []
    with under_load(vending) as load:
        for number in range(ROTATIONS):
            token = cluster.token("kubevend", "kubevend")
            (swap if number % 2 else write)(file, token)
            shown.append(f"JTI={claims(token)['jti']}")
            load.await_more()

    assert set(shown) <= identities(cluster, namespace)


def test_the_pods_own_token(start: Start, cluster: DevCluster, namespace: str, tmp_path: Path) -> None:
    """The pod's own token and CA, rotated by the kubelet's swap of a symbolic link to a folder."""
    host, _, port = cluster.server.removeprefix("https://").partition(":")
    mount = tmp_path / "serviceaccount"
    mount.mkdir()

    def project(version: int) -> str:
        folder = mount / f"..{version}"
        folder.mkdir()
        token = cluster.token("kubevend", "kubevend")
        (folder / "token").write_text(token)
        (folder / "ca.crt").write_text(cluster.ca_file.read_text() + "\n" * version)
        fresh = mount / "..data_tmp"
        fresh.symlink_to(folder.name)
        fresh.replace(mount / "..data")
        return f"JTI={claims(token)['jti']}"

    project(0)
    for name in ("token", "ca.crt"):
        (mount / name).symlink_to(Path("..data") / name)
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    vending = start({"kubernetes": {"service_account_folder": str(mount)}}, environment=environment)
    request = pb.CreateConfigRequest(config_id="default", config=pb.Config())
    vending.admin.call(vending.admin.configs.CreateConfig, request)
    vending.admin.create_role(allowed_namespaces=[namespace])

    shown = []
    with under_load(vending) as load:
        for version in range(1, ROTATIONS + 1):
            shown.append(project(version))
            load.await_more()

    assert set(shown) <= identities(cluster, namespace)


def by_update(vending: Vending, **fields: Any) -> None:
    """Give configs/default another credential."""
    config = pb.Config(name="configs/default", **fields)
    vending.admin.call(vending.admin.configs.UpdateConfig, pb.UpdateConfigRequest(config=config))


def test_a_stored_token(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """A stored token that is given anew by UpdateConfig."""
    shown = []
    with under_load(vending) as load:
        for _ in range(ROTATIONS):
            token = cluster.token("kubevend", "kubevend")
            by_update(vending, service_account_jwt=token)
            shown.append(f"JTI={claims(token)['jti']}")
            load.await_more()

    assert set(shown) <= identities(cluster, namespace)


def let_user(cluster: DevCluster, namespace: str, user: str) -> None:
    """Let a user request the tokens of a namespace's ServiceAccount demo."""
    binding = ("create", "rolebinding", user, "--role=kubevend", f"--user={user}", f"--namespace={namespace}")
    cluster.kubectl(*binding)


def users(cluster: DevCluster, namespace: str) -> set[str]:
    """Who requested tokens in a namespace."""
    lines = cluster.audit_log.read_text().splitlines()
    found = (line for line in lines if '"subresource":"token"' in line and f'"namespace":"{namespace}"' in line)
    return {line.partition('"username":"')[2].partition('"')[0] for line in found}


def test_a_client_certificate(start: Start, cluster: DevCluster, namespace: str) -> None:
    """A stored client certificate that is given anew: each one is shown to the cluster, by a user of its own."""
    vending = start()
    names = [f"{namespace}-user-{number}" for number in range(ROTATIONS)]
    for name in names:
        let_user(cluster, namespace, name)
    pairs = [client_certificate(cluster, name) for name in names]
    first = pb.ClientCertificate(certificate=pairs[0][0], private_key=pairs[0][1])
    vending.add_config(cluster, client_certificate=first)
    vending.admin.create_role(allowed_namespaces=[namespace])

    with under_load(vending) as load:
        for certificate, private_key in pairs[1:]:
            by_update(
                vending, client_certificate=pb.ClientCertificate(certificate=certificate, private_key=private_key)
            )
            load.await_more()

    assert set(names) <= users(cluster, namespace)


def test_client_certificate_files(start: Start, cluster: DevCluster, namespace: str) -> None:
    """A client certificate and its key in files that are replaced one by one: for a moment they are no pair."""
    vending = start()
    folder = vending.server.folder / "credentials"
    certificate_file, key_file = folder / "tls.crt", folder / "tls.key"
    names = [f"{namespace}-file-{number}" for number in range(ROTATIONS)]
    for name in names:
        let_user(cluster, namespace, name)
    certificate, private_key = client_certificate(cluster, names[0])
    certificate_file.write_text(certificate)
    key_file.write_text(private_key)
    files = pb.ClientCertificateFiles(certificate_file=str(certificate_file), private_key_file=str(key_file))
    vending.add_config(cluster, client_certificate_files=files)
    vending.admin.create_role(allowed_namespaces=[namespace])

    with under_load(vending) as load:
        for name in names[1:]:
            certificate, private_key = client_certificate(cluster, name)
            swap(certificate_file, certificate)
            load.await_more(CALLERS)
            swap(key_file, private_key)
            load.await_more()

    assert set(names) <= users(cluster, namespace)


def test_the_stores_key(vending: Vending) -> None:
    """The store's key, rotated: what is sealed is sealed anew, and the old key can go, all while tokens are issued."""
    file = vending.server.folder / "store.key"
    first = file.read_text()

    def rotated(text: str) -> Callable[[], bool]:
        swap(file, text)
        os.chmod(file, 0o600)  # noqa: PTH101 - as the server itself makes it
        sealed_under = text.partition(":")[0]
        count = vending.server.log_file.read_text().count(f'"sealed_under": "{sealed_under}"')
        return lambda: vending.server.log_file.read_text().count(f'"sealed_under": "{sealed_under}"') > count

    second = f"k2:{base64.b64encode(secrets.token_bytes(32)).decode()}\n"
    with under_load(vending) as load:
        until(rotated(second + first), "the new key to be taken")
        load.await_more()
        until(rotated(second), "the old key to be dropped")
        load.await_more()
    vending.server.stop()
    vending.restart()

    assert vending.admin.issue().token
    assert first.strip() not in file.read_text()
