"""`kubevend credential`: kubectl's credential plugin.

See https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import click

from kubevend.cli import context_file, warm
from kubevend.cli.credential_cache import Cache, CacheBusyError, key_of
from kubevend.cli.issue import token_options
from kubevend.cli.kept import Kept
from kubevend.cli.names import ROLE
from kubevend.cli.own_folder import FolderError, OwnFolder, credentials_path
from kubevend.cli.where import connection_options, take_settings
from kubevend.connection import Settings

_FILES = ("ca_file", "token_file", "client_cert_file", "client_key_file")

API_VERSION = "client.authentication.k8s.io/v1"


@click.command(
    epilog="""\b
Examples:
  kubevend credential ci
  kubevend credential ci --namespace shop --ttl 15m
  kubevend credential --clear

\b
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
@click.argument("role", required=False, default="", shell_complete=ROLE.complete)
@token_options
@click.option("--no-cache", is_flag=True, help="Have a new token issued at each call, and keep none.")
@click.option("--clear", is_flag=True, help="Remove all credentials that are kept, of every role.")
@connection_options
def credential(role: str, *, no_cache: bool, clear: bool, **given: Any) -> None:
    """Print a token through ROLE as an ExecCredential, for kubectl and whatever else is made with client-go.

    Tokens are kept in ~/.cache/kubevend/credentials ($XDG_CACHE_HOME), for you alone, and renewed when four fifths of
    their life are over. Of many that ask at once, one asks kubevend. While that cannot be reached, what is kept is good
    to its end.
    """
    if clear:
        click.echo(f"{_clear()} credentials removed", err=True)
        return
    if not role:
        raise click.UsageError("Name a role: kubevend credential ROLE.")
    _check_version(os.environ.get("KUBERNETES_EXEC_INFO", ""))
    # Before what is in them is read, each time.
    seen = warm.states([str(context_file.path_of(os.environ))])
    settings = take_settings(given)
    seen += warm.states([str(file) for name in _FILES if (file := getattr(settings, name))])
    asked = _asked(role, **given)

    def issue(has_other: bool = False) -> Kept:
        from kubevend.cli.issuing import issue_credential

        return issue_credential(asked, settings, has_other=has_other)

    click.echo((issue() if no_cache else _from_cache(asked, settings, issue, seen)).answer)


def _from_cache(asked: dict[str, Any], settings: Settings, issue: Callable[[bool], Kept], seen: list[str]) -> Kept:
    try:
        with OwnFolder(credentials_path()) as folder:
            cache, key = Cache(folder, _warn), key_of(asked, settings)
            found = cache.get(key, issue)
            cache.write_note(warm.note_name(sys.argv[1:]), warm.note(f"{key}.credential", seen))
            return found
    except FolderError as error:
        raise click.ClickException(f"{error} Or set XDG_CACHE_HOME, or use --no-cache.") from error
    except CacheBusyError as error:
        raise click.ClickException(str(error)) from error


def _clear() -> int:
    try:
        with OwnFolder(credentials_path()) as folder:
            return Cache(folder, _warn).clear()
    except FolderError as error:
        raise click.ClickException(str(error)) from error


def _warn(message: str) -> None:
    click.echo(f"Warning: {message}", err=True)


def _asked(
    role: str,
    *,
    namespace: str,
    service_account: str,
    ttl: timedelta | None,
    min_ttl: timedelta | None,
    audiences: tuple[str, ...],
    cluster_wide: bool,
) -> dict[str, Any]:
    """What is asked for, as JSON can have it."""
    return {
        "role": ROLE.full(role),
        "namespace": namespace,
        "service_account_name": service_account,
        "ttl": ttl and ttl.total_seconds(),
        "min_ttl": min_ttl and min_ttl.total_seconds(),
        "audiences": list(audiences),
        "cluster_wide": cluster_wide,
    }


def _check_version(info: str) -> None:
    """Refuse to answer whoever asks for another version than the one that there has been since Kubernetes 1.22."""
    if not info:
        return
    try:
        wanted = json.loads(info)["apiVersion"]
    except (ValueError, KeyError, TypeError) as error:
        raise click.ClickException("KUBERNETES_EXEC_INFO is set, and is no ExecCredential.") from error
    if wanted != API_VERSION:
        raise click.ClickException(
            f"The kubeconfig asks for {wanted}; kubevend speaks {API_VERSION}: write that as apiVersion there."
        )
