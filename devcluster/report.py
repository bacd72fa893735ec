"""What the first run shows of the token it issued, and what it suggests to try next. Never a token itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from devcluster.console import Console
from devcluster.first_token import REVOCABLE, ROLE, Review
from devcluster.rbac import DEMO, QUICKSTART_NAMESPACE
from devcluster.state import State
from kubevend.v1.issue_service_pb2 import IssueTokenResponse
from kubevend.v1.lease_service_pb2 import Lease

_CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"
_ISSUED_ID = "authentication.kubernetes.io/issued-credential-id"

READY = "Ready. Ctrl-C stops everything; the next `make run` finds it again."
"""The line that says that all of it is up."""

_AS_ADMIN = 'grpcurl -cacert "$KUBEVEND_CA_FILE" -H "authorization: Bearer $(cat "$KUBEVEND_TOKEN_FILE")" \\'
_TARGET = '"$KUBEVEND_ADDRESS" kubevend.v1'


def show_token(console: Console, token: IssueTokenResponse, review: Review) -> None:
    """Show what was issued, and whom the API server takes its bearer for."""
    console.heading("The token works. The API server says:")
    console.facts(
        [
            ("username", review.username),
            ("credential id", ", ".join(review.extra.get(_CREDENTIAL_ID, ["none"]))),
        ]
    )
    console.heading("kubevend says:")
    console.facts(
        [
            ("audiences", ", ".join(token.audiences)),
            ("expires", _time(token.expiration)),
            ("jti", token.jti),
            ("decision", f"permitted by {', '.join(token.decision.policies)}; {'; '.join(token.decision.rules)}"),
            *((f"warning {warning.reason}", warning.message) for warning in token.warnings),
        ]
    )


def show_lease(console: Console, lease: Lease) -> None:
    """Show the lease, as ListLeases has it."""
    console.heading("The lease it left (LeaseService/ListLeases):")
    console.facts(
        [
            ("name", lease.name),
            ("caller", lease.caller),
            ("for", f"{lease.namespace}/{lease.service_account} through {lease.role}"),
            ("until", f"{_time(lease.expire_time)} ({Lease.State.Name(lease.state)})"),
        ]
    )


def show_audit_event(console: Console, event: dict[str, Any], file: str) -> None:
    """Show the fields of an audit event that a person looks for first."""
    caller = event.get("caller", {})
    console.heading(f"The audit line it left ({file}, line {event['sequence']}):")
    console.facts(
        [
            ("time", event["time"]),
            ("caller", f"{caller.get('name')}, by {caller.get('mechanism')}, from {event.get('source')}"),
            ("method", f"{event['method']} on {event.get('resource')}"),
            ("grant", json.dumps(event.get("grant"))),
            ("jti", event.get("jti", "")),
            ("kubernetesAuditId", event.get("kubernetesAuditId", "")),
            ("outcome", f"{event.get('outcome')} after {event.get('duration')}"),
            ("hash", f"{event['hash'][:16]}… over {event['previousHash'][:16]}…"),
        ]
    )


def show_kubernetes_event(console: Console, audit_log: Path, token: IssueTokenResponse, file: str) -> None:
    """Show that the API server's own audit log knows the same call, under the same ids."""
    for line in reversed(audit_log.read_text().splitlines()):
        event: dict[str, Any] = json.loads(line)
        if event["auditID"] == token.kubernetes_audit_id:
            console.heading(f"The API server's own line of that call ({file}):")
            console.facts(
                [
                    ("auditID", event["auditID"]),
                    ("user", event["user"]["username"]),
                    ("request", f"{event['verb']} {event['requestURI']}"),
                    ("issued", event.get("annotations", {}).get(_ISSUED_ID, "")),
                ]
            )
            return


def show_next_steps(console: Console, state: State) -> None:
    """Print the commands to try next, as they can be pasted into a shell."""
    console.heading("Try next, in another shell in this folder:")
    for comment, *command in _next_steps(state):
        console.line()
        console.line(f"    # {comment}", style="dim")
        for line in command:
            console.line(f"    {line}")
    console.line()
    console.line(READY, style="bold green")


def _next_steps(state: State) -> tuple[tuple[str, ...], ...]:
    settings = state.shown(state.folder / "settings.toml")
    reply = state.shown(state.folder / "reply.json")
    kubeconfig = state.shown(state.folder / f"{ROLE}.kubeconfig")
    return (
        (
            "a token, as the bootstrap admin",
            f". {state.shown(state.env)}",
            _AS_ADMIN,
            f"""  -d '{{"role":"roles/{ROLE}"}}' {_TARGET}.IssueService/IssueToken""",
        ),
        (
            "the same with the kubevend command, and kubectl with tokens that it gets by itself",
            f". {state.shown(state.env)}",
            f"kubevend issue {ROLE}",
            f"kubevend kubeconfig {ROLE} --output {kubeconfig}",
            f"kubectl --kubeconfig {kubeconfig} auth whoami",
        ),
        (
            "the leases that are alive",
            _AS_ADMIN,
            f"""  -d '{{"filter":{{"state":"STATE_ACTIVE"}}}}' {_TARGET}.LeaseService/ListLeases""",
        ),
        (
            "a token that can be ended, and its end",
            _AS_ADMIN,
            f"""  -d '{{"role":"roles/{REVOCABLE}"}}' {_TARGET}.IssueService/IssueToken > {reply}""",
            _AS_ADMIN,
            f"""  -d "{{\\"name\\":\\"$(grep -o 'leases/[0-9a-z]*' {reply})\\"}}" {_TARGET}.LeaseService/RevokeLease""",
            f"rm {reply}",
        ),
        (
            "a refusal, and how it explains itself",
            _AS_ADMIN,
            f"""  -d '{{"role":"roles/{ROLE}","namespace":"kube-system"}}' {_TARGET}.IssueService/IssueToken""",
        ),
        (
            f"a token as a ServiceAccount, which {state.shown(state.policies / 'quickstart.cedar')} permits",
            f"TOKEN=$(kubectl create token {DEMO} -n {QUICKSTART_NAMESPACE} --audience=kubevend)",
            'grpcurl -cacert "$KUBEVEND_CA_FILE" -H "authorization: Bearer $TOKEN" \\',
            f"""  -d '{{"role":"roles/{ROLE}"}}' {_TARGET}.IssueService/IssueToken""",
        ),
        (
            "who got what; and that nobody changed the log",
            'tail -n 3 "$KUBEVEND_AUDIT_FILE"',
            f"kubevend-server audit verify --settings {settings}",
        ),
    )


def _time(timestamp: Timestamp) -> str:
    return timestamp.ToJsonString()
