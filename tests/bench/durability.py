"""Is what kubevend handed out really on the disk? Looked at after the server was killed."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from devcluster.server import KubevendServer

ISSUE_TOKEN = "kubevend.v1.IssueService/IssueToken"


@dataclass(frozen=True)
class Durability:
    """What was found.

    Attributes:
        handed_out: tokens that the callers got.
        leases: rows in the store.
        audit_lines: lines that tell of an issuance that succeeded.
        same_leases: whether those lines and those rows are about the same leases.
        audit_verified: whether `kubevend-server audit verify` found the chain whole.
        verification: what it said.
    """

    handed_out: int
    leases: int
    audit_lines: int
    same_leases: bool
    audit_verified: bool
    verification: str

    @property
    def complete(self) -> bool:
        """Whether there is a lease and an audit line for every token that anybody got."""
        return self.audit_verified and self.same_leases and min(self.leases, self.audit_lines) >= self.handed_out


def look(server: KubevendServer, handed_out: int) -> Durability:
    """Kill the server (SIGKILL: nothing is written on the way out), and compare what is there with what left."""
    server.kill()
    stored = _stored_leases(server.folder / "kubevend.db")
    audited = _audited_leases(server.audit_file)
    settings = f"--settings={server.folder / 'settings.toml'}"
    verify = subprocess.run(
        [sys.executable, "-m", "kubevend_server.cli", "audit", "verify", settings],
        capture_output=True,
        text=True,
        check=False,
    )
    return Durability(
        handed_out=handed_out,
        leases=len(stored),
        audit_lines=len(audited),
        same_leases=stored == set(audited),
        audit_verified=verify.returncode == 0,
        verification=(verify.stdout + verify.stderr).strip(),
    )


def _stored_leases(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM leases")}


def _audited_leases(file: Path) -> list[str]:
    with file.open("rb") as lines:
        events = [json.loads(line) for line in lines]
    return [
        event["lease"]
        for event in events
        if event["stage"] == "STAGE_COMPLETE"
        and event["outcome"] == "OUTCOME_SUCCEEDED"
        and event["method"] == ISSUE_TOKEN
    ]
