"""docs/callers.md, typed as it stands, after docs/operators.md, beside a real API server and a real Envoy."""

from __future__ import annotations

import shlex

from devcluster import DevCluster
from tests.docs.conftest import Machine, free_address
from tests.docs.replies import assert_shown
from tests.e2e.quickstart_process import ROOT
from tests.support.envoy import envoy_binary
from tests.support.shell_blocks import read_blocks, run_blocks


def test_the_page(cluster: DevCluster, machine: Machine) -> None:
    """Every command of the page works, and prints what the page shows."""
    del cluster
    machine.install("envoy", f'exec {shlex.quote(envoy_binary())} "$@"')
    for name in ("KUBEVEND_ADDRESS", "KUBEVEND_MESH_ADDRESS", "PROXY_ADDRESS"):
        machine.environment[name] = free_address()
    before = [b for b in read_blocks((ROOT / "docs/operators.md").read_text()) if b.section == "Outside of the cluster"]
    page = read_blocks((ROOT / "docs/callers.md").read_text())
    assert all(block.runs for block in page)

    printed = run_blocks([*before, *page], machine.home, machine.environment)

    for block, output in printed[len(before) :]:
        assert_shown(block, output)
