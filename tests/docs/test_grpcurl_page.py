"""docs/grpcurl.md, typed as it stands, after `make run`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool

from kubevend.v1 import (
    config_service_pb2,
    identity_service_pb2,
    issue_service_pb2,
    lease_service_pb2,
    role_service_pb2,
)
from tests.docs.replies import assert_shown
from tests.e2e.quickstart_process import ROOT, Quickstart
from tests.support.shell_blocks import Block, read_blocks, run_blocks

SERVICE_FILES = (config_service_pb2, identity_service_pb2, issue_service_pb2, lease_service_pb2, role_service_pb2)
BLOCKS = read_blocks((ROOT / "docs" / "grpcurl.md").read_text())


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Block, str]]]:
    """What each block printed beside a `make run` of its own."""
    here: Path = tmp_path_factory.mktemp("grpcurl")
    with Quickstart(here) as running:
        running.wait_ready()
        clean = {n: v for n, v in os.environ.items() if n != "KUBECONFIG" and not n.startswith("KUBEVEND_")}
        yield run_blocks(BLOCKS, here, clean)


def test_what_is_shown_is_what_comes(printed: list[tuple[Block, str]]) -> None:
    """Every command of the page works, and prints what the page shows."""
    for block, output in printed:
        assert_shown(block, output)


def test_every_method_is_called() -> None:
    """No method of the API is left out, nor one of health's."""
    called = "".join(block.text for block in BLOCKS)
    pool = descriptor_pool.Default()
    files = [pool.FindFileByName(module.DESCRIPTOR.name) for module in SERVICE_FILES]
    services = [service for file in files for service in file.services_by_name.values()]
    methods = [f"{service.name}/{method.name}" for service in services for method in service.methods]

    assert len(methods) > 10
    assert [method for method in methods if f"{method} " not in called and f"{method}\n" not in called] == []
    assert all(f"grpc.health.v1.Health/{method}" in called for method in ("Check", "List", "Watch"))


def test_nothing_is_left_out() -> None:
    """Every block of the page is run, and so many that none got lost."""
    assert [block.line for block in BLOCKS if not block.runs] == []
    assert len(BLOCKS) == 46
