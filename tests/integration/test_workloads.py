"""Workloads as callers, over real TLS: certificates of real authorities, listeners for two trust domains."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from devcluster import DevCluster
from devcluster.certificates import make_loopback_certificate
from devcluster.server import BOOTSTRAP_POLICY
from kubevend.v1 import role_service_pb2
from tests.integration.conftest import Start, Vending
from tests.support.client import Client, Refusal, claims, take_apart
from tests.support.clusters import make_namespace
from tests.support.events import steady
from tests.support.spiffe import Authority, Svid
from tests.support.waiting import until

SHOP = "/ns/shop/sa/cart"
ID = f"spiffe://example.org{SHOP}"
ISSUE = "kubevend.v1.IssueService/IssueToken"

POLICY = """
@id("shop-issues")
permit (principal is Workload, action == Action::"IssueToken", resource == Role::"roles/ci")
when { principal.trust_domain == "example.org" && principal.path like "/ns/shop/*" && context.mechanism == "mtls" };

@id("workloads-see")
permit (principal is Workload, action == Action::"GetRole", resource is Role);
"""


@dataclass
class Mount:
    """A folder with a bundle, which is rewritten, or swapped as the kubelet swaps what it mounts."""

    folder: Path
    swaps: bool = False

    @property
    def file(self) -> Path:
        """The bundle."""
        return self.folder / "bundle.pem"

    def write(self, bundle: str) -> None:
        """Put a bundle there."""
        self.folder.mkdir(exist_ok=True)
        if not self.swaps:
            self.file.write_text(bundle)
            return
        version = self.folder / f"..{secrets.token_hex(4)}"
        version.mkdir()
        (version / "bundle.pem").write_text(bundle)
        new = self.folder / "..new"
        new.symlink_to(version.name)
        new.rename(self.folder / "..data")
        if not self.file.is_symlink():
            self.file.symlink_to(Path("..data") / "bundle.pem")


@dataclass
class House:
    """A kubevend with a listener for each of two trust domains, and the authorities of these."""

    vending: Vending
    authorities: dict[str, Authority]
    mounts: dict[str, Mount]
    clients: list[Client] = field(default_factory=list)

    @property
    def org(self) -> Authority:
        """The authority of example.org."""
        return self.authorities["example.org"]

    def caller(self, svid: Svid | None, listener: str = "example.org", bearer: str = "") -> Client:
        """A caller at a listener, on a connection of its own."""
        address = f"127.0.0.1:{self.vending.server.ports[listener]}"
        client = Client(address, self.vending.server.folder / "ca.crt", bearer, svid)
        self.clients.append(client)
        return client

    def replace(self, trust_domain: str) -> Authority:
        """Put another authority in the place of a trust domain's; it."""
        authority = self.authorities[trust_domain] = Authority(trust_domain)
        self.mounts[trust_domain].write(authority.bundle)
        return authority

    def event_of(self, method: str, act: Callable[[], Any]) -> dict[str, Any]:
        """The one event of a call, without what differs from call to call."""
        (event,) = self.vending.events_of(act, method=method, stage="STAGE_COMPLETE")
        return {k: v for k, v in steady(event).items() if k not in ("stage", "method", "traceId")}


@pytest.fixture(scope="module")
def house(start_for_all: Start, cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The house that the tests of this module share."""
    folder = tmp_path_factory.mktemp("trust")
    mounts = {"example.org": Mount(folder / "plain"), "partner.example": Mount(folder / "mounted", swaps=True)}
    authorities = {name: Authority(name) for name in mounts}
    for name, mount in mounts.items():
        mount.write(authorities[name].bundle)
    trust_domains = {name: {"address": "127.0.0.1:0", "bundle_file": str(mount.file)} for name, mount in mounts.items()}
    vending = start_for_all({"callers": {"trust_domains": trust_domains}}, policies=BOOTSTRAP_POLICY + POLICY)
    make_namespace(cluster, "workloads")
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=["workloads"])
    house = House(vending, authorities, mounts)
    yield house
    for client in house.clients:
        client.close()


def test_a_workload_is_known_by_its_certificate(house: House) -> None:
    """A policy on a workload issues to it; the event has its SPIFFE ID and the fingerprint of its certificate."""
    svid = Authority(above=house.org).svid(SHOP)
    tokens = []

    event = house.event_of(ISSUE, lambda: tokens.append(house.caller(svid).issue().token))

    assert claims(tokens[0])["sub"] == "system:serviceaccount:workloads:demo"
    assert event["caller"] == {"name": ID, "mechanism": "mtls", "credentialId": svid.fingerprint}
    assert event["decision"]["policies"] == ["shop-issues"]


@pytest.mark.parametrize(
    ("uris", "signs", "reason"),
    [
        ((SHOP, "/ns/shop/sa/other"), False, "CERTIFICATE_TWO_URIS"),
        ((SHOP, SHOP), False, "CERTIFICATE_TWO_URIS"),
        ((SHOP, "https://example.org/"), False, "CERTIFICATE_TWO_URIS"),
        ((), False, "CERTIFICATE_NOT_SPIFFE"),
        (("https://example.org/ns/shop/sa/cart",), False, "CERTIFICATE_NOT_SPIFFE"),
        (("spiffe://example.org",), False, "CERTIFICATE_NOT_SPIFFE"),
        (("/ns/shop//sa/cart",), False, "CERTIFICATE_NOT_SPIFFE"),
        (("spiffe://Example.org/ns/shop/sa/cart",), False, "CERTIFICATE_NOT_SPIFFE"),
        (("spiffe://partner.example/ns/shop/sa/cart",), False, "CERTIFICATE_TRUST_DOMAIN"),
        ((SHOP,), True, "CERTIFICATE_AUTHORITY"),
    ],
)
def test_a_certificate_that_names_nobody_here(house: House, uris: tuple[str, ...], signs: bool, reason: str) -> None:
    """A certificate of the right authority that is not exactly one workload's of this trust domain is refused."""
    caller = house.caller(house.org.svid(*uris, signs=signs))
    refusals: list[Refusal] = []

    event = house.event_of(ISSUE, lambda: refusals.append(caller.issue_refused()))

    assert (refusals[0].status, refusals[0].reason) == ("UNAUTHENTICATED", reason)
    assert event == {
        "outcome": "OUTCOME_DENIED",
        "status": "UNAUTHENTICATED",
        "reason": reason,
        "message": refusals[0].message,
    }


def see(caller: Client) -> str:
    """Ask for what every workload may see; the reason of the refusal, else its status, or empty."""
    try:
        caller.call(caller.roles.GetRole, role_service_pb2.GetRoleRequest(name="roles/ci"))
    except grpc.RpcError as error:
        refusal = take_apart(error)
        return refusal.reason or refusal.status
    return ""


def test_connections_that_come_to_nothing(house: House) -> None:
    """Without a certificate, with one of another trust domain's authority, or with an expired one, none is made."""
    partner = house.authorities["partner.example"]
    expired = house.org.svid(SHOP, life=timedelta(seconds=-1))
    seen: list[str] = []

    events = house.vending.events_of(
        lambda: seen.extend(see(house.caller(svid)) for svid in (None, partner.svid(SHOP), partner.svid(ID), expired))
    )

    assert seen == ["UNAVAILABLE"] * 4
    assert events == []


def test_two_trust_domains_at_once(house: House) -> None:
    """Each trust domain's workloads call at its own listener, and at no other."""
    svids = {name: authority.svid(SHOP) for name, authority in house.authorities.items()}

    seen = {(name, door): see(house.caller(svid, door)) for name, svid in svids.items() for door in svids}

    assert seen == {
        ("example.org", "example.org"): "",
        ("example.org", "partner.example"): "UNAVAILABLE",
        ("partner.example", "example.org"): "UNAVAILABLE",
        ("partner.example", "partner.example"): "",
    }


def test_two_identities_are_refused(house: House) -> None:
    """A certificate and a token on one call are refused, however good the token; where none asks for it, it is none."""
    svid, token = house.org.svid(SHOP), house.vending.server.admin_token
    refusals: list[Refusal] = []

    both = house.caller(svid, bearer=token)
    event = house.event_of(ISSUE, lambda: refusals.append(both.issue_refused()))

    assert event == {
        "outcome": "OUTCOME_DENIED",
        "status": "UNAUTHENTICATED",
        "reason": "TWO_IDENTITIES",
        "message": refusals[0].message,
    }
    by_token = house.event_of(ISSUE, lambda: house.caller(svid, "bearer", token).issue())
    assert by_token["caller"] == {"name": "admin://local/bootstrap", "mechanism": "bootstrap_token"}


def test_a_connection_outlives_its_certificate(house: House) -> None:
    """A certificate that expires on an open connection is refused from then on."""
    caller = house.caller(house.org.svid(SHOP, life=timedelta(seconds=4)))

    assert see(caller) == ""
    assert until(lambda: see(caller), "a refusal") == "CERTIFICATE_EXPIRED"


@pytest.mark.parametrize("trust_domain", ["example.org", "partner.example"])
def test_a_bundle_is_replaced(house: House, trust_domain: str) -> None:
    """However a bundle is replaced, its authorities alone count from then on, on open connections too."""
    old = house.authorities[trust_domain].svid(SHOP)
    open_one = house.caller(old, trust_domain)
    assert see(open_one) == ""

    new = house.replace(trust_domain).svid(SHOP)

    assert until(lambda: see(open_one), "a refusal") == "CERTIFICATE_NOT_TRUSTED"
    assert see(house.caller(new, trust_domain)) == ""
    assert see(house.caller(old, trust_domain)) == "UNAVAILABLE"


def test_the_servers_certificate_is_replaced(house: House, tmp_path: Path) -> None:
    """A new pair is shown once it is one, at every listener, while open connections go on."""
    server = house.vending.server
    ports = server.ports.values()
    old = shown_at(server.ports["bearer"])
    ca, certificate, key = make_loopback_certificate(tmp_path)
    new = certificate.read_text().strip()
    open_ones = [house.caller(house.org.svid(SHOP)), house.caller(None, "bearer", server.admin_token)]
    for caller in open_ones:
        caller.issue()

    (server.folder / "server.crt").write_text(certificate.read_text())
    until(lambda: "tls_files_unusable" in server.log_file.read_text(), "the half pair to be told")
    half = {shown_at(port) for port in ports}
    (server.folder / "server.key").write_text(key.read_text())
    until(lambda: shown_at(server.ports["bearer"]) != old, "another certificate")

    assert half == {old}
    assert {shown_at(port) for port in ports} == {new}
    # They trust the old authority alone, so they could not have connected anew.
    for caller in open_ones:
        caller.issue()
    assert see(house.caller(house.org.svid(SHOP))) == "UNAVAILABLE"
    (server.folder / "ca.crt").write_text(ca.read_text())
    assert see(house.caller(house.org.svid(SHOP))) == ""


def shown_at(port: int) -> str:
    """The certificate that the server shows at a port."""
    return ssl.get_server_certificate(("127.0.0.1", port)).strip()


def test_health_is_the_same_at_every_listener(house: House) -> None:
    """A workload that asks for health is told of the whole server."""
    stub = health_pb2_grpc.HealthStub(house.caller(house.org.svid(SHOP)).channel)

    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status == health_pb2.HealthCheckResponse.SERVING
