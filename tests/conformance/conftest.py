"""A server for each case, and the table of what every language made of each."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from devcluster import DevCluster
from tests.conformance.cases import Case
from tests.conformance.driver import Driver
from tests.conformance.languages import LANGUAGES, command
from tests.conformance.play import Play
from tests.integration.conftest import Start, Vending, cluster, empty_store, namespace, start
from tests.support.clusters import allow_anchors
from tests.support.proxy import HoldingProxy

__all__ = ["cluster", "empty_store", "namespace", "start"]


def _free_port() -> int:
    """A port that nobody listens on, and that no connection gets by chance: those come from 32768 on."""
    while True:
        port = random.randrange(20000, 32000)  # noqa: S311 - no secret
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)):
                return port


@pytest.fixture
def way(cluster: DevCluster) -> Iterator[HoldingProxy]:
    """What is between the server and its cluster."""
    with HoldingProxy(cluster.server) as proxy:
        yield proxy


@dataclass(frozen=True)
class Stage:
    """Where cases are played: a server of the case's own, behind it a real cluster, and a folder."""

    start: Start
    cluster: DevCluster
    way: HoldingProxy
    namespace: str
    folder: Path

    def play(self, case: Case, language: str) -> None:
        """Play a case with the driver of a language."""
        program = command(language)
        # A server that comes back is found where it was.
        vending = self.start({**case.settings, "listener": {"address": f"127.0.0.1:{_free_port()}"}})
        vending.add_config(self.cluster, kubernetes_host=self.way.url)
        token_file = self.folder / "caller.token"
        token_file.write_text(case.credential or vending.server.admin_token)
        log = vending.server.folder / "driver.log"
        driver = Driver(program, self._environment(vending, token_file), log)
        known = {"namespace": self.namespace, "admin_token": vending.server.admin_token}
        try:
            Play(vending, driver, self.way, token_file, known).play(case)
        finally:
            code = driver.finish()
            # Looked through for tokens, as all that the server writes is.
            (vending.server.folder / "driver.jsonl").write_text("".join(driver.said))
        assert code == 0

    def _environment(self, vending: Vending, token_file: Path) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
        return {
            **inherited,
            "KUBEVEND_ADDRESS": vending.server.address,
            "KUBEVEND_CA_FILE": str(vending.server.folder / "ca.crt"),
            "KUBEVEND_TOKEN_FILE": str(token_file),
            "KUBERNETES_HOST": self.cluster.server,
            "KUBERNETES_CA_FILE": str(self.cluster.ca_file),
            "NAMESPACE": self.namespace,
        }


@pytest.fixture
def stage(start: Start, cluster: DevCluster, way: HoldingProxy, namespace: str, tmp_path: Path) -> Stage:
    """Where cases are played: demo may read ConfigMaps, and kubevend have anchors."""
    allow_anchors(cluster, namespace)
    cluster.kubectl("create", "role", "reader", "--verb=list", "--resource=configmaps", "--namespace", namespace)
    subject = f"--serviceaccount={namespace}:demo"
    cluster.kubectl("create", "rolebinding", "reader", "--role=reader", subject, "--namespace", namespace)
    return Stage(start, cluster, way, namespace, tmp_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have each report say which case it is of, and with which language: reports come from other processes, too."""
    report = yield
    called = getattr(item, "callspec", None)
    if called is not None and "stage" in getattr(item, "fixturenames", ()):
        language = item.path.stem.removeprefix("test_").replace("_", "-")
        report.user_properties.append(("conformance", (called.params["case"].name, language)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    results: dict[tuple[str, str], str] = {}
    for outcome in ("passed", "xfailed", "skipped", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            for key, of in getattr(report, "user_properties", ()):
                if key == "conformance":
                    results[tuple(of)] = outcome
    if results:
        terminalreporter.section("conformance of the client libraries")
        terminalreporter.write_line(table(results))


def table(results: dict[tuple[str, str], str]) -> str:
    """The table: a line for each case, a column for each language."""
    cases = sorted({case for case, _ in results})
    width = max(map(len, cases))
    lines = [f"{'':{width}}  " + "  ".join(f"{language:10}" for language in LANGUAGES)]
    for case in cases:
        cells = "  ".join(f"{results.get((case, language), '-'):10}" for language in LANGUAGES)
        lines.append(f"{case:{width}}  {cells}")
    return "\n".join(line.rstrip() for line in lines)
