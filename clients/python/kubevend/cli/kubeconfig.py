"""`kubevend kubeconfig`."""

from __future__ import annotations

import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from kubevend.cli.issue import token_options
from kubevend.cli.names import ROLE
from kubevend.cli.where import connection_options, take_settings
from kubevend.cluster import check_host
from kubevend.connection import VARIABLES, Settings


@click.command(
    epilog="""\b
Examples:
  kubevend kubeconfig ci --output ci.kubeconfig
  KUBECONFIG=ci.kubeconfig kubectl get pods
  kubevend kubeconfig ci --server https://10.0.0.1:6443 --certificate-authority ca.crt
  kubevend kubeconfig ci --merge --output ~/.kube/config
"""
)
@click.argument("role", shell_complete=ROLE.complete)
@token_options
@click.option("--server", default="", help="The API server's URL. Default: see above.")
@click.option(
    "--certificate-authority",
    "authority",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The authorities that vouch for it, PEM. Default: see above.",
)
@click.option("--name", default="", help="What cluster, user and context are called in it. Default: kubevend-ROLE.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Where to write it. Default: stdout.")
@click.option("--merge", is_flag=True, help="Keep what else is in the file, and its current context.")
@connection_options
def kubeconfig(
    role: str, *, server: str, authority: Path | None, name: str, output: Path | None, merge: bool, **given: Any
) -> None:
    """Write a kubeconfig whose credential is a token through ROLE, got when it is needed by `kubevend credential`.

    No token is in it. Where the cluster is, --server and --certificate-authority say; else the role's config, if you
    may get role and config; else the current context of the kubeconfig that you have ($KUBECONFIG).
    """
    from kubevend.cli import kubeconfig_file
    from kubevend.cli.cluster_of_role import find

    if merge and output is None:
        raise click.UsageError("--merge needs --output: the file to merge into.")
    context = given.get("context_name")
    settings = take_settings(given)
    if server:
        check_host(server)
        cluster = kubeconfig_file.cluster(server, authority.read_bytes() if authority else b"")
    elif authority:
        raise click.UsageError("--certificate-authority goes with --server.")
    else:
        cluster = find(settings, ROLE.full(role))
    name = name or f"kubevend-{ROLE.short(role)}"
    entry = kubeconfig_file.Entry(name, cluster, _plugin(role, settings, context, **given), given["namespace"])
    if output is None:
        click.echo(kubeconfig_file.dump(entry.alone()), nl=False)
        return
    kubeconfig_file.write(output, entry.merged_into(kubeconfig_file.read(output)) if merge else entry.alone())
    click.echo(f"Written: kubectl --kubeconfig {output} --context {name} get pods", err=True)


def _plugin(role: str, settings: Settings, context: str | None, **asked: Any) -> dict[str, Any]:
    return {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": _command(),
        "args": ["credential", ROLE.short(role), *_options(**asked), *(["--context", context] if context else [])],
        "env": _where_contexts_are() if context else _environment(settings),
        "interactiveMode": "Never",
        "provideClusterInfo": False,
        "installHint": "kubevend is not where this kubeconfig says: install it (pip install kubevend), and write the "
        "kubeconfig anew with `kubevend kubeconfig`.",
    }


def _options(
    *,
    namespace: str,
    service_account: str,
    ttl: timedelta | None,
    min_ttl: timedelta | None,
    audiences: tuple[str, ...],
    cluster_wide: bool,
) -> list[str]:
    given = {"--namespace": namespace, "--service-account": service_account, "--ttl": ttl, "--min-ttl": min_ttl}
    texts = {k: f"{int(v.total_seconds())}s" if isinstance(v, timedelta) else v for k, v in given.items() if v}
    return [
        *(part for option in texts.items() for part in option),
        *(part for audience in audiences for part in ("--audience", audience)),
        *(["--cluster-wide"] if cluster_wide else []),
    ]


def _command() -> str:
    """This command, as kubectl finds it from any folder."""
    found = shutil.which(sys.argv[0])
    return str(Path(found).absolute()) if found else "kubevend"


def _where_contexts_are() -> list[dict[str, str]]:
    given = os.environ.get("KUBEVEND_CONFIG")
    return [{"name": "KUBEVEND_CONFIG", "value": str(Path(given).absolute())}] if given else []


def _environment(settings: Settings) -> list[dict[str, str]]:
    """Where kubevend is and what to show it. What is not set is emptied, since kubectl hands its own variables on."""
    values = {variable: getattr(settings, name) for name, variable in VARIABLES.items()}
    return [
        {"name": variable, "value": str(value.absolute()) if isinstance(value, Path) else value or ""}
        for variable, value in values.items()
    ]
