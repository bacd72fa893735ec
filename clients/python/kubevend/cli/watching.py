"""Watching leases over as many connections as it takes."""

from __future__ import annotations

import random
import time
from typing import Any

import click

from kubevend.cli.output import as_data
from kubevend.client import Client
from kubevend.connection import Settings
from kubevend.errors import KubevendError
from kubevend.v1 import lease_service_pb2 as pb

_AGAIN = {"UNAVAILABLE", "ABORTED", "CANCELLED", "UNKNOWN", "INTERNAL"}
_LONGEST_PAUSE_SECONDS = 30.0


def watch_leases(settings: Settings, narrowed: pb.LeaseFilter, form: str) -> None:
    """Print each lease that ends, until interrupted. A connection that is lost is made again where it ended."""
    request, pause = pb.WatchLeasesRequest(filter=narrowed), 0.5
    with Client(settings) as client:
        while True:
            try:
                for told in client.leases.WatchLeases(request, timeout=None):
                    pause = 0.5
                    if told.HasField("watched_until"):
                        request.end_after.CopyFrom(told.watched_until)
                    else:
                        click.echo(_line(told.lease, form))
            except KubevendError as error:
                if error.code not in _AGAIN:
                    raise
                click.echo(f"({error.message}; trying again)", err=True)
            except KeyboardInterrupt:
                return
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _line(lease: Any, form: str) -> str:
    if form == "json":
        import json

        return json.dumps(as_data(lease))
    if form == "name":
        return str(lease.name)
    state = pb.Lease.State.Name(lease.state).removeprefix("STATE_")
    return f"{lease.name}  {state}  {lease.role}  {lease.namespace}/{lease.service_account}  {lease.end_cause}".rstrip()
