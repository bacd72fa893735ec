"""The TypeScript library: its own tests, and its package."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest

from tests.support.programs import run
from tests.support.typescript import LIBRARY, build_library, holding_library

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


def test_its_own_tests_pass() -> None:
    """The tests that the library has in its own language, with no network beyond loopback."""
    build = build_library()

    said = run(
        "node", "--test", "--test-reporter=tap", *map(str, sorted((build / "test").glob("*.test.js"))), folder=LIBRARY
    )

    (passed,) = re.findall(r"^# pass (\d+)$", said, re.MULTILINE)
    assert int(passed) >= 45
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
