"""What goes into the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kubevend.agent.clusters import Place
from kubevend.agent.config import Filled, Kubeconfig, Output, TokenFile, token_file_of
from kubevend.cli import kubeconfig_file
from kubevend.tokens import Token


def render(output: Output, token: Token, place: Place | None) -> dict[Path, bytes]:
    """The contents of an output's files, those first that others refer to.

    Args:
        output: the output.
        token: its token.
        place: where the cluster is; None where the output does not need it.
    """
    match output.content:
        case TokenFile(file):
            return {file: token.token.encode()}
        case Kubeconfig():
            return _kubeconfig(output.content, token, place or Place(""))
        case Filled(file, template):
            return {file: template.fill(_values(token, place)).encode()}


def _kubeconfig(wanted: Kubeconfig, token: Token, place: Place) -> dict[Path, bytes]:
    """A kubeconfig that names the token's file, as its neighbour, or has the token itself."""
    beside = token_file_of(wanted)
    user = {"token": token.token} if wanted.embed else {"tokenFile": beside.name}
    content: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": wanted.name, "cluster": place.entry()}],
        "users": [{"name": wanted.name, "user": user}],
        "contexts": [
            {
                "name": wanted.name,
                "context": {
                    "cluster": wanted.name,
                    "user": wanted.name,
                    "namespace": wanted.namespace or token.namespace,
                },
            }
        ],
        "current-context": wanted.name,
    }
    text = kubeconfig_file.dump(content).encode()
    return {wanted.file: text} if wanted.embed else {beside: token.token.encode(), wanted.file: text}


def _values(token: Token, place: Place | None) -> dict[str, str]:
    return {
        "token": token.token,
        "expiration": token.expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "namespace": token.namespace,
        "service_account": token.service_account,
        "audiences": ",".join(token.audiences),
        "lease": token.lease,
        "jti": token.jti,
        **(place.values() if place else {}),
    }
