"""A call on its way through the server, and the record of it that the audit log gets."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa
from google.protobuf.message import Message

from kubevend_server.callers import Caller
from kubevend_server.errors import KubevendError
from kubevend_server.listeners import Shown
from kubevend_server.policy.grant import Grant
from kubevend_server.store.changes import Change, Fence, rehearse
from kubevend_server.warning import Warning


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the API.

    Attributes:
        service: its service's full name, `kubevend.v1.IssueService`.
        name: its own, `IssueToken`, which is its action in the access policy.
        request: the type of its request.
        reads: whether it only reads; then its audit event is written only where it is denied.
        streams: whether it has many answers, each with an audit event of its own.
    """

    service: str
    name: str
    request: type[Message]
    reads: bool
    streams: bool = False

    @property
    def full_name(self) -> str:
        """`kubevend.v1.IssueService/IssueToken`."""
        return f"{self.service}/{self.name}"


@dataclass(slots=True)
class Record:
    """What is known of a call, gathered on its way, for its audit event and its entry in the journal.

    Attributes:
        resource: what the call is about, as `roles/ci`.
        request: what was asked, as proto JSON without secrets.
        denied: whether policy or role denied it, whatever the answer tells of that.
        policies: the access policies that decided; None before there was a decision.
        rules: where each value of the grant came from.
        grant: what was granted.
        anchor: the name of the Secret that the token is bound to, or empty.
        lease, jti, kubernetes_audit_id, expiration, token_expiration: what was issued.
        warnings: what came out otherwise than asked.
        replayed: whether the token is another one of a lease that its request id has got before.
        leases: the leases that the call ends.
        only_asks: whether it asks what would be, and does nothing: then it leaves an event only where it is denied.
        rows, change, committed, announced, fence: for the journal, as in `journal.Entry`.
        undo: what is to be written in place of these where the call fails.
        settled: called once all is recorded, with the error that the call ends with, or None.
    """

    resource: str = ""
    request: dict[str, Any] | None = None
    denied: bool = False
    only_asks: bool = False
    policies: tuple[str, ...] | None = None
    rules: tuple[str, ...] = ()
    grant: Grant | None = None
    anchor: str = ""
    lease: str = ""
    jti: str = ""
    kubernetes_audit_id: str = ""
    expiration: datetime | None = None
    token_expiration: datetime | None = None
    warnings: tuple[Warning, ...] = ()
    replayed: bool = False
    rows: Sequence[tuple[sa.Table, dict[str, object]]] = ()
    change: Change | None = None
    committed: Callable[[], None] | None = None
    announced: bool = False
    fence: Fence | None = None
    undo: Change | None = None
    settled: list[Callable[[KubevendError | None], None]] = field(default_factory=list)
    leases: tuple[str, ...] = ()

    def stage(self, change: Change, committed: Callable[[], None], *, validate_only: bool) -> None:
        """Leave a change for the journal; with `validate_only` it is rehearsed, and nothing follows."""
        self.change = rehearse(change, only=validate_only)
        self.committed = None if validate_only else committed


@dataclass(slots=True)
class Call:
    """One call.

    Attributes:
        method: which.
        receive: waits for the request's bytes; None where the caller sends none.
        payload: these, once they are there.
        shown: what it shows of who makes it, its metadata among it.
        peer: the peer's address as gRPC writes it, `ipv4:10.0.0.7:51234`.
        started: `time.monotonic()` when it arrived.
        request_id: a UUID.
        trace_id: of the caller's traceparent, or empty.
        caller: who; None before authentication.
        request: the request, once parsed.
        begun: the work on it has begun.
        irrevocable: from here on the caller's cancellation no longer stops the work, since something is being done
            outside that must be recorded.
        abandoned: the caller has given up.
        record: what the audit log shall know.
        stream: of a later step of a stream, the request id of the call that opened it; else empty.
    """

    method: Method
    receive: Callable[[], Awaitable[bytes | None]]
    shown: Shown
    peer: str
    started: float
    payload: bytes | None = None
    request_id: str = ""
    trace_id: str = ""
    caller: Caller | None = None
    request: Message | None = None
    begun: bool = False
    irrevocable: bool = False
    abandoned: bool = False
    record: Record = field(default_factory=Record)
    stream: str = ""

    def __repr__(self) -> str:
        return f"Call({self.method.full_name}, {self.request_id})"

    @property
    def who(self) -> Caller:
        """The caller, after authentication."""
        if self.caller is None:
            raise RuntimeError("The call has not been authenticated.")
        return self.caller

    @property
    def source_ip(self) -> str:
        """The peer's IP address, or empty where it has none."""
        kind, _, rest = self.peer.partition(":")
        if kind not in ("ipv4", "ipv6"):
            return ""
        host = unquote(rest).rpartition(":")[0]
        return host.removeprefix("[").removesuffix("]").partition("%")[0]

    @property
    def source(self) -> str:
        """Whose calls count together before anybody has said who they are: `ipv4:10.0.0.7`, `ipv6:2001:db8::/64`.

        An IPv6 subscriber has a whole /64, so its addresses tell nobody apart (RFC 6177).
        """
        return _source_of(self.source_ip)


@functools.lru_cache(maxsize=4096)
def _source_of(address: str) -> str:
    if not address:
        return "unix"
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return f"ipv6:{ipaddress.ip_network((found, 64), strict=False)}"
        found = found.ipv4_mapped
    return f"ipv4:{found}"


Handler = Callable[[Call], Awaitable[Message]]
"""What answers a call."""

Interceptor = Callable[[Call, Handler], Awaitable[Message]]
"""What a call passes through on its way to its handler."""
