"""kubevend's tokens in `kubernetes.aio` of the official Kubernetes client (`pip install kubevend[kubernetes]`).

source = kubevend.aio.TokenSource("quickstart")
api = kubevend.aio.kubernetes.api_client(source, host="https://10.0.0.1:6443", ca_file="ca.crt")
pods = await kubernetes.aio.client.CoreV1Api(api).list_namespaced_pod("apps")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes.aio.client as k8s

from kubevend import cluster
from kubevend.aio.source import TokenSource


def api_client(source: TokenSource, host: str = "", ca_file: Path | str | None = None) -> k8s.ApiClient:
    """A Kubernetes client that asks a source for the token of each request: as `kubevend.kubernetes.api_client`.

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

    async def refresh(current: Any) -> None:
        cluster.set_token(current, (await source.token()).token)

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

    async def call_api(
        self, method: Any, url: Any, header_params: Any = None, body: Any = None, *others: Any, **named: Any
    ) -> Any:
        """Make a request: again, with another token, where it is refused for its token."""
        answer = await super().call_api(method, url, header_params, body, *others, **named)
        token = cluster.shown(header_params)
        if token and answer.status == cluster.UNAUTHORIZED:
            self._source.invalidate(token)
        if token and cluster.may_be_sent_again(answer.status, body):
            await answer.read()  # so that its connection is free
            headers = cluster.shows(header_params, (await self._source.token()).token)
            answer = await super().call_api(method, url, headers, body, *others, **named)
        return answer
