"""What the Kubernetes clients, the one that waits and the one to be awaited, have in common."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kubevend.connection import is_local
from kubevend.errors import ClientError

KEY = "BearerToken"
"""What the Kubernetes client calls a bearer token among the keys of its configuration."""

_CA_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
_HEADER = "authorization"
_PREFIX = "Bearer "
UNAUTHORIZED = 401


def target(host: str, ca_file: Path | str | None, environ: Mapping[str, str] = os.environ) -> tuple[str, str | None]:
    """Where the API server is, and whose certificates it is held against.

    Raises:
        ClientError: no host is given, and this is no pod, which would know (HOST_MISSING).
    """
    if host:
        return host, str(ca_file) if ca_file else None
    found, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not found or not port:
        raise ClientError(
            "Give the API server's host, as https://10.0.0.1:6443: this is no pod.", reason="HOST_MISSING"
        )
    name = f"[{found}]" if ":" in found else found
    return f"https://{name}:{port}", str(ca_file or _CA_FILE)


def check_host(host: str) -> None:
    """Refuse an API server to which tokens would go in plain text, unless that is on this machine.

    To the Kubernetes client a host without a scheme is one.

    Raises:
        ClientError: so it is (HOST_INSECURE).
    """
    url = urlsplit(host if "://" in host else f"//{host}")
    if url.scheme != "https" and not (url.scheme == "http" and is_local(f"{url.hostname}:0")):
        raise ClientError(
            f"A token goes to an API server by TLS alone, and {host} is not https: give it as "
            f"https://{url.netloc or '10.0.0.1:6443'}.",
            reason="HOST_INSECURE",
        )


def forget_credentials(configuration: Any) -> None:
    """Take all credentials out of a configuration: an API server that is shown two may well go by the other one."""
    configuration.api_key = {KEY: ""}  # without an entry no token is looked for
    configuration.api_key_prefix = {}
    configuration.cert_file = configuration.key_file = configuration.username = configuration.password = None


def set_token(configuration: Any, token: str) -> None:
    """Have the next request made with a token."""
    configuration.api_key[KEY] = f"{_PREFIX}{token}"


def shown(headers: Mapping[str, str] | None) -> str:
    """The token that a request was made with, or empty."""
    return (headers or {}).get(_HEADER, "").removeprefix(_PREFIX)


def shows(headers: Mapping[str, str] | None, token: str) -> dict[str, str]:
    """A request's headers with another token."""
    return {**(headers or {}), _HEADER: f"{_PREFIX}{token}"}


def may_be_sent_again(status: int, body: object) -> bool:
    """Whether a request was refused for its token, and can be made with another one: its body is no stream."""
    return status == UNAUTHORIZED and (body is None or isinstance(body, (str, bytes, dict, list)))
