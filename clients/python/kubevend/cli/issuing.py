"""A credential from kubevend. Apart from `credential`, since what this imports takes long to load."""

from __future__ import annotations

import time
from typing import Any

import click

from kubevend.cli.credential_cache import Credential
from kubevend.client import Client
from kubevend.connection import Settings
from kubevend.tokens import issue_request, new_request_id


def issue_credential(asked: dict[str, Any], settings: Settings) -> Credential:
    """Have a token issued. Its life is counted by this machine's clock, from before it was asked for.

    Raises:
        KubevendError: it was refused, or failed.
    """
    fields = dict(asked)
    cluster_wide = fields.pop("cluster_wide")
    request = issue_request(**fields, request_id=new_request_id())
    request.cluster_wide = cluster_wide
    began = time.time()
    with Client(settings) as client:
        reply = client.issuing.IssueToken(request)
    for warning in reply.warnings:
        click.echo(f"Warning: {warning.message}", err=True)
    return Credential(reply.token, began, began + reply.granted_ttl.ToTimedelta().total_seconds())
