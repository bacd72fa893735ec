"""What every call passes through, from the outside in. `chain` is the whole list.

gRPC's own interceptors meet a call before its request is parsed and after its errors are sent, and are put together
anew for each call; these are put together once, and every one sees the whole call.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import protovalidate
import structlog
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from grpc import aio
from grpc_status import rpc_status

from kubevend.v1 import rules_pb2
from kubevend_server.audit import event
from kubevend_server.audit.log import Event
from kubevend_server.authentication import Authenticator
from kubevend_server.calls import Call, Method
from kubevend_server.errors import Internal, InvalidArgument, KubevendError, Violation, to_status
from kubevend_server.journal import Entry, Journal
from kubevend_server.metrics import Metrics

Handler = Callable[[Call], Awaitable[Message]]
Interceptor = Callable[[Call, Handler], Awaitable[Message]]
Behavior = Callable[[bytes, "aio.ServicerContext[bytes, bytes]"], Awaitable[bytes]]

# A message of 256 KiB can break a rule 100,000 times, and to tell each would take seconds.
_SMALL_REQUEST = 8192
# So many fit into an error, which can hold 8 KiB, each with a path, what was given, and the words of a rule.
_MOST_VIOLATIONS = 5
_LONGEST_SHOWN = 64

_log = structlog.get_logger()
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def chain(authenticator: Authenticator, recorder: Recorder) -> Sequence[Interceptor]:
    """The interceptors, the outermost first. Error mapping, outside them all, is in `behavior`."""
    return [
        identify_call,
        catch_defects,
        recorder.record,
        Authentication(authenticator).authenticate,
        parse_request,
    ]


def behavior(method: Method, handler: Handler, interceptors: Sequence[Interceptor]) -> Behavior:
    """Put a method's handler inside the interceptors, as gRPC wants it: bytes in, bytes out.

    An error becomes a google.rpc.Status here, and nowhere else.
    """
    handle = handler
    for interceptor in reversed(interceptors):
        handle = _inside(interceptor, handle)

    async def behave(payload: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        call = Call(method, payload, _first_values(context), context.peer(), time.monotonic())
        try:
            reply = await handle(call)
        except KubevendError as error:
            await context.abort_with_status(rpc_status.to_status(to_status(error, call.request_id)))
        return reply.SerializeToString()

    return behave


async def identify_call(call: Call, proceed: Handler) -> Message:
    """Give the call its request id, the caller's own where it is a UUID, and its trace id."""
    call.request_id = _uuid(call.metadata.get("x-request-id", "")) or str(uuid.uuid4())
    traceparent = _TRACEPARENT.fullmatch(call.metadata.get("traceparent", ""))
    call.trace_id = traceparent.group(1) if traceparent else ""
    return await proceed(call)


async def catch_defects(call: Call, proceed: Handler) -> Message:
    """Turn what nobody foresaw into INTERNAL: the cause goes to the process log, not to the caller."""
    try:
        return await proceed(call)
    except KubevendError:
        raise
    except Exception as defect:
        _log.exception("defect", method=call.method.full_name, request_id=call.request_id)
        raise _defect(call) from defect


class Recorder:
    """The audit frame: it sees how every call ends, and lets no answer leave before that is recorded.

    It stands outside authentication and authorization, so that denials are recorded too.
    """

    def __init__(self, journal: Journal, metrics: Metrics) -> None:
        self._journal = journal
        self._metrics = metrics
        self._works: set[asyncio.Task[Message]] = set()

    async def record(self, call: Call, proceed: Handler) -> Message:
        """Let the call proceed, and record how it ends.

        If the caller gives up, the work is cancelled, unless it has become irrevocable: then it goes on without
        the caller. Either way its event is written, and says what was really done.
        """
        work = asyncio.create_task(self._run(call, proceed))
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            call.abandoned = True
            _log.info("caller_gave_up", request_id=call.request_id, goes_on=call.irrevocable)
            work.add_done_callback(_look_at)
            # A task that is cancelled before its first step never runs, and would leave no event.
            if call.begun and not call.irrevocable:
                work.cancel()
            raise

    async def drain(self) -> None:
        """Wait for the works that go on without their callers."""
        while self._works:
            await asyncio.wait(self._works)

    async def _run(self, call: Call, proceed: Handler) -> Message:
        call.begun = True
        try:
            if call.abandoned:
                raise asyncio.CancelledError  # noqa: TRY301 - it is one, only that it came before the first step
            reply = await proceed(call)
        except asyncio.CancelledError:
            call.irrevocable = True
            await self._commit(call, None, cancelled=True)
            raise
        except Exception as problem:
            error = problem if isinstance(problem, KubevendError) else _defect(call)
            call.irrevocable = True
            await self._commit(call, error)
            raise
        # Committing is itself something that must be carried to its end.
        call.irrevocable = True
        await self._commit(call, None)
        return reply

    async def _commit(self, call: Call, error: KubevendError | None, *, cancelled: bool = False) -> None:
        try:
            if not call.method.reads or call.record.denied or call.caller is None:
                await self._journal.commit(self._entry(call, error, cancelled=cancelled))
        except KubevendError as refusal:
            error = refusal
            raise
        finally:
            self._metrics.count(call, error, cancelled=cancelled)

    def _entry(self, call: Call, error: KubevendError | None, *, cancelled: bool) -> Entry:
        def completion(refusal: KubevendError | None) -> Event:
            return event.completion(call, refusal or error, cancelled=cancelled)

        record = call.record
        if error is not None or cancelled:
            return Entry(completion, announced=record.announced)
        return Entry(completion, record.rows, record.change, record.committed, record.announced)


class Authentication:
    """Lets only callers in that are known."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def authenticate(self, call: Call, proceed: Handler) -> Message:
        """Tell who calls."""
        call.caller = await self._authenticator.authenticate(call.metadata)
        return await proceed(call)


async def parse_request(call: Call, proceed: Handler) -> Message:
    """Parse the request and hold it against the rules in the protos."""
    request = call.method.request()
    try:
        request.ParseFromString(call.payload)
    except DecodeError as error:
        raise InvalidArgument(
            "REQUEST_MALFORMED",
            f"The request is no {request.DESCRIPTOR.full_name} in protobuf: generate your client from "
            "kubevend's protos.",
        ) from error
    check_rules(request)
    call.request = request
    return await proceed(call)


def check_rules(message: Message, prefix: str = "") -> None:
    """Hold a message against the rules in its proto.

    Args:
        message: the message.
        prefix: what to put before the paths of its fields, as `role.`.

    Raises:
        InvalidArgument: with the fields that break their rules; of a large message, with the first one.
    """
    found = protovalidate.collect_violations(message, fail_fast=True)
    if not found:
        return
    if message.ByteSize() <= _SMALL_REQUEST:
        found = protovalidate.collect_violations(message)
    # One field can break several rules that are told in the same words.
    violations = list(dict.fromkeys(_violation(message, v, prefix) for v in found))[:_MOST_VIOLATIONS]
    what = "; ".join(f"{v.field} {v.description}" for v in violations)
    raise InvalidArgument("FIELD_INVALID", f"The request breaks rules of its fields: {what}.", violations=violations)


def _violation(message: Message, found: protovalidate.Violation, prefix: str) -> Violation:
    """Which field it is, what was given, and what it must be, in the words of the proto."""
    elements = list(found.proto.field.elements) if found.proto.field is not None else []
    fields = list(_fields(message, [element.field_name for element in elements]))
    names = [e.field_name + (f"[{_cut(str(e.subscript.value))}]" if e.subscript is not None else "") for e in elements]
    description = found.proto.message
    if fields and elements[-1].subscript is None:
        description = fields[-1].GetOptions().Extensions[rules_pb2.rule_message] or description
    # A map's key stands in the path.
    if not found.proto.for_key and not any(map(_may_be_secret, fields)):
        description = _given(found.field_value) + description
    return Violation(prefix + ".".join(names), description)


def _fields(message: Message, path: Sequence[str]) -> Iterator[FieldDescriptor]:
    inside: Any = message.DESCRIPTOR  # the stubs have two kinds
    for name in path:
        field = inside.fields_by_name[name]
        yield field
        inside = field.message_type
        if inside is not None and inside.GetOptions().map_entry:
            inside = inside.fields_by_name["value"].message_type


def _may_be_secret(field: FieldDescriptor) -> bool:
    """Whether a field holds a secret, or could by mistake: it stands in a oneof beside one that does."""
    choices = field.containing_oneof.fields if field.containing_oneof is not None else [field]
    return any(choice.GetOptions().debug_redact for choice in choices)


def _given(value: object) -> str:
    if value == "":
        return "is empty: "
    # What is longer tells a person nothing new.
    return f"is {value!a}: " if isinstance(value, str) and len(ascii(value)) <= _LONGEST_SHOWN else ""


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


def _inside(interceptor: Interceptor, handler: Handler) -> Handler:
    async def handle(call: Call) -> Message:
        return await interceptor(call, handler)

    return handle


def _first_values(context: aio.ServicerContext[bytes, bytes]) -> dict[str, str]:
    values: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        values.setdefault(key, value if isinstance(value, str) else value.decode("latin-1"))
    return values


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return ""


def _defect(call: Call) -> Internal:
    return Internal(
        "DEFECT",
        f"kubevend has a defect. Its operator finds the cause in the server's log under request id {call.request_id}.",
    )


def _look_at(work: asyncio.Task[Message]) -> None:
    """Take an abandoned work's exception, which its event already tells, so that asyncio does not complain of it."""
    if not work.cancelled():
        work.exception()
