"""What no case of the conformance suite can say, tried with each library that has only its driver to be tried with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import DevCluster
from tests.clients.driving import OFTEN, Driver, begin, driving, environment_of
from tests.integration.conftest import Start
from tests.support.spiffe import Authority
from tests.support.waiting import until

WORKLOADS = """
@id("shop-issues")
permit (principal is Workload, action == Action::"IssueToken", resource == Role::"roles/ci");
"""

pytestmark = pytest.mark.parametrize("language", ["go", "typescript", "java"])


@pytest.fixture
def driver(start: Start, cluster: DevCluster, namespace: str, language: str) -> Iterator[Driver]:
    """A driver that calls a server as its admin."""
    vending = begin(start, cluster, namespace)
    with driving(language, environment_of(vending, cluster, namespace), vending.server.folder) as driver:
        yield driver


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


def test_a_missing_file_is_named(start: Start, cluster: DevCluster, namespace: str, language: str) -> None:
    """A credential that is not there is the library's own error, which names file and variable."""
    vending = begin(start, cluster, namespace)
    environment = {**environment_of(vending, cluster, namespace), "KUBEVEND_TOKEN_FILE": "/missing.token"}
    with driving(language, environment, vending.server.folder) as driver:
        error = driver.ask("whoami")["error"]

    assert (error["code"], error["reason"]) == ("CLIENT", "FILE_UNREADABLE")
    assert "/missing.token" in error["message"]
    assert "KUBEVEND_TOKEN_FILE" in error["message"]


def test_certificates_rotate_without_dropping_a_stream(
    start: Start, cluster: DevCluster, namespace: str, language: str, tmp_path: Path
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

    with driving(language, environment, vending.server.folder) as driver:
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
