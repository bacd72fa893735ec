"""docs/callers.md, typed as it stands, after the server of docs/operators.md has issued its first token."""

from __future__ import annotations

import re
import shlex

import yaml

from devcluster import DevCluster
from kubevend_server.settings import parse
from tests.docs.conftest import Machine, free_address
from tests.docs.replies import assert_shown
from tests.e2e.quickstart_process import ROOT
from tests.support.envoy import envoy_binary
from tests.support.shell_blocks import read_blocks, run_blocks
from tests.unit.test_settings import MINIMAL

OPERATORS = read_blocks((ROOT / "docs" / "operators.md").read_text())
BEFORE = [block for block in OPERATORS if block.section == "Outside of the cluster" and block.runs]
BLOCKS = read_blocks((ROOT / "docs" / "callers.md").read_text())


def test_every_command_does_what_it_shows(cluster: DevCluster, machine: Machine) -> None:
    """Every command of the page works, and prints what the page shows."""
    del cluster
    machine.install("envoy", f'exec {shlex.quote(envoy_binary())} "$@"')
    for name in ("KUBEVEND_ADDRESS", "KUBEVEND_WORKLOADS_ADDRESS", "PROXY_ADDRESS", "CI_ADDRESS"):
        machine.environment[name] = free_address()

    for block, printed in run_blocks([*BEFORE, *BLOCKS], machine.home, machine.environment)[len(BEFORE) :]:
        assert_shown(block, printed)


def test_settings_of_issuers_are_taken() -> None:
    """The settings that the page shows for CI systems are settings, and what goes with them is YAML."""
    page = (ROOT / "docs" / "callers.md").read_text().partition("## From CI (OIDC)")[2]
    shown = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    workflows = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]

    assert set(parse(MINIMAL + "".join(shown)).callers.issuers) == {"github", "gitlab"}
    assert [next(iter(workflow)) for workflow in workflows] == ["permissions", "deploy"]


def test_policies_to_start_from_read_what_the_page_lists() -> None:
    """The page's settings let policies see each claim that the policies for CI jobs read: else every job is denied."""
    page = (ROOT / "docs" / "callers.md").read_text().partition("## From CI (OIDC)")[2]
    shown = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    issuers = parse(MINIMAL + "".join(shown)).callers.issuers
    policies = (ROOT / "deploy" / "policies" / "ci" / "ci.cedar").read_text().split("@id(")[1:]

    read = {
        (issuer, claim)
        for policy in policies
        for issuer in re.findall(r'principal\.issuer == "(\w+)"', policy)
        for claim in re.findall(r'principal\.getTag\("(\w+)"\)', policy)
    }

    assert {issuer for issuer, _ in read} == {"github", "gitlab"}
    assert {(issuer, claim) for issuer, claim in read if claim not in issuers[issuer].claims} == set()


def test_nothing_is_left_out() -> None:
    """Every block of the page is run, and so many that none got lost."""
    assert [block.line for block in BLOCKS if not block.runs] == []
    assert len(BLOCKS) == 21
    assert len(BEFORE) > 10
