"""What every call passes through, from the outside in. `chain` is the whole list.

gRPC's own interceptors meet a call before its request is parsed and after its errors are sent, and are put together
anew for each call; these are put together once, and every one sees the whole call.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Sequence

import structlog
from google.protobuf.message import DecodeError, Message

from kubevend_server.audit import event
from kubevend_server.audit.log import Event
from kubevend_server.authentication.authenticator import Authenticator
from kubevend_server.calls import Call, Handler, Interceptor
from kubevend_server.checkpoints import Checkpoint, pass_by
from kubevend_server.errors import DeadlineExceeded, Internal, InvalidArgument, KubevendError, OverLimit
from kubevend_server.field_rules import check_no_credential, check_rules
from kubevend_server.gate import Gate
from kubevend_server.journal import Entry, Journal
from kubevend_server.metrics import Metrics
from kubevend_server.policy_folder import PolicySource
from kubevend_server.refusals import Refusals

_log = structlog.get_logger()
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def chain(
    authenticator: Authenticator,
    policies: PolicySource,
    recorder: Recorder,
    gate: Gate,
    refusals: Refusals,
    patience: Patience,
) -> Sequence[Interceptor]:
    """The interceptors, the outermost first. Error mapping, outside them all, is in `behaviors.py`."""
    return [
        identify_call,
        catch_defects,
        refusals.sum_up,
        gate.admit_source,
        patience.receive,
        recorder.record,
        Authentication(authenticator, policies).authenticate,
        gate.admit_caller,
        parse_request,
    ]


async def identify_call(call: Call, proceed: Handler) -> Message:
    """Give the call its request id, the caller's own where it is a UUID and not used yet, and its trace id."""
    own = "" if call.stream else _uuid(call.shown.first("x-request-id"))
    call.request_id = own or str(uuid.uuid4())
    traceparent = _TRACEPARENT.fullmatch(call.shown.first("traceparent"))
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
        raise defect_of(call.request_id) from defect


class Recorder:
    """The audit frame: it sees how every call ends, and lets no answer leave before that is recorded.

    It stands outside authentication and authorization, so that denials are recorded too.
    """

    def __init__(self, journal: Journal, metrics: Metrics, checkpoint: Checkpoint = pass_by) -> None:
        self._journal = journal
        self._metrics = metrics
        self._checkpoint = checkpoint
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
            error = problem if isinstance(problem, KubevendError) else defect_of(call.request_id)
            call.irrevocable = True
            await self._commit(call, error)
            raise
        # Committing is itself something that must be carried to its end.
        call.irrevocable = True
        await self._commit(call, None)
        await self._checkpoint("call.recorded")
        return reply

    async def _commit(self, call: Call, error: KubevendError | None, *, cancelled: bool = False) -> None:
        try:
            if leaves_event(call, error):
                await self._journal.commit(self._entry(call, error, cancelled=cancelled))
        except KubevendError as refusal:
            error = refusal
            raise
        finally:
            for settle in call.record.settled:
                settle(error)
            self._metrics.count(call, error, cancelled=cancelled)

    def _entry(self, call: Call, error: KubevendError | None, *, cancelled: bool) -> Entry:
        def completion(refusal: KubevendError | None) -> Event:
            return event.completion(call, refusal or error, cancelled=cancelled)

        record = call.record
        if error is not None or cancelled:
            return Entry(completion, change=record.undo, announced=record.announced)
        return Entry(completion, record.rows, record.change, record.committed, record.announced, record.fence)


def leaves_event(call: Call, error: KubevendError | None) -> bool:
    """Whether a call that ends so leaves an audit event of its own. Refusals beyond a limit are summed up."""
    if isinstance(error, OverLimit):
        return False
    reads = call.method.reads or call.record.only_asks
    return not reads or call.record.denied or call.caller is None


class Patience:
    """Waits so long, and no longer, for what callers send, and for what is done for them."""

    def __init__(self, request_seconds: float, call_seconds: float) -> None:
        """Take for how long it waits: for a request to arrive, and for a call to end."""
        self._request_seconds = request_seconds
        self._call_seconds = call_seconds

    async def receive(self, call: Call, proceed: Handler) -> Message:
        """Wait for the request, and then for the answer.

        A call that takes too long is given up as if its caller did: what has become irrevocable goes on.
        """
        try:
            async with asyncio.timeout(self._request_seconds):
                call.payload = await call.receive()
        except TimeoutError:
            raise self._unfinished(call) from None
        try:
            async with asyncio.timeout(self._call_seconds) as whole:
                return await proceed(call)
        except TimeoutError:
            if not whole.expired():
                raise
            raise self._too_slow() from None

    def _unfinished(self, call: Call) -> OverLimit:
        return OverLimit(
            "REQUEST_UNFINISHED",
            f"The request did not arrive within {self._request_seconds:g} s (limits.request_seconds): only its headers "
            "did. Send its message and half-close, or look what on the way keeps it back.",
            subject=call.source,
            metadata={"setting": "limits.request_seconds", "seconds": f"{self._request_seconds:g}"},
            retry_after=None,
        )

    def _too_slow(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            "CALL_TOO_SLOW",
            f"The call was not done within {self._call_seconds:g} s (limits.call_seconds), most often since a cluster "
            "does not answer. The audit log says what became of it, under this request id.",
            metadata={"setting": "limits.call_seconds", "seconds": f"{self._call_seconds:g}"},
        )


class Authentication:
    """Lets only callers in that are known."""

    def __init__(self, authenticator: Authenticator, policies: PolicySource) -> None:
        self._authenticator = authenticator
        self._policies = policies

    async def authenticate(self, call: Call, proceed: Handler) -> Message:
        """Tell who calls, and in which groups it is."""
        call.caller = self._policies.current.enroll(await self._authenticator.authenticate(call.shown))
        return await proceed(call)


async def parse_request(call: Call, proceed: Handler) -> Message:
    """Parse the request, hold it against the rules in the protos, and refuse credentials where none belong."""
    request = call.method.request()
    payload = call.payload
    if payload is None:
        # Where gRPC itself refused a message, the caller has its words, and this is for the audit log.
        raise InvalidArgument(
            "REQUEST_MISSING",
            "The call was ended without a message that the server takes: it sent none, or a larger one than "
            "limits.request_bytes allows.",
        )
    try:
        request.ParseFromString(payload)
    except DecodeError as error:
        raise InvalidArgument(
            "REQUEST_MALFORMED",
            f"The request is no {request.DESCRIPTOR.full_name} in protobuf: generate your client from kubevend's "
            "protos.",
        ) from error
    check_no_credential(request, payload)
    check_rules(request)
    call.request = request
    return await proceed(call)


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return ""


def defect_of(request_id: str) -> Internal:
    """What a caller is told of a defect: where its cause is found, and nothing of the cause."""
    return Internal(
        "DEFECT",
        f"kubevend has a defect. Its operator finds the cause in the server's log under request id {request_id}.",
    )


def _look_at(work: asyncio.Task[Message]) -> None:
    """Take an abandoned work's exception, which its event already tells, so that asyncio does not complain of it."""
    if not work.cancelled():
        work.exception()
