"""A library's driver, told what to do, and the server that it calls: clients/*/conformance."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from devcluster import DevCluster
from tests.conformance.driver import Driver as Program
from tests.conformance.languages import command
from tests.integration.conftest import Start, Vending

OFTEN = {"issuance": {"renew_after": 0.005}}
"""The next token after 3 s of the 600 that a token lives."""


class Driver:
    """A driver that runs."""

    def __init__(self, program: Program) -> None:
        """Take its program."""
        self._program = program

    def ask(self, what: str, **fields: Any) -> dict[str, Any]:
        """Have something done, and return the answer once it comes."""
        return self._program.ask({"do": what, **fields})

    def do(self, what: str, **fields: Any) -> dict[str, Any]:
        """The same, where it must not fail."""
        answer = self.ask(what, **fields)
        assert "error" not in answer, answer
        return answer


@contextmanager
def driving(language: str, environment: Mapping[str, str], folder: Path) -> Iterator[Driver]:
    """A language's driver with these KUBE… variables and no others. It ends with 0 once its stdin does.

    What it says goes into the folder, a server's, which is looked through for tokens.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    log = folder / "driver.log"
    program = Program(command(language), {**inherited, **environment}, log)
    try:
        yield Driver(program)
    finally:
        code = program.finish()
        (folder / "driver.jsonl").write_text("".join(program.said))
    assert code == 0, log.read_text()


def environment_of(vending: Vending, cluster: DevCluster, namespace: str) -> dict[str, str]:
    """The variables of a driver whose caller is the admin."""
    return {
        "KUBEVEND_ADDRESS": vending.server.address,
        "KUBEVEND_CA_FILE": str(vending.server.folder / "ca.crt"),
        "KUBEVEND_TOKEN_FILE": str(vending.server.folder / "admin.token"),
        "KUBERNETES_HOST": cluster.server,
        "KUBERNETES_CA_FILE": str(cluster.ca_file),
        "NAMESPACE": namespace,
    }


def begin(start: Start, cluster: DevCluster, namespace: str, **settings: Mapping[str, Any]) -> Vending:
    """A server with role `ci`, whose ServiceAccount may list ConfigMaps; its port is the same after a restart."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    vending = start({"listener": {"address": address}, **settings})
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=[namespace], ttl={"seconds": 600})
    here = f"--namespace={namespace}"
    cluster.kubectl("create", "role", "reader", "--verb=list", "--resource=configmaps", here)
    cluster.kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:demo", here)
    return vending
