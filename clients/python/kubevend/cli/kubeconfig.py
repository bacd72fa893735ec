"""`kubevend kubeconfig`."""

from __future__ import annotations

import base64
import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from kubevend.cli.issue import token_options
from kubevend.cli.where import connection_options, take_settings


@click.command(
    epilog="""\b
Examples:
  kubevend kubeconfig quickstart --output ci.kubeconfig
  KUBECONFIG=ci.kubeconfig kubectl get pods
  kubevend kubeconfig ci --server https://10.0.0.1:6443 --certificate-authority ca.crt
"""
)
@click.argument("role")
@token_options
@click.option(
    "--server", default="", help="the API server's URL; left out, that of the role's config, if you may get it"
)
@click.option(
    "--certificate-authority",
    "authority",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="PEM of the authorities that vouch for it; left out, the same",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="where to write it; left out, stdout")
@connection_options
def kubeconfig(
    role: str,
    *,
    server: str,
    authority: Path | None,
    output: Path | None,
    namespace: str,
    service_account: str,
    ttl: timedelta | None,
    min_ttl: timedelta | None,
    audiences: tuple[str, ...],
    cluster_wide: bool,
    **connection: Any,
) -> None:
    """Write a kubeconfig whose credential is a token through ROLE, got when it is needed: `kubevend credential`.

    No token is in it.
    """
    import yaml

    named = connection.get("context_name")
    settings = take_settings(connection)
    ca = authority.read_text() if authority else ""
    if not server:
        server, of_config = _cluster(settings, role)
        ca = ca or of_config
    asked: list[str] = [
        *(["--namespace", namespace] if namespace else []),
        *(["--service-account", service_account] if service_account else []),
        *(["--ttl", f"{int(ttl.total_seconds())}s"] if ttl else []),
        *(["--min-ttl", f"{int(min_ttl.total_seconds())}s"] if min_ttl else []),
        *(part for audience in audiences for part in ("--audience", audience)),
        *(["--cluster-wide"] if cluster_wide else []),
        *(["--context", named] if named else []),
    ]
    environment = _environment(settings) if not named else []
    name = role.removeprefix("roles/")
    cluster: dict[str, Any] = {"server": server}
    if ca:
        cluster["certificate-authority-data"] = base64.b64encode(ca.encode()).decode()
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": _command(),
        "args": ["credential", role, *asked],
        "env": environment,
        "interactiveMode": "Never",
        "provideClusterInfo": False,
        "installHint": "pip install kubevend",
    }
    context = {"cluster": name, "user": name, **({"namespace": namespace} if namespace else {})}
    written = yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": {"exec": plugin}}],
            "contexts": [{"name": name, "context": context}],
            "current-context": name,
        },
        sort_keys=False,
    )
    if output is None:
        click.echo(written, nl=False)
    else:
        output.write_text(written)


def _command() -> str:
    """This command, as kubectl finds it from any folder."""
    found = shutil.which(sys.argv[0])
    return str(Path(found).absolute()) if found else "kubevend"


def _environment(settings: Any) -> list[dict[str, str]]:
    from kubevend.connection import VARIABLES

    values = {key: getattr(settings, name) for name, key in VARIABLES.items()}
    return [
        {"name": key, "value": str(value.absolute()) if isinstance(value, Path) else value}
        for key, value in values.items()
        if value
    ]


def _cluster(settings: Any, role: str) -> tuple[str, str]:
    """Where the role's cluster is, and who vouches for it, as far as the caller may get that."""
    from kubevend.client import Client
    from kubevend.errors import KubevendError
    from kubevend.v1 import config_service_pb2, role_service_pb2

    full = role if role.startswith("roles/") else f"roles/{role}"
    try:
        with Client(settings) as client:
            name = client.roles.GetRole(role_service_pb2.GetRoleRequest(name=full)).role.config
            config = client.configs.GetConfig(config_service_pb2.GetConfigRequest(name=name)).config
    except KubevendError as error:
        raise click.ClickException(
            f"Where the cluster of {full} is could not be found out ({error}). Give --server and "
            "--certificate-authority."
        ) from error
    if not config.kubernetes_host:
        host = os.environ.get("KUBERNETES_SERVICE_HOST")
        where = f"https://{host}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}" if host else ""
        if not where:
            raise click.ClickException(
                f"{name} is the server's own cluster. Give --server and --certificate-authority."
            )
        return where, ""
    return config.kubernetes_host, config.kubernetes_ca_cert
