#!/usr/bin/env python3
"""Ask kubevend on this machine whether it serves (grpc.health.v1); for the probes of a pod.

kubevend speaks TLS only. Kubernetes' own gRPC probes do so with the feature gate GRPCContainerProbeTLS, which is alpha
and off in 1.37 (KEP-4939).

    health.py [PORT [SERVICE]]

The exit status is 0 if it serves, else 1 with the reason on stderr.
"""

from __future__ import annotations

import socket
import ssl
import sys

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc_health.v1 import health_pb2, health_pb2_grpc

_HOST = "127.0.0.1"
_SECONDS = 3.0


def shown_certificate(port: int) -> x509.Certificate:
    """The certificate that the server shows.

    It is not verified: nothing secret is sent, and what listens on the pod's own loopback is in the pod.

    Raises:
        OSError: nothing listens there, or it speaks no TLS.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((_HOST, port), _SECONDS) as plain,
        context.wrap_socket(plain) as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
    if not shown:
        raise OSError("the server shows no certificate")
    return x509.load_der_x509_certificate(shown)


def name_of(certificate: x509.Certificate) -> str:
    """A name that the certificate is for."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    names = [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]
    return names[0].replace("*", "any", 1)


def status(port: int, service: str) -> str:
    """What the server says of a service, or of itself where none is named: `SERVING`, `NOT_SERVING`.

    Raises:
        OSError, grpc.RpcError: it does not say.
    """
    certificate = shown_certificate(port)
    credentials = grpc.ssl_channel_credentials(certificate.public_bytes(Encoding.PEM))
    options = (("grpc.ssl_target_name_override", name_of(certificate)), ("grpc.enable_http_proxy", 0))
    with grpc.secure_channel(f"{_HOST}:{port}", credentials, options) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_SECONDS)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


def main(arguments: list[str]) -> int:
    """Ask, and return the exit status."""
    port, service = [*arguments, *("7443", "")[len(arguments) :]]
    try:
        found = status(int(port), service)
    except (OSError, ValueError, LookupError, grpc.RpcError, x509.ExtensionNotFound) as error:
        found = str(error)
    if found != "SERVING":
        sys.stderr.write(f"kubevend on port {port}: {found}\n")
    return 0 if found == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
