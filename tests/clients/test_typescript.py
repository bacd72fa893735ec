"""The TypeScript library: its own tests, its package, and its work at a real server and a real API server."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import DevCluster
from kubevend.v1 import lease_service_pb2
from tests.clients.driving import OFTEN, Driver, begin, driving, environment_of
from tests.integration.conftest import Start, Vending
from tests.support.spiffe import Authority
from tests.support.typescript import LIBRARY, build_library, holding_library, run
from tests.support.waiting import until

WORKLOADS = """
@id("shop-issues")
permit (principal is Workload, action == Action::"IssueToken", resource == Role::"roles/ci");
"""

CONSUMER = """\
import { connect, KubevendError, type Token, VERSION } from "kubevend";
import { LeaseService } from "kubevend/v1";

const client = connect({ address: "127.0.0.1:9", plaintext: true });
await using source = client.tokenSource("quickstart", { ttlSeconds: 600 });
source.on("revoked", (lease: string) => { console.log(lease); });
try {
  const token: Token = await client.issue("quickstart", { timeoutMs: 60_000 });
  await client.call(LeaseService.method.revokeLease, { name: token.lease });
} catch (error) {
  if (!(error instanceof KubevendError)) throw error;
  console.log(VERSION, error.code);
}
await client.close();
"""

KUBERNETES_CONSUMER = """\
import { CoreV1Api } from "@kubernetes/client-node";
import { Client } from "kubevend";
import { kubeConfig } from "kubevend/kubernetes";

const client = new Client({ address: "127.0.0.1:9", plaintext: true });
const tokens = { token: () => client.issue("ci", { timeoutMs: 60_000 }), invalidate: () => undefined };
const api = kubeConfig(tokens, { server: "https://127.0.0.1:9" }).makeApiClient(CoreV1Api);
kubeConfig(client.tokenSource("ci"), { server: "https://127.0.0.1:9" });
await api.listNamespacedPod({ namespace: "apps" }).catch((error: { code: string }) => { console.log(error.code); });
await client.close();
"""


@pytest.fixture
def vending(start: Start, cluster: DevCluster, namespace: str) -> Vending:
    """A server whose tokens are followed by the next ones after two thirds of their life."""
    return begin(start, cluster, namespace)


@pytest.fixture
def driver(vending: Vending, cluster: DevCluster, namespace: str) -> Iterator[Driver]:
    """A driver that calls it as the admin."""
    with driving("typescript", environment_of(vending, cluster, namespace), vending.server.folder) as driver:
        yield driver


def test_its_own_tests_pass() -> None:
    """The tests that the library has in its own language, with no network beyond loopback."""
    build = build_library()

    said = run(
        "node", "--test", "--test-reporter=tap", *map(str, sorted((build / "test").glob("*.test.js"))), folder=LIBRARY
    )

    assert "# fail 0" in said
    assert "# skipped 0" in said


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it would be published."""
    build_library()
    folder = tmp_path_factory.mktemp("package")
    with holding_library():
        run("npm", "pack", "--silent", f"--pack-destination={folder}", folder=LIBRARY)
    (found,) = folder.iterdir()
    return found


def test_the_package_has_what_users_need_and_nothing_else(package: Path) -> None:
    """Compiled modules with their types, the page and the licence; no tests, no sources, no driver."""
    with tarfile.open(package) as archive:
        names = {name.removeprefix("package/") for name in archive.getnames()}
        (described,) = (archive.extractfile(m) for m in archive.getmembers() if m.name == "package/package.json")
        assert described is not None
        content = json.load(described)

    assert {name for name in names if not name.startswith("dist/")} == {"package.json", "README.md", "LICENSE"}
    assert {Path(name).suffixes[-1] for name in names if name.startswith("dist/")} == {".js", ".ts"}
    modules = {name.removesuffix(".d.ts") for name in names if name.endswith(".d.ts")}
    assert {f"{module}.{kind}" for module in modules for kind in ("js", "d.ts")} == {
        n for n in names if n[:5] == "dist/"
    }
    for target in content["exports"].values():
        paths = [target] if isinstance(target, str) else target.values()
        assert {path.removeprefix("./") for path in paths} <= names


def test_the_package_works_in_an_empty_folder(package: Path, tmp_path: Path) -> None:
    """It installs without its optional peer, its types hold under strict, and both `import` and `require` load it."""
    strict = ["--strict", "--exactOptionalPropertyTypes", "--module", "nodenext", "--target", "es2022"]
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    (tmp_path / "consumer.ts").write_text(CONSUMER)
    (tmp_path / "required.cjs").write_text('console.log(require("kubevend").VERSION)')
    install = ["npm", "install", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    compiler = str(LIBRARY / "node_modules" / ".bin" / "tsc")

    run(*install, str(package), "@types/node@20", folder=tmp_path)
    assert not (tmp_path / "node_modules" / "@kubernetes").exists()
    run(compiler, *strict, "--lib", "es2022,esnext.disposable", "consumer.ts", folder=tmp_path)
    assert run("node", "consumer.js", folder=tmp_path) == "0.1.0 UNAVAILABLE\n"
    assert "0.1.0\n" in run("node", "required.cjs", folder=tmp_path)

    run(*install, "@kubernetes/client-node@1", folder=tmp_path)
    (tmp_path / "kubernetes.ts").write_text(KUBERNETES_CONSUMER)
    run(compiler, *strict, "--skipLibCheck", "kubernetes.ts", folder=tmp_path)
    assert run("node", "kubernetes.js", folder=tmp_path) == "UNAVAILABLE\n"


def test_three_rotations_and_an_outage_cost_no_request(start: Start, cluster: DevCluster, namespace: str) -> None:
    """Four workers that list ConfigMaps all the time see no failure while tokens rotate and kubevend is away."""
    vending = begin(start, cluster, namespace, **OFTEN)
    with driving("typescript", environment_of(vending, cluster, namespace), vending.server.folder) as driver:
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
    driver.do("close", source="a")
    closed = driver.ask("token", source="a")["error"]
    assert (closed["code"], closed["reason"]) == ("CLIENT", "SOURCE_CLOSED")
    assert driver.do("whoami") == {"name": "admin://local/bootstrap"}


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

    with driving("typescript", environment, vending.server.folder) as driver:
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
