"""The methods as gRPC wants them: bytes in, bytes out. Here, and nowhere else, errors become a google.rpc.Status.

To gRPC each method takes a stream of requests, of which the first is read: so a call is seen when its headers are
there, and not only once its caller has sent the rest.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import NoReturn

import structlog
from google.protobuf.message import Message
from grpc import aio
from grpc_status import rpc_status

from kubevend_server.calls import Call, Handler, Interceptor, Method
from kubevend_server.errors import KubevendError, to_status
from kubevend_server.interceptors import defect_of
from kubevend_server.listeners import BEARER, Listener, PeerCertificate, Shown
from kubevend_server.streams import Opener, Streams

Context = aio.ServicerContext[bytes, bytes]
Behavior = Callable[[AsyncIterator[bytes], "Context"], Awaitable[bytes]]
StreamBehavior = Callable[[AsyncIterator[bytes], "Context"], Awaitable[None]]

_log = structlog.get_logger()


def behavior(
    method: Method, handler: Handler, interceptors: Sequence[Interceptor], listener: Listener = BEARER
) -> Behavior:
    """Put the handler of a method with one answer inside the interceptors."""
    pass_through = _put_together(interceptors)

    async def behave(requests: AsyncIterator[bytes], context: Context) -> bytes:
        call = _call(method, requests, context, listener)
        try:
            reply = await pass_through(call, handler)
        except KubevendError as error:
            await _refuse(context, error, call.request_id)
        return reply.SerializeToString()

    return behave


def stream_behavior(
    method: Method, opener: Opener, interceptors: Sequence[Interceptor], streams: Streams, listener: Listener = BEARER
) -> StreamBehavior:
    """Put the opener of a method with many answers inside the interceptors: each step of its stream passes them all.

    It writes its answers itself, where gRPC would take a generator too: one whose caller leaves while an answer is
    being written is not told of it, and would stay open until somebody collects it.
    """
    pass_through = _put_together(interceptors)

    async def behave(requests: AsyncIterator[bytes], context: Context) -> None:
        first = _call(method, requests, context, listener)
        with streams.open(first, pass_through) as stream:
            try:
                async with aclosing(opener(stream)) as answers:
                    async for answer in answers:
                        await context.write(answer.SerializeToString())
            except KubevendError as error:
                await _refuse(context, error, first.request_id)
            except Exception:  # noqa: BLE001 - as catch_defects does for each step
                _log.exception("defect", method=method.full_name, request_id=first.request_id)
                await _refuse(context, defect_of(first.request_id), first.request_id)

    return behave


def _put_together(interceptors: Sequence[Interceptor]) -> Interceptor:
    """One interceptor that is all of them, the first outermost."""

    async def innermost(call: Call, handler: Handler) -> Message:
        return await handler(call)

    whole: Interceptor = innermost
    for interceptor in reversed(interceptors):
        whole = _around(interceptor, whole)
    return whole


def _around(outer: Interceptor, inner: Interceptor) -> Interceptor:
    async def pass_through(call: Call, handler: Handler) -> Message:
        return await outer(call, lambda call: inner(call, handler))

    return pass_through


def _call(method: Method, requests: AsyncIterator[bytes], context: Context, listener: Listener) -> Call:
    async def receive() -> bytes | None:
        async for payload in requests:
            return payload
        return None

    return Call(method, receive, _shown(listener, context), context.peer(), time.monotonic())


async def _refuse(context: Context, error: KubevendError, request_id: str) -> NoReturn:
    await context.abort_with_status(rpc_status.to_status(to_status(error, request_id)))
    raise AssertionError("gRPC has ended the call")


def _shown(listener: Listener, context: Context) -> Shown:
    metadata: dict[str, tuple[str, ...]] = {}
    for key, value in context.invocation_metadata() or ():
        text = value if isinstance(value, str) else value.decode("latin-1")
        metadata[key] = (*metadata.get(key, ()), text)
    certificate = _peer_certificate(context) if listener.trust_domain else None
    return Shown(listener, metadata, certificate)


def _peer_certificate(context: Context) -> PeerCertificate:
    # Not `peer_spiffe_id`: gRPC leaves it out without a word where there are two URIs.
    proven = context.auth_context()
    pem = b"".join(proven.get("x509_pem_cert", ()))
    uris = tuple(uri.decode("latin-1") for uri in proven.get("peer_uri", ()))
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()
    # On the server's side BoringSSL leaves the certificate itself out of the chain.
    return PeerCertificate(uris, fingerprint, pem + b"".join(proven.get("x509_pem_cert_chain", ())))
