"""A case, played with one driver."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from kubevend.v1 import lease_service_pb2, role_service_pb2
from tests.conformance.cases import Case
from tests.conformance.driver import Answer, Driver
from tests.conformance.expectations import differences, resolve
from tests.integration.conftest import Vending
from tests.support.proxy import HoldingProxy

_PATIENCE_SECONDS = 60.0


@dataclass
class Play:
    """A case that is being played with one driver.

    Attributes:
        vending: the server.
        driver: the driver.
        cluster: what is between the server and its cluster.
        token_file: where the caller's credential is.
        known: what names in the steps stand for: `namespace`, and the answers that steps have saved.
    """

    vending: Vending
    driver: Driver
    cluster: HoldingProxy
    token_file: Path
    known: dict[str, Any] = field(default_factory=dict)

    def play(self, case: Case) -> None:
        """Take all steps of a case.

        Raises:
            AssertionError: an answer is not as it was expected.
        """
        for role_id, written in case.roles.items():
            role = json_format.ParseDict(resolve(written, self.known), role_service_pb2.Role())
            self.vending.admin.call(
                self.vending.admin.roles.CreateRole, role_service_pb2.CreateRoleRequest(role_id=role_id, role=role)
            )
        for number, step in enumerate(case.steps, 1):
            try:
                self._take(step)
            except AssertionError as problem:
                raise AssertionError(f"{case.name}, step {number}: {problem}") from problem

    def _take(self, step: Mapping[str, Any]) -> None:
        ((kind, take),) = [(kind, take) for kind, take in self._kinds().items() if kind in step]
        unknown = step.keys() - {kind, "expect", "save"}
        if unknown:
            raise ValueError(f"A step with {kind!r} has {', '.join(sorted(unknown))}.")
        answer = take(step)
        if "save" in step:
            self.known[step["save"]] = answer

    def _kinds(self) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        return {
            "do": lambda step: _held(self.driver.ask(self._command(step["do"])), self._expected(step)),
            "until": self._until,
            "server": lambda step: self._serve(step["server"]),
            "admin": lambda step: self._administer(resolve(step["admin"], self.known)),
            "cluster": lambda step: self._trouble(step["cluster"]),
            "credential": lambda step: self._show(resolve(step["credential"], self.known)),
            "events": self._count_events,
        }

    def _command(self, written: Mapping[str, Any]) -> Mapping[str, Any]:
        """`{issue: {role: ci}}` is `{"do": "issue", "role": "ci"}` to a driver."""
        ((verb, fields),) = resolve(written, self.known).items()
        return {"do": verb, **(fields or {})}

    def _expected(self, step: Mapping[str, Any]) -> Any:
        """What a driver's answer must have: no error, where none is named."""
        return {"error": {"absent": True}, **resolve(step.get("expect", {}), self.known)}

    def _until(self, step: Mapping[str, Any]) -> Answer:
        """Ask again and again, until the answer is as expected."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            answer = self.driver.ask(self._command(step["until"]))
            faults = differences(self._expected(step), answer)
            if not faults:
                return answer
            assert time.monotonic() < end, f"in vain for {_PATIENCE_SECONDS:g} s: {faults}"
            time.sleep(0.05)

    def _serve(self, what: str) -> None:
        if what == "stop":
            self.vending.server.stop()
        elif what == "kill":
            self.vending.server.kill()
        elif what == "start":
            self.vending.restart()
        else:
            raise ValueError(f"server: {what!r} is none of stop, kill, start.")

    def _trouble(self, what: str) -> None:
        if what == "hold":
            self.cluster.hold_replies()
        elif what == "release":
            self.cluster.release()
        else:
            raise ValueError(f"cluster: {what!r} is none of hold, release.")

    def _show(self, credential: str) -> None:
        """Put another credential in the place of the caller's, as the kubelet does: by a rename."""
        new = self.token_file.with_suffix(".new")
        new.write_text(credential)
        new.replace(self.token_file)

    def _administer(self, written: Mapping[str, Any]) -> None:
        admin = self.vending.admin
        ((verb, operand),) = written.items()
        if verb == "revoke":
            admin.call(admin.leases.RevokeLease, lease_service_pb2.RevokeLeaseRequest(name=operand))
        elif verb == "delete_role":
            admin.call(admin.roles.DeleteRole, role_service_pb2.DeleteRoleRequest(name=f"roles/{operand}"))
        else:
            raise ValueError(f"admin: {verb!r} is none of revoke, delete_role.")

    def _count_events(self, step: Mapping[str, Any]) -> None:
        """Count the audit events whose fields are as given, until there are as many as expected: some come late."""
        narrowed, expected = resolve(step["events"], self.known), self._expected(step)
        end = time.monotonic() + _PATIENCE_SECONDS
        while faults := differences(expected, {"count": len(self.vending.events(**narrowed))}):
            assert time.monotonic() < end, f"in vain for {_PATIENCE_SECONDS:g} s: {faults}"
            time.sleep(0.05)


def _held(answer: Answer, expected: Any) -> Answer:
    faults = differences(expected, answer)
    assert not faults, "; ".join(faults)
    return answer
