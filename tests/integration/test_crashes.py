"""Real crashes, real full disks: no token without its lease and its event, none minted unannounced."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from devcluster import DevCluster
from kubevend.v1 import lease_service_pb2
from tests.integration.conftest import Start, Vending
from tests.support import disks
from tests.support.client import Refusal
from tests.support.clusters import issued_jti, token_requests
from tests.support.waiting import until

CALLERS = 8
ISSUE = "kubevend.v1.IssueService/IssueToken"


@pytest.mark.parametrize("after", [40, 120])
def test_sigkill_under_load(vending: Vending, cluster: DevCluster, namespace: str, after: int) -> None:
    """Whatever token a client holds after a SIGKILL has its lease and its event; every token minted has its intent."""
    held: list[tuple[str, str]] = []
    failures: list[grpc.RpcError] = []
    threads = [threading.Thread(target=issue_until_it_fails, args=(vending, held, failures)) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    until(lambda: len(held) >= after, f"{after} tokens")
    vending.server.kill()
    for thread in threads:
        thread.join()
    vending.restart()

    completed = {e.get("jti"): e for e in vending.events(method=ISSUE, stage="STAGE_COMPLETE")}
    intended = {e["kubernetesAuditId"] for e in vending.events(stage="STAGE_INTENT")}
    assert len(failures) == CALLERS
    for jti, lease_name in held:
        request = lease_service_pb2.GetLeaseRequest(name=lease_name)
        lease = vending.admin.call(vending.admin.leases.GetLease, request).lease
        assert [token.jti for token in lease.tokens] == [jti]
        assert (completed[jti]["lease"], completed[jti]["outcome"]) == (lease_name, "OUTCOME_SUCCEEDED")
    minted = {entry["auditID"]: issued_jti(entry) for entry in token_requests(cluster, namespace)}
    assert len(minted) >= len(held)
    assert set(minted) <= intended
    assert verify(vending) == 0


def issue_until_it_fails(vending: Vending, held: list[tuple[str, str]], failures: list[grpc.RpcError]) -> None:
    """Issue again and again, until the server is gone."""
    client = vending.client(vending.server.admin_token)
    while True:
        try:
            reply = client.issue()
        except grpc.RpcError as error:
            failures.append(error)
            return
        held.append((reply.jti, reply.lease))


def verify(vending: Vending, *files: Path) -> int:
    """Run `kubevend-server audit verify` and return its exit code."""
    settings = vending.server.folder / "settings.toml"
    verifying = ["audit", "verify", "--settings", str(settings), *map(str, files)]
    command = [sys.executable, "-m", "kubevend_server.cli", *verifying]
    return subprocess.run(command, check=False, capture_output=True).returncode


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    with disks.small_disk(tmp_path / "small") as disk:
        yield disk


def test_a_full_disk_under_the_audit_log(start: Start, cluster: DevCluster, namespace: str, small_disk: Path) -> None:
    """While the audit log cannot be written nothing is issued or asked of the cluster; with room again, all is well."""
    vending = start({"audit": {"file": str(small_disk / "audit.jsonl")}})
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=[namespace])
    vending.admin.issue()

    filler = disks.fill(small_disk)
    refusals = [vending.admin.issue_refused() for _ in range(3)]
    minted = len(list(token_requests(cluster, namespace)))
    filler.unlink()
    reply = vending.admin.issue()

    assert {(r.status, r.reason) for r in refusals} == {("UNAVAILABLE", "NOT_RECORDED")}
    assert minted == 1
    assert reply.token
    assert verify(vending) == 0


def test_a_full_disk_under_the_store(start: Start, cluster: DevCluster, namespace: str, small_disk: Path) -> None:
    """Where the lease cannot be written the token is dropped, and its event says so; with room again, all is well."""
    vending = start({"store": {"url": f"sqlite:///{small_disk / 'kubevend.db'}"}})
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=[namespace])
    first = vending.admin.issue()

    filler = disks.fill(small_disk)
    refusals: list[Refusal] = []
    while not refusals:
        # The database's files may still have room inside for a few leases.
        try:
            vending.admin.issue()
        except grpc.RpcError:
            refusals.append(vending.admin.issue_refused())
    lost = vending.events(method=ISSUE, outcome="OUTCOME_FAILED")
    filler.unlink()
    last = vending.admin.issue()

    assert (refusals[0].status, refusals[0].reason) == ("UNAVAILABLE", "NOT_RECORDED")
    assert lost
    assert all(event["jti"] and event["reason"] == "NOT_RECORDED" and "lease" not in event for event in lost)
    for reply in (first, last):
        request = lease_service_pb2.GetLeaseRequest(name=reply.lease)
        assert vending.admin.call(vending.admin.leases.GetLease, request).lease.tokens[0].jti == reply.jti
    assert verify(vending) == 0


def test_a_line_torn_by_a_crash(vending: Vending) -> None:
    """After a crash that tore the last line the chain goes on, and verification tells the tear from a theft."""
    vending.admin.issue()
    vending.server.kill()
    with vending.server.audit_file.open("ab") as file:
        file.write(b'{"sequence":"99","time":"20')
    vending.restart()
    vending.admin.issue()

    assert verify(vending) == 0


def test_a_tail_cut_off_is_noticed(vending: Vending) -> None:
    """Lines that the store knows to have been on the disk cannot go unnoticed, not even the last one."""
    vending.admin.issue()
    vending.server.stop()
    whole = vending.server.audit_file.read_bytes()
    sound = verify(vending)
    vending.server.audit_file.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    cut = verify(vending)
    vending.restart()

    assert (sound, cut) == (0, 1)
    assert "audit_log_cut" in vending.server.log_file.read_text()


def test_the_log_is_rotated(vending: Vending) -> None:
    """After a rename and SIGHUP lines go to a new file, none is lost, and both together verify."""
    vending.admin.issue()
    rotated = vending.server.audit_file.with_suffix(".1")
    shutil.move(vending.server.audit_file, rotated)
    os.kill(vending.server.pid, 1)
    until(vending.server.audit_file.exists, "the new audit file")
    reply = vending.admin.issue()

    assert [e["jti"] for e in vending.events(jti=reply.jti)] == [reply.jti]
    assert verify(vending, rotated, vending.server.audit_file) == 0
    assert verify(vending, rotated) == 1
