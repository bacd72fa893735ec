"""Workloads as callers, over real TLS: certificates of real authorities, listeners for two trust domains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from devcluster import DevCluster
from devcluster.server import BOOTSTRAP_POLICY
from tests.integration.conftest import Start, Vending
from tests.support.client import Client, Refusal, claims
from tests.support.clusters import make_namespace
from tests.support.events import steady
from tests.support.spiffe import Authority, Svid

SHOP = "/ns/shop/sa/cart"
ID = f"spiffe://example.org{SHOP}"
ISSUE = "kubevend.v1.IssueService/IssueToken"

POLICY = """
@id("shop-issues")
permit (principal is Workload, action == Action::"IssueToken", resource == Role::"roles/ci")
when { principal.trust_domain == "example.org" && principal.path like "/ns/shop/*" && context.mechanism == "mtls" };

@id("partner-sees")
permit (principal is Workload, action == Action::"GetRole", resource is Role)
when { principal.trust_domain == "partner.example" };
"""


@dataclass
class House:
    """A kubevend with a listener for each of two trust domains, and the authorities of these."""

    vending: Vending
    authorities: dict[str, Authority]
    folder: Path
    clients: list[Client] = field(default_factory=list)

    @property
    def org(self) -> Authority:
        """The authority of example.org."""
        return self.authorities["example.org"]

    def caller(self, svid: Svid | None, listener: str = "example.org", bearer: str = "") -> Client:
        """A caller at a listener, on a connection of its own."""
        address = f"127.0.0.1:{self.vending.server.ports[listener]}"
        # Read at each time, since tests replace it.
        client = Client(address, self.vending.server.folder / "ca.crt", bearer, svid)
        self.clients.append(client)
        return client

    def event_of(self, method: str, act: Callable[[], Any]) -> dict[str, Any]:
        """The one event of a call, without what differs from call to call."""
        before = len(self.vending.events(method=method, stage="STAGE_COMPLETE"))
        act()
        (event,) = self.vending.events(method=method, stage="STAGE_COMPLETE")[before:]
        return {k: v for k, v in steady(event).items() if k not in ("stage", "method", "traceId")}


@pytest.fixture(scope="module")
def house(start_for_all: Start, cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The house that the tests of this module share."""
    folder = tmp_path_factory.mktemp("trust")
    authorities = {name: Authority(name) for name in ("example.org", "partner.example")}
    for name, authority in authorities.items():
        (folder / f"{name}.pem").write_text(authority.bundle)
    trust_domains = {
        name: {"address": "127.0.0.1:0", "bundle_file": str(folder / f"{name}.pem")} for name in authorities
    }
    vending = start_for_all({"callers": {"trust_domains": trust_domains}}, policies=BOOTSTRAP_POLICY + POLICY)
    make_namespace(cluster, "workloads")
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=["workloads"])
    house = House(vending, authorities, folder)
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
