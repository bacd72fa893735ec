"""A credential from kubevend. Apart from `credential`, since what this imports takes long to load."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any

import click

from kubevend.channels import CALL_SECONDS
from kubevend.cli.kept import Kept
from kubevend.client import Client
from kubevend.connection import Settings
from kubevend.tokens import issue_request, new_request_id
from kubevend.v1.issue_service_pb2 import IssueTokenResponse

_RENEWAL_SECONDS = 3.0
"""Nobody waits longer for a new one who has one that is still good."""
_MARGIN_SECONDS = 30.0
"""So long before its end, or a tenth of its life, nobody is given it any more: a request takes time."""
_LAST_SECONDS = 60.0
"""With less than that to live it is renewed, however long it lived."""


def issue_credential(asked: dict[str, Any], settings: Settings, *, has_other: bool) -> Kept:
    """Have a token issued. Its life is counted by this machine's clock, as kubectl's is, from before it was asked for.

    Raises:
        KubevendError: it was refused, or failed.
    """
    fields = {**asked, "ttl": _duration(asked["ttl"]), "min_ttl": _duration(asked["min_ttl"])}
    cluster_wide = fields.pop("cluster_wide")
    request = issue_request(**fields, request_id=new_request_id())
    request.cluster_wide = cluster_wide
    began = time.time()
    with Client(settings) as client:
        reply = client.issuing.IssueToken(request, timeout=_RENEWAL_SECONDS if has_other else CALL_SECONDS)
    for warning in reply.warnings:
        click.echo(f"Warning: {warning.message}", err=True)
    return _kept(reply, began)


def _kept(reply: IssueTokenResponse, began: float) -> Kept:
    life = reply.granted_ttl.ToTimedelta().total_seconds()
    usable_until = began + life - min(_MARGIN_SECONDS, life / 10)
    renew_at = began + max(life / 2, min(life * 0.8, life - _LAST_SECONDS))
    told = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(usable_until))
    status = {"token": reply.token, "expirationTimestamp": told}
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    return Kept(json.dumps(answer), began, renew_at, usable_until)


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
