"""Where a role's cluster is, as far as the caller can find out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from kubevend.cli import kubeconfig_file
from kubevend.client import Client
from kubevend.cluster import check_host
from kubevend.connection import Settings
from kubevend.errors import Denied, KubevendError, NotFound
from kubevend.v1 import config_service_pb2, role_service_pb2


def find(settings: Settings, role: str) -> dict[str, Any]:
    """The cluster's entry for a kubeconfig: from the role's config, else from the kubeconfig that there is.

    Raises:
        KubevendError: kubevend failed, or does not know the caller.
        click.ClickException: neither says.
    """
    with Client(settings) as client:
        found, why = of_config(client, role)
    if found is not None:
        return kubeconfig_file.cluster(found.kubernetes_host, found.kubernetes_ca_cert.encode())
    given = os.environ.get("KUBECONFIG", "")
    paths = [Path(path) for path in given.split(os.pathsep) if path] or [Path.home() / ".kube" / "config"]
    kept = kubeconfig_file.current_cluster(paths)
    if kept is None:
        raise click.ClickException(
            f"Nothing says where the cluster of {role} is: {why}, and {', '.join(map(str, paths))} has no current "
            "context. Give --server and --certificate-authority."
        )
    check_host(str(kept.get("server")))
    click.echo(f"The cluster is that of your current context, {kept.get('server')}: {why}.", err=True)
    return kept


def of_config(client: Client, role: str) -> tuple[config_service_pb2.Config | None, str]:
    """The role's config, or None and why there is none that says it.

    Raises:
        KubevendError: kubevend failed, or does not know the caller.
    """
    try:
        name = client.roles.GetRole(role_service_pb2.GetRoleRequest(name=role)).role.config
        config = client.configs.GetConfig(config_service_pb2.GetConfigRequest(name=name)).config
    except (Denied, NotFound) as error:
        return None, f"you may not get it from kubevend ({_named(error)})"
    if not config.kubernetes_host:
        return None, f"{name} is kubevend's own cluster, which it calls from inside"
    return config, ""


def _named(error: KubevendError) -> str:
    return error.reason or error.code
