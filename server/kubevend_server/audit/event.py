"""Audit events, made from what is known of a call. The fields are those of AuditEvent, in proto JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from google.rpc import code_pb2

from kubevend_server.audit.log import rfc3339
from kubevend_server.calls import Call, Record
from kubevend_server.errors import KubevendError, OutcomeUnknown, OverLimit, PermissionDenied, Unauthenticated
from kubevend_server.leases import ClusterObject
from kubevend_server.policy.grant import Grant
from kubevend_server.policy.lifetimes import seconds
from kubevend_server.store.lease_ends import Ended
from kubevend_server.warning import Warning

_USER_AGENT = 256
_MOST_LEASES = 5000
"""In one line; what starts reads the last one whole."""


def intent(call: Call, grant: Grant, lease: str, audit_id: str) -> dict[str, Any]:
    """The line before a TokenRequest: who is about to have asked what, under which ids."""
    return {
        "stage": "STAGE_INTENT",
        **_identity(call),
        "resource": call.record.resource,
        "grant": _grant(grant, call.record.anchor),
        "lease": lease,
        "kubernetesAuditId": audit_id,
        **({"replayed": True} if call.record.replayed else {}),
    }


def revocation_intent(call: Call) -> dict[str, Any]:
    """The line before leases are ended: who is about to have which of them ended."""
    return _present(
        {
            "stage": "STAGE_INTENT",
            **_identity(call),
            "resource": call.record.resource,
            "request": call.record.request,
            "endedLeases": list(call.record.leases),
        }
    )


def completion(call: Call, error: KubevendError | None, *, cancelled: bool = False) -> dict[str, Any]:
    """The line at the end of a call.

    Args:
        call: the call.
        error: with what it ended, or None.
        cancelled: whether the caller gave up before anything was done.
    """
    record = call.record
    event = {
        "stage": "STAGE_COMPLETE",
        **_identity(call),
        "resource": record.resource,
        "request": record.request,
        "decision": _decision(record),
        "grant": _grant(record.grant, record.anchor) if record.grant else None,
        # A lease that could not be written is none; the token that was minted under its name keeps its jti here.
        "lease": "" if error else record.lease,
        "jti": record.jti,
        "kubernetesAuditId": record.kubernetes_audit_id,
        "expiration": rfc3339(record.expiration) if record.expiration and not error else None,
        "tokenExpiration": rfc3339(record.token_expiration) if record.token_expiration else None,
        "endedLeases": list(record.leases),
        "warnings": [_warning(warning) for warning in record.warnings],
        "replayed": record.replayed or None,
        "outcome": _outcome(call, error, cancelled=cancelled),
        "status": "CANCELLED" if cancelled else error.status if error else "OK",
        "reason": error.reason if error else None,
        "message": error.message if error else None,
        "duration": seconds(timedelta(seconds=round(time.monotonic() - call.started, 6))),
    }
    return _present(event)


def refused(call: Call, error: OverLimit) -> dict[str, Any]:
    """The line for calls that were refused since there were too many, but for `refusedCalls`.

    Args:
        call: the first of them.
        error: with what it was refused.
    """
    return _present(
        {
            "stage": "STAGE_REFUSED",
            "caller": _caller(call),
            "source": call.source,
            "resource": call.record.resource,
            "outcome": "OUTCOME_FAILED",
            "status": error.status,
            "reason": error.reason,
            "message": error.message,
        }
    )


def refused_elsewhere() -> dict[str, Any]:
    """The same for refused calls of sources and callers beyond those that have lines of their own."""
    return {
        "stage": "STAGE_REFUSED",
        "outcome": "OUTCOME_FAILED",
        "status": code_pb2.Code.Name(OverLimit.code),
        "message": "These came from more sources and callers than have lines of their own.",
    }


def ended(gone: ClusterObject, leases: Sequence[Ended]) -> dict[str, Any]:
    """The line when an object is gone in the cluster, and with it leases have ended.

    Args:
        gone: the object.
        leases: these leases, at least one.
    """
    names = [lease.name for lease in leases[:_MOST_LEASES]]
    first = leases[0]
    where = f"{gone.namespace}/{gone.name}" if gone.namespace else gone.name
    event = {
        "stage": "STAGE_ENDED",
        "resource": first.role,
        "lease": names[0] if len(names) == 1 else "",
        "endedLeases": names if len(names) > 1 else [],
        "reason": first.end,
        "message": f"{gone.kind} {where} of {gone.config} is gone, and with it {len(leases)} leases have ended."
        + (f" Why: {first.cause}." if first.cause else ""),
    }
    return _present(event)


def _outcome(call: Call, error: KubevendError | None, *, cancelled: bool) -> str:
    if cancelled:
        return "OUTCOME_CANCELLED"
    if isinstance(error, OutcomeUnknown):
        return "OUTCOME_UNKNOWN"
    if call.record.denied or isinstance(error, PermissionDenied | Unauthenticated):
        return "OUTCOME_DENIED"
    if error is not None:
        return "OUTCOME_FAILED"
    return "OUTCOME_ABANDONED" if call.abandoned else "OUTCOME_SUCCEEDED"


def _identity(call: Call) -> dict[str, Any]:
    return _present(
        {
            "method": call.method.full_name,
            "requestId": call.request_id,
            "streamId": call.stream or (call.request_id if call.method.streams else ""),
            "traceId": call.trace_id,
            "caller": _caller(call),
            "source": call.peer,
            "userAgent": call.shown.first("user-agent")[:_USER_AGENT],
        }
    )


def _caller(call: Call) -> dict[str, Any] | None:
    if call.caller is None:
        return None
    return _present(
        {
            "name": call.caller.name,
            "mechanism": call.caller.mechanism,
            "credentialId": call.caller.credential_id,
            "proxy": call.caller.proxy,
            "groups": list(call.caller.groups),
        }
    )


def _decision(record: Record) -> dict[str, Any] | None:
    if record.policies is None and not record.rules:
        return None
    return _present({"policies": list(record.policies or ()), "rules": list(record.rules)})


def _warning(warning: Warning) -> dict[str, Any]:
    written = {"reason": warning.reason, "message": warning.message, "metadata": dict(warning.metadata) or None}
    return _present(written)


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    """What is set, as proto JSON has it: a message that is set but empty stays, `{}`."""
    return {key: value for key, value in fields.items() if value not in (None, "", [])}


def _grant(grant: Grant, anchor: str) -> dict[str, Any]:
    written = {
        "config": grant.terms.config,
        "namespace": grant.namespace,
        "serviceAccount": grant.service_account,
        "audiences": list(grant.audiences),
        "ttl": seconds(grant.ttl),
    }
    if grant.terms.revocation == "NONE":
        return written
    account = grant.terms.account
    more = {
        "tokenTtl": seconds(grant.token_ttl) if grant.token_ttl > grant.ttl else None,
        "revocation": f"REVOCATION_{grant.terms.revocation}",
        "kubernetesRole": (account.kind if account.rules else f"{account.kind}/{account.role_name}")
        if account
        else None,
        "clusterWide": True if account is not None and account.cluster_wide else None,
        "anchor": anchor,
    }
    return {**written, **_present(more)}
