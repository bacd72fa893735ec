"""`kubevend credential`: kubectl's credential plugin.

See https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

import click

from kubevend.cli.credential_cache import Cache, CacheError, Credential, default_folder, key_of
from kubevend.cli.issue import token_options
from kubevend.cli.where import connection_options, take_settings

API_VERSION = "client.authentication.k8s.io/v1"


@click.command(
    epilog="""\b
In a kubeconfig (`kubevend kubeconfig ROLE` writes all of it):
  users:
  - name: ci
    user:
      exec:
        apiVersion: client.authentication.k8s.io/v1
        command: kubevend
        args: [credential, ci]
        interactiveMode: Never
"""
)
@click.argument("role")
@token_options
@click.option("--no-cache", is_flag=True, help="have a new token issued at each call, and keep none")
@connection_options
def credential(
    role: str,
    *,
    namespace: str,
    service_account: str,
    ttl: timedelta | None,
    min_ttl: timedelta | None,
    audiences: tuple[str, ...],
    cluster_wide: bool,
    no_cache: bool,
    **connection: Any,
) -> None:
    """Print a token through ROLE as an ExecCredential, for kubectl and whatever else is made with client-go.

    Tokens are kept in ~/.cache/kubevend/credentials, for you alone, and renewed when four fifths of their life are
    over. Of many that ask at once, one asks kubevend. While that cannot be reached, what is kept is good to its end.
    """
    api_version = _api_version(os.environ.get("KUBERNETES_EXEC_INFO", ""))
    asked = {
        "role": role if role.startswith("roles/") else f"roles/{role}",
        "namespace": namespace,
        "service_account_name": service_account,
        "ttl": ttl,
        "min_ttl": min_ttl,
        "audiences": audiences,
        "cluster_wide": cluster_wide,
    }
    settings = take_settings(connection)

    def issue() -> Credential:
        return _issue(asked, settings)

    if no_cache:
        found = issue()
    else:
        try:
            found = Cache(default_folder(os.environ)).get(key_of(asked, settings), issue)
        except CacheError as error:
            raise click.ClickException(str(error)) from error
    click.echo(found.as_exec_credential(api_version))


def _issue(asked: dict[str, Any], settings: Any) -> Credential:
    from kubevend.cli.issuing import issue_credential

    return issue_credential(asked, settings)


def _api_version(info: str) -> str:
    """The version in which kubectl wants its answer; there has been one since 1.22."""
    if not info:
        return API_VERSION
    try:
        wanted = json.loads(info)["apiVersion"]
    except (ValueError, KeyError, TypeError) as error:
        raise click.ClickException("KUBERNETES_EXEC_INFO is set, and is no ExecCredential.") from error
    if wanted != API_VERSION:
        raise click.ClickException(
            f"The kubeconfig asks for {wanted}; kubevend speaks {API_VERSION}. Correct apiVersion there."
        )
    return API_VERSION
