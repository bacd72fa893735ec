"""The Python library, against a real server and a real API server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest

from devcluster import DevCluster
from kubevend import Client, KubevendError, NotFound, Settings
from kubevend.aio import Client as AioClient
from kubevend.v1 import lease_service_pb2, role_service_pb2
from tests.integration.conftest import Vending
from tests.support.clusters import works
from tests.support.evidence import EVIDENCE


def settings_of(vending: Vending) -> Settings:
    """How to call a server as its bootstrap admin."""
    folder = vending.server.folder
    return Settings(vending.server.address, ca_file=folder / "ca.crt", token_file=folder / "admin.token")


@pytest.fixture
def client(vending: Vending) -> Iterator[Client]:
    """The bootstrap admin."""
    with Client(settings_of(vending)) as client:
        yield client


def test_a_token_is_issued(client: Client, cluster: DevCluster, namespace: str) -> None:
    """One call gives a token that the API server accepts, with all that there is to know about it."""
    token = client.issue("ci", ttl=timedelta(minutes=10))
    EVIDENCE.note_token(token.token)

    assert works(cluster, token.token)
    assert (token.namespace, token.service_account, token.granted_ttl) == (namespace, "demo", timedelta(minutes=10))
    assert token.audiences == ("https://kubernetes.default.svc",)
    assert token.lease.startswith("leases/")
    assert token.jti
    assert token.token not in repr(token)


def test_stubs_carry_credentials_and_typed_errors(client: Client) -> None:
    """Each stub calls as the caller of the settings, and what is refused is raised with reason and facts."""
    assert client.whoami().name == "admin://local/bootstrap"
    assert client.roles.GetRole(role_service_pb2.GetRoleRequest(name="roles/ci")).role.name == "roles/ci"
    assert not client.leases.ListLeases(lease_service_pb2.ListLeasesRequest()).leases
    with pytest.raises(NotFound) as missing:
        client.issue("none")
    assert (missing.value.code, missing.value.reason) == ("NOT_FOUND", "ROLE_NOT_FOUND")
    assert missing.value.request_id
    with pytest.raises(KubevendError) as broken:
        client.issue("ci", namespace="No")
    assert [v.field for v in broken.value.violations] == ["namespace"]


async def test_asyncio_has_the_same(vending: Vending, cluster: DevCluster) -> None:
    """The asyncio client issues, names the caller and raises as the other one does."""
    async with AioClient(settings_of(vending)) as client:
        token = await client.issue("roles/ci")
        EVIDENCE.note_token(token.token)
        assert works(cluster, token.token)
        assert (await client.whoami()).kind == "Admin"
        with pytest.raises(NotFound):
            await client.issue("none")


def test_import_is_fast() -> None:
    """To import kubevend, to name its errors and to read settings loads neither gRPC nor protobuf."""
    script = (
        "import sys, kubevend; kubevend.Settings, kubevend.Denied; print({'grpc', 'google.protobuf'} & {*sys.modules})"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "set()"
