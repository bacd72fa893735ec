"""kubevend's tokens in the official Kubernetes client (`pip install kubevend[kubernetes]`).

    source = kubevend.TokenSource("quickstart")
    api = kubevend.kubernetes.api_client(source, host="https://10.0.0.1:6443", ca_file="ca.crt")
    pods = kubernetes.client.CoreV1Api(api).list_namespaced_pod("apps")

`kubevend.aio.kubernetes` has the same for `kubernetes.aio`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes.client as k8s

from kubevend import cluster
from kubevend.source import TokenSource


def api_client(source: TokenSource, host: str = "", ca_file: Path | str | None = None) -> k8s.ApiClient:
    """A Kubernetes client that asks a source for the token of each request.

    A request that is refused for its token (401) is made once more, with another one.

    Args:
        source: the source, which is not closed with the client.
        host: the API server, as `https://10.0.0.1:6443`; left out in a pod, the pod's own.
        ca_file: PEM, whose certificates the API server's is held against; left out, those of the system, or of the pod.

    Raises:
        ClientError: no host is given, and this is no pod (HOST_MISSING); tokens would go to it in plain text
            (HOST_INSECURE).
    """
    configuration = k8s.Configuration()
    configuration.host, configuration.ssl_ca_cert = cluster.target(host, ca_file)
    return ApiClient(source, configuration)


def plug_in(configuration: k8s.Configuration, source: TokenSource) -> None:
    """Have a configuration of the Kubernetes client ask a source for the token of each request, and forget what it had.

    Clients that are made of it do not make requests again that were refused for their token.
    """

    def refresh(current: Any) -> None:
        cluster.set_token(current, source.token().token)

    cluster.check_host(configuration.host)
    cluster.forget_credentials(configuration)
    configuration.refresh_api_key_hook = refresh  # type: ignore[assignment]  # typed as None


class ApiClient(k8s.ApiClient):
    """A Kubernetes client that asks a source for the token of each request, and makes it again after a 401."""

    def __init__(self, source: TokenSource, configuration: k8s.Configuration, **others: Any) -> None:
        """Take the source, and where the API server is, such as `kubernetes.config` finds it; see `plug_in`."""
        plug_in(configuration, source)
        super().__init__(configuration, **others)
        self._source = source

    def call_api(
        self, method: Any, url: Any, header_params: Any = None, body: Any = None, *others: Any, **named: Any
    ) -> Any:
        """Make a request: again, with another token, where it is refused for its token."""
        answer = super().call_api(method, url, header_params, body, *others, **named)
        token = cluster.shown(header_params)
        if token and answer.status == cluster.UNAUTHORIZED:
            self._source.invalidate(token)
        if token and cluster.may_be_sent_again(answer.status, body):
            answer.read()  # so that its connection is free
            headers = cluster.shows(header_params, self._source.token().token)
            answer = super().call_api(method, url, headers, body, *others, **named)
        return answer
