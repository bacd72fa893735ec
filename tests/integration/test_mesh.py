"""Callers behind a mesh: a real Envoy before kubevend, by mTLS and by a Unix socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from devcluster import DevCluster
from devcluster.server import BOOTSTRAP_POLICY, ServerError
from kubevend.v1.issue_service_pb2 import IssueTokenResponse
from tests.integration.conftest import Start, Vending
from tests.support.client import Client, Refusal, claims
from tests.support.clusters import make_namespace
from tests.support.envoy import Door, Envoy, Upstream
from tests.support.events import steady
from tests.support.spiffe import Authority, Svid

HEADER = "x-forwarded-client-cert"
ISSUE = "kubevend.v1.IssueService/IssueToken"
CART = "/ns/shop/sa/cart"
CART_ID = f"spiffe://example.org{CART}"
VICTIM_ID = "spiffe://example.org/ns/shop/sa/vault"
EDGE_ID = "spiffe://example.org/edge"
FORGED = f"By=spiffe://example.org/other;Hash={'0' * 64};URI={VICTIM_ID}"
FORGED_AS_EDGE = f"By={EDGE_ID};Hash={'0' * 64};URI={VICTIM_ID}"

POLICY = """
@id("shop-issues")
permit (principal is Workload, action == Action::"IssueToken", resource == Role::"roles/ci")
when { principal.path like "/ns/shop/*" && principal has proxy && ["edge", "sidecar"].contains(principal.proxy)
       && context.mechanism == "forwarded_client_cert" };

@id("front-issues")
permit (principal == Workload::"spiffe://example.org/front", action == Action::"IssueToken", resource);
"""

DOORS = {
    "append": Door("edge", "APPEND_FORWARD"),
    "set": Door("edge", "SANITIZE_SET"),
    "append to the socket": Door("sidecar", "APPEND_FORWARD"),
    "set at the socket": Door("sidecar", "SANITIZE_SET"),
    "everything": Door("edge", "APPEND_FORWARD", ("uri", "subject", "cert", "chain")),
    "names": Door("edge", "APPEND_FORWARD", ("uri", "dns")),
    "no URI": Door("edge", "APPEND_FORWARD", ()),
    "anybody": Door("edge", "SANITIZE_SET", client_required=False),
    "sanitize": Door("edge", "SANITIZE"),
    "sanitize at the socket": Door("sidecar", "SANITIZE"),
    "forward only": Door("edge", "FORWARD_ONLY"),
    "always forward only": Door("sidecar", "ALWAYS_FORWARD_ONLY"),
    "no proxy of the settings": Door("stranger", "SANITIZE_SET"),
}


@dataclass
class Mesh:
    """A kubevend, an Envoy before it, another before that, and the authorities of two trust domains."""

    vending: Vending
    authorities: dict[str, Authority]
    folder: Path
    envoys: list[Envoy] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    @property
    def org(self) -> Authority:
        """The authority of example.org."""
        return self.authorities["example.org"]

    def caller(self, door: str, svid: Svid | None, *sent: str, bearer: str = "") -> Client:
        """A caller at a door of an Envoy.

        Args:
            door: the name of the door.
            svid: its certificate.
            sent: the header, each time that it sends it.
            bearer: its token.
        """
        (address,) = [envoy.addresses[door] for envoy in self.envoys if door in envoy.addresses]
        return self._client(Client(address, self.folder / "example.org.pem", bearer, svid), sent)

    def direct(self, listener: str, svid: Svid | None, *sent: str, bearer: str = "") -> Client:
        """A caller at a listener of kubevend's own."""
        address = f"127.0.0.1:{self.vending.server.ports[listener]}"
        return self._client(Client(address, self.vending.server.folder / "ca.crt", bearer, svid), sent)

    def event_of(self, act: Callable[[], Any]) -> dict[str, Any]:
        """The one event of a call that issues a token, or fails to."""
        (event,) = self.vending.events_of(act, method=ISSUE, stage="STAGE_COMPLETE")
        return event

    def refusal_of(self, client: Client) -> Refusal:
        """How a call is refused; its event must say the same, and name nobody."""
        refusals: list[Refusal] = []
        event = self.event_of(lambda: refusals.append(client.issue_refused()))
        assert steady(event) == {
            "stage": "STAGE_COMPLETE",
            "method": ISSUE,
            "outcome": "OUTCOME_DENIED",
            "status": "UNAUTHENTICATED",
            "reason": refusals[0].reason,
            "message": refusals[0].message,
        }
        return refusals[0]

    def _client(self, client: Client, sent: Sequence[str]) -> Client:
        client.metadata += tuple((HEADER, value) for value in sent)
        self.clients.append(client)
        return client


@pytest.fixture(scope="module")
def mesh(start_for_all: Start, cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The mesh that the tests of this module share."""
    folder = tmp_path_factory.mktemp("mesh")
    authorities = {name: Authority(name) for name in ("example.org", "partner.example")}
    for name, authority in authorities.items():
        (folder / f"{name}.pem").write_text(authority.bundle)
    org = authorities["example.org"]
    trust_domains = {"example.org": {"address": "127.0.0.1:0", "bundle_file": str(folder / "example.org.pem")}}
    socket = folder / "sockets" / "sidecar.sock"
    proxies = {
        "edge": {"spiffe_id": EDGE_ID, "trust_domains": ["example.org"]},
        "sidecar": {"socket": str(socket), "by": EDGE_ID, "trust_domains": ["example.org"]},
        "gateway": {"spiffe_id": "spiffe://example.org/gateway", "trust_domains": ["example.org"]},
    }
    vending = start_for_all(
        {"callers": {"trust_domains": trust_domains, "proxies": proxies}}, policies=BOOTSTRAP_POLICY + POLICY
    )
    make_namespace(cluster, "mesh")
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=["mesh"])
    kubevend = f"127.0.0.1:{vending.server.ports['example.org']}"
    server_ca = (vending.server.folder / "ca.crt").read_text()
    upstreams = {
        "edge": Upstream(kubevend, org.svid("/edge"), server_ca),
        "sidecar": Upstream(str(socket)),
        "stranger": Upstream(kubevend, org.svid("/stranger"), server_ca),
    }
    everybody = "".join(authority.bundle for authority in authorities.values())
    mesh = Mesh(vending, authorities, folder)
    with Envoy(folder / "edge", org.svid("/edge"), everybody, upstreams, DOORS) as edge:
        before = {
            name: Upstream(edge.addresses["append"], org.svid(f"/{name}"), org.bundle) for name in ("front", "gateway")
        }
        doors = {name: Door(name, "APPEND_FORWARD") for name in before}
        with Envoy(folder / "front", org.svid("/front"), org.bundle, before, doors) as front:
            mesh.envoys = [edge, front]
            yield mesh
            for client in mesh.clients:
                client.close()


@pytest.mark.parametrize(
    ("door", "sent"),
    [
        ("append", ()),
        ("append", (FORGED,)),
        ("append", (FORGED, FORGED)),
        ("append", (f'URI={VICTIM_ID};Subject="',)),
        ("append", ('"', "\\")),
        ("everything", (FORGED,)),
        ("set", ()),
        ("set", (FORGED_AS_EDGE, FORGED_AS_EDGE)),
        ("append to the socket", ()),
        ("append to the socket", (FORGED,)),
        ("set at the socket", (FORGED_AS_EDGE,)),
    ],
)
def test_the_caller_is_whose_certificate_the_proxy_was_shown(mesh: Mesh, door: str, sent: tuple[str, ...]) -> None:
    """Behind a proxy a workload is known by its own certificate, whatever it says of itself in the header."""
    svid = mesh.org.svid(CART, names=[f"x,{FORGED_AS_EDGE}"])
    replies: list[IssueTokenResponse] = []

    event = mesh.event_of(lambda: replies.append(mesh.caller(door, svid, *sent).issue()))

    (reply,) = replies
    proxy = "sidecar" if "socket" in door else "edge"
    assert claims(reply.token)["sub"] == "system:serviceaccount:mesh:demo"
    assert steady(event) == {
        "stage": "STAGE_COMPLETE",
        "method": ISSUE,
        "caller": {
            "name": CART_ID,
            "mechanism": "forwarded_client_cert",
            "credentialId": svid.fingerprint,
            "proxy": proxy,
        },
        "resource": "roles/ci",
        "request": {"role": "roles/ci"},
        "decision": {
            "policies": ["shop-issues"],
            "rules": [
                "namespace: the only one that roles/ci allows",
                "service_account_name: the only one that roles/ci allows",
                "audiences: the only one that roles/ci allows",
                "ttl: the server's default_ttl",
            ],
        },
        "grant": {
            "config": "configs/default",
            "namespace": "mesh",
            "serviceAccount": "demo",
            "audiences": ["https://kubernetes.default.svc"],
            "ttl": "3600s",
        },
        "lease": reply.lease,
        "jti": reply.jti,
        "kubernetesAuditId": reply.kubernetes_audit_id,
        "expiration": reply.expiration.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "tokenExpiration": reply.token_expiration.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "outcome": "OUTCOME_SUCCEEDED",
        "status": "OK",
    }
    # The proxy's address, not the one that a header of Envoy's gives to its client.
    assert event["source"].startswith("unix:" if proxy == "sidecar" else "ipv4:127.0.0.1:")


@pytest.mark.parametrize(
    ("door", "uris", "sent", "reason"),
    [
        ("append", (CART,), (FORGED_AS_EDGE,), "FORWARDED_AMBIGUOUS"),
        ("append to the socket", (CART,), (FORGED_AS_EDGE,), "FORWARDED_AMBIGUOUS"),
        ("append", (CART,), (f'{FORGED_AS_EDGE};Subject="',), "FORWARDED_AMBIGUOUS"),
        ("set", (CART, "/ns/shop/sa/other"), (), "FORWARDED_URIS"),
        ("set", (CART, CART), (), "FORWARDED_URIS"),
        ("no URI", (CART,), (), "FORWARDED_URIS"),
        ("set", (), (), "FORWARDED_NOT_SPIFFE"),
        ("set", ("https://example.org/cart",), (), "FORWARDED_NOT_SPIFFE"),
        ("names", (CART,), (), "FORWARDED_AMBIGUOUS"),
        ("set", (f"{CART},{FORGED_AS_EDGE}",), (), "FORWARDED_AMBIGUOUS"),
        ("set", (f"{CART};URI={VICTIM_ID}",), (), "FORWARDED_URIS"),
        ("set", (f"{CART},URI={VICTIM_ID}",), (), "FORWARDED_MALFORMED"),
        ("set", ("/edge",), (), "PROXY_CHAIN"),
        ("gateway", (CART,), (), "PROXY_CHAIN"),
        ("sanitize", (CART,), (), "FORWARDED_MISSING"),
        ("sanitize", (CART,), (FORGED_AS_EDGE,), "FORWARDED_MISSING"),
        ("sanitize at the socket", (CART,), (FORGED_AS_EDGE,), "FORWARDED_MISSING"),
        ("forward only", (CART,), (), "FORWARDED_MISSING"),
        ("forward only", (CART,), (FORGED_AS_EDGE, FORGED_AS_EDGE), "FORWARDED_AMBIGUOUS"),
        ("no proxy of the settings", (CART,), (), "FORWARDED_NOT_BELIEVED"),
    ],
)
def test_a_proxy_that_does_not_say_who_calls(
    mesh: Mesh, door: str, uris: tuple[str, ...], sent: tuple[str, ...], reason: str
) -> None:
    """Where a proxy's own words cannot be told, or name nobody who may call, the call is refused, and recorded."""
    caller = mesh.caller(door, mesh.org.svid(*uris, names=[f"x,{FORGED_AS_EDGE}"]), *sent)

    assert mesh.refusal_of(caller).reason == reason


def test_a_certificate_with_dns_names(mesh: Mesh) -> None:
    """Envoy writes DNS names as they are, after the URI: with them it cannot be told where that ends."""
    refusal = mesh.refusal_of(mesh.caller("names", mesh.org.svid(CART)))

    assert refusal.reason == "FORWARDED_DNS_NAMES"
    assert "`set_current_client_cert_details: {uri: true, dns: false}`" in refusal.message


def test_a_trust_domain_that_the_proxy_may_not_name(mesh: Mesh) -> None:
    """That Envoy trusts an authority is not enough: the settings say whose workloads it may name."""
    refusal = mesh.refusal_of(mesh.caller("set", mesh.authorities["partner.example"].svid(CART)))

    assert (refusal.reason, refusal.metadata) == (
        "FORWARDED_TRUST_DOMAIN",
        {"proxy": "edge", "trust_domain": "partner.example"},
    )


def test_a_client_without_a_certificate(mesh: Mesh) -> None:
    """Who shows the proxy no certificate is nobody, and not the proxy; what it says of itself does not arrive."""
    for sent in ((), (FORGED_AS_EDGE,)):
        assert mesh.refusal_of(mesh.caller("anybody", None, *sent)).reason == "FORWARDED_MISSING"


def test_the_header_without_a_proxy(mesh: Mesh) -> None:
    """Who calls kubevend itself and sends the header is refused, with whatever credential."""
    svid, admin = mesh.org.svid(CART), mesh.vending.server.admin_token
    direct = [
        mesh.direct("bearer", None, FORGED),
        mesh.direct("bearer", None, FORGED, bearer=admin),
        mesh.direct("bearer", None, "", bearer=admin),
        mesh.direct("example.org", svid, FORGED_AS_EDGE),
    ]

    refusals = [mesh.refusal_of(client) for client in direct]

    assert {refusal.reason for refusal in refusals} == {"FORWARDED_NOT_BELIEVED"}
    assert CART_ID in refusals[-1].message


def test_the_last_of_several_proxies_names_the_one_before(mesh: Mesh) -> None:
    """Behind two proxies the caller is the first proxy, never its client: what that proxy wrote does not count."""
    caller = mesh.caller("front", mesh.org.svid(CART))

    event = mesh.event_of(caller.issue)

    assert (event["caller"]["name"], event["caller"]["proxy"]) == ("spiffe://example.org/front", "edge")
    assert event["decision"]["policies"] == ["front-issues"]


def test_a_token_that_a_proxy_passes_on(mesh: Mesh) -> None:
    """A token through a proxy is its owner's; with a certificate that the proxy forwards there would be two callers."""
    admin, svid = mesh.vending.server.admin_token, mesh.org.svid(CART)

    events = [
        mesh.event_of(mesh.caller("sanitize", svid, bearer=admin).issue),
        mesh.event_of(mesh.caller("anybody", None, bearer=admin).issue),
        mesh.event_of(mesh.caller("sanitize at the socket", svid, FORGED, bearer=admin).issue),
    ]
    refusals = [mesh.refusal_of(mesh.caller(door, svid, bearer=admin)) for door in ("set", "append to the socket")]

    owner = {"name": "admin://local/bootstrap", "mechanism": "bootstrap_token"}
    assert [event["caller"] for event in events] == [owner] * 3
    assert [refusal.reason for refusal in refusals] == ["TWO_IDENTITIES"] * 2


@pytest.mark.parametrize("door", ["forward only", "always forward only"])
def test_why_forward_only_is_forbidden(mesh: Mesh, door: str) -> None:
    """Through a proxy that only forwards the header a forged one is believed: why docs/callers.md forbids that."""
    caller = mesh.caller(door, mesh.org.svid("/ns/other/sa/anybody"), FORGED_AS_EDGE)

    event = mesh.event_of(caller.issue)

    assert event["caller"]["name"] == VICTIM_ID


def test_the_socket_of_a_server(start: Start, tmp_path: Path) -> None:
    """A server takes over the socket of one that was killed, and leaves alone that of one that runs."""
    socket = tmp_path / "sockets" / "edge.sock"
    settings = {"callers": {"proxies": {"edge": {"socket": str(socket), "by": "", "trust_domains": ["example.org"]}}}}
    first = start(settings, folder="first")
    with pytest.raises(ServerError, match="Somebody serves"):
        start(settings, folder="second")
    first.server.kill()
    assert socket.is_socket()

    first.restart()
    caller = Client(f"unix:{socket}", None)
    refusal = caller.issue_refused()
    caller.close()

    assert refusal.reason == "FORWARDED_MISSING"
    assert (socket.stat().st_mode & 0o777, socket.parent.stat().st_mode & 0o777) == (0o600, 0o700)
