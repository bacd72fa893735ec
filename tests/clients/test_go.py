"""The Go library: its own tests, its modules, and its work at a real server and a real API server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import DevCluster
from kubevend.v1 import lease_service_pb2
from tests.clients.driving import OFTEN, Driver, begin, driving, environment_of
from tests.integration.conftest import Start, Vending
from tests.support.golang import LIBRARY, ROOT, can_find_races, go
from tests.support.spiffe import Authority
from tests.support.waiting import until

WORKLOADS = """
@id("shop-issues")
permit (principal is Workload, action == Action::"IssueToken", resource == Role::"roles/ci");
"""


@pytest.fixture
def vending(start: Start, cluster: DevCluster, namespace: str) -> Vending:
    """A server whose tokens are followed by the next ones after two thirds of their life."""
    return begin(start, cluster, namespace)


@pytest.fixture
def driver(vending: Vending, cluster: DevCluster, namespace: str) -> Iterator[Driver]:
    """A driver that calls it as the admin."""
    with driving("go", environment_of(vending, cluster, namespace), vending.server.folder) as driver:
        yield driver


def test_its_own_tests_pass() -> None:
    """The tests that the library has in its own language hold, without a data race where Go can look for one."""
    race = can_find_races()

    said = go("test", "-v", *(["-race"] if race else []), ".", folder=LIBRARY, race=race)

    assert said.count("--- PASS: Test") >= 30
    assert "--- SKIP" not in said


def test_the_tests_of_its_kubernetes_module_pass() -> None:
    """The same for the module that puts it into client-go."""
    said = go("test", "-v", ".", folder=LIBRARY / "kubernetes")

    assert said.count("--- PASS: Test") >= 6
    assert "--- SKIP" not in said


def test_who_needs_tokens_alone_gets_no_client_go() -> None:
    """Nothing of Kubernetes is among the modules that the library requires."""
    assert "k8s.io" not in go("list", "-m", "all", folder=LIBRARY)


@pytest.mark.parametrize("module", [".", "kubernetes", "conformance"])
def test_nothing_is_compiled_twice(module: str) -> None:
    """What the library and the development cluster both require they require in one version."""
    cluster, library = (
        dict(re.findall(r"^\t(\S+) (v\S+)", (folder / "go.mod").read_text(), re.MULTILINE))
        for folder in (ROOT / "devcluster", LIBRARY / module)
    )
    shared = cluster.keys() & library.keys()

    assert "google.golang.org/grpc" in shared
    assert {name: library[name] for name in shared} == {name: cluster[name] for name in shared}


def test_three_rotations_and_an_outage_cost_no_request(start: Start, cluster: DevCluster, namespace: str) -> None:
    """Four workers that list ConfigMaps all the time see no failure while tokens rotate and kubevend is away."""
    vending = begin(start, cluster, namespace, **OFTEN)
    with driving("go", environment_of(vending, cluster, namespace), vending.server.folder) as driver:
        driver.do("open", source="a", role="ci")
        driver.do("load_start", source="a", workers=4)
        seen: dict[str, None] = {}

        def rotated(times: int) -> bool:
            seen[driver.do("token", source="a")["token"]] = None
            return len(seen) > times

        until(lambda: rotated(3), "three rotations", 60)
        vending.server.stop()
        before = driver.do("token", source="a")
        driver.do("use", source="a")
        assert driver.do("token", source="a") == before, "the token that is there serves through the outage"
        vending.restart()
        until(lambda: rotated(5), "rotations after the outage", 90)
        outcome = driver.do("load_stop", source="a")

    assert (outcome["failed"], outcome["first_failure"]) == (0, "")
    assert outcome["requests"] > 20
    assert outcome["tokens"] >= 5


def test_fifty_callers_share_one_stream(vending: Vending, driver: Driver) -> None:
    """However many ask at once, one stream is opened and one token issued; the driver ends although it is open."""
    driver.do("open", source="a", role="ci")

    assert len(driver.do("tokens", source="a", count=50)["tokens"]) == 1
    assert len(vending.events(method="kubevend.v1.IssueService/StreamTokens", stage="STAGE_COMPLETE")) == 1


def test_a_401_of_the_api_server_costs_no_request(cluster: DevCluster, namespace: str, driver: Driver) -> None:
    """Where the API server no longer takes a token, the request that finds out succeeds with the next one."""
    driver.do("open", source="a", role="ci")
    first = driver.do("token", source="a")
    # The token dies with its ServiceAccount, of which kubevend hears nothing; the next one of that name is another.
    cluster.kubectl("delete", "serviceaccount", "demo", f"--namespace={namespace}")
    cluster.kubectl("create", "serviceaccount", "demo", f"--namespace={namespace}")

    def replaced() -> bool:
        driver.do("use", source="a")
        return bool(driver.do("token", source="a")["token"] != first["token"])

    until(replaced, "the API server to forget the token, which it remembers for 10 s", 60)
    assert driver.do("token", source="a")["lease"] != first["lease"]


def test_a_revocation_is_told_and_another_token_fetched(vending: Vending, driver: Driver) -> None:
    """The source tells which lease was ended, and has a token of another one."""
    driver.do("open", source="a", role="ci")
    lease = driver.do("token", source="a")["lease"]

    vending.admin.call(vending.admin.leases.RevokeLease, lease_service_pb2.RevokeLeaseRequest(name=lease))

    until(lambda: driver.do("told", source="a")["revoked"] == [lease], "the revocation")
    assert driver.do("token", source="a", timeout_ms=30000)["lease"] != lease


def test_refusals_say_what_the_server_says(vending: Vending, driver: Driver, namespace: str) -> None:
    """Code, reason, message, fields and request id of an error are the server's; those of the library are CLIENT."""
    denied = driver.ask("issue", role="ci", namespace="elsewhere")["error"]
    assert (denied["code"], denied["reason"]) == ("PERMISSION_DENIED", "NAMESPACE_NOT_ALLOWED")
    assert namespace in denied["message"]
    assert [e["requestId"] for e in vending.events(reason="NAMESPACE_NOT_ALLOWED")] == [denied["request_id"]]
    invalid = driver.ask("issue", role="ci", request_id="no UUID")["error"]
    assert (invalid["code"], invalid["violations"]) == ("INVALID_ARGUMENT", ["request_id"])
    driver.do("open", source="a", role="roles/nobody")
    assert driver.ask("token", source="a", timeout_ms=60000)["error"]["reason"] == "ROLE_NOT_FOUND"
    assert driver.ask("use", source="a")["error"]["reason"] == "ROLE_NOT_FOUND"
    driver.do("close", source="a")
    closed = driver.ask("token", source="a")["error"]
    assert (closed["code"], closed["reason"]) == ("CLIENT", "SOURCE_CLOSED")
    assert driver.do("whoami") == {"name": "admin://local/bootstrap"}


def test_a_missing_file_is_named(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """A credential that is not there is the library's own error, which names file and variable."""
    environment = {**environment_of(vending, cluster, namespace), "KUBEVEND_TOKEN_FILE": "/missing.token"}
    with driving("go", environment, vending.server.folder) as driver:
        error = driver.ask("whoami")["error"]

    assert (error["code"], error["reason"]) == ("CLIENT", "FILE_UNREADABLE")
    assert "/missing.token" in error["message"]
    assert "KUBEVEND_TOKEN_FILE" in error["message"]


def test_certificates_rotate_without_dropping_a_stream(
    start: Start, cluster: DevCluster, namespace: str, tmp_path: Path
) -> None:
    """A new certificate is shown from the next call on; the stream that runs goes on where it was opened."""
    authority = Authority("example.org")
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(authority.bundle)
    trust = {"example.org": {"address": "127.0.0.1:0", "bundle_file": str(bundle)}}
    vending = begin(start, cluster, namespace, **OFTEN, callers={"trust_domains": trust})
    (vending.server.folder / "policies" / "workloads.cedar").write_text(WORKLOADS)
    first, second = (authority.svid("/ns/shop/sa/cart") for _ in range(2))
    certificate, key = first.write(tmp_path)
    environment = {
        **environment_of(vending, cluster, namespace),
        "KUBEVEND_ADDRESS": f"127.0.0.1:{vending.server.ports['example.org']}",
        "KUBEVEND_TOKEN_FILE": "",
        "KUBEVEND_CLIENT_CERT_FILE": str(certificate),
        "KUBEVEND_CLIENT_KEY_FILE": str(key),
    }

    def streamed() -> list[tuple[str, str]]:
        events = vending.events(method="kubevend.v1.IssueService/StreamTokens", stage="STAGE_COMPLETE")
        return [(event["caller"]["credentialId"], event["streamId"]) for event in events]

    with driving("go", environment, vending.server.folder) as driver:
        until(lambda: "error" not in driver.ask("issue", role="ci"), "the policy")
        driver.do("open", source="a", role="ci")
        driver.do("token", source="a")
        second.write(tmp_path)
        jti = driver.do("issue", role="ci")["jti"]
        (event,) = vending.events(jti=jti, stage="STAGE_COMPLETE")
        assert event["caller"]["credentialId"] == second.fingerprint
        known = len(streamed())
        until(lambda: len(streamed()) >= known + 2, "further tokens on the stream")

    assert {credential for credential, _ in streamed()} == {first.fingerprint}
    assert len({stream for _, stream in streamed()}) == 1
