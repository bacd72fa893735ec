from __future__ import annotations

import asyncio

import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubevend.v1 import issue_service_pb2 as iss
from kubevend.v1 import role_service_pb2 as rs
from kubevend_server import interceptors
from kubevend_server.behaviors import behavior
from kubevend_server.calls import Call, Handler, Interceptor
from kubevend_server.gate import Gate
from kubevend_server.interceptors import Authentication, identify_call
from kubevend_server.refusals import Refusals
from tests.unit.builders import ADMIN_TOKEN, ISSUE_TOKEN, call, shown
from tests.unit.world import Refused, World, context, sending

UUID = "5f0c7f3e-64a7-4f11-8f0e-3b3f0f0a1b2c"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_the_chain_is_in_its_order(world: World) -> None:
    """From the outside in: the id, the defects, how much comes from where, the request itself, the audit frame, who
    calls and how much, what is asked. The audit frame stands outside authentication, so that denials are recorded, and
    inside what keeps floods out, so that they are not.
    """
    order = [getattr(interceptor, "__func__", interceptor) for interceptor in world.interceptors]
    assert order == [
        interceptors.identify_call,
        interceptors.catch_defects,
        Refusals.sum_up,
        Gate.admit_source,
        interceptors.Patience.receive,
        interceptors.Recorder.record,
        Authentication.authenticate,
        Gate.admit_caller,
        interceptors.parse_request,
    ]


async def test_interceptors_run_from_the_outside_in() -> None:
    """`behavior` puts the first interceptor outermost, and the reply goes back through all of them."""
    seen: list[str] = []

    def interceptor(name: str) -> Interceptor:
        async def intercept(call: Call, proceed: Handler) -> Message:
            seen.append(f"into {name}")
            reply = await proceed(call)
            seen.append(f"out of {name}")
            return reply

        return intercept

    async def handler(_call: Call) -> Message:
        seen.append("handler")
        return iss.IssueTokenResponse(jti="x")

    reply = await behavior(ISSUE_TOKEN, handler, [interceptor("a"), interceptor("b")])(sending(b""), context())
    assert seen == ["into a", "into b", "handler", "out of b", "out of a"]
    assert iss.IssueTokenResponse.FromString(reply) == iss.IssueTokenResponse(jti="x")


async def test_a_call_is_what_grpc_says(world: World) -> None:
    """The call has all values of each key of the metadata, the bytes, and the peer."""
    del world
    seen: list[Call] = []

    async def handler(call: Call) -> Message:
        seen.append(call)
        return iss.IssueTokenResponse()

    await behavior(ISSUE_TOKEN, handler, [])(
        sending(b"payload"), context({"a": "1", "b-bin": b"\xff"}, "ipv4:1.2.3.4:5")
    )
    (found,) = seen
    assert (found.method, await found.receive(), found.shown, found.peer) == (
        ISSUE_TOKEN,
        b"payload",
        shown({"a": "1", "b-bin": "\xff"}),
        "ipv4:1.2.3.4:5",
    )
    assert (found.caller, found.request, found.irrevocable, found.abandoned) == (None, None, False, False)


async def _identified(**metadata: str) -> tuple[str, str]:
    made = call(shown=shown({name.replace("_", "-"): value for name, value in metadata.items()}), request_id="")

    async def handler(_call: Call) -> Message:
        return iss.IssueTokenResponse()

    await identify_call(made, handler)
    return made.request_id, made.trace_id


async def test_a_callers_request_id_is_kept() -> None:
    """A UUID that the caller sends is the call's id, written in the usual way."""
    for sent in (UUID, UUID.upper(), "{" + UUID + "}", UUID.replace("-", "")):
        assert (await _identified(x_request_id=sent))[0] == UUID


@pytest.mark.parametrize("sent", ["", "1", "not-a-uuid", UUID + "0", UUID[:-1], "../../etc", UUID + "\n{}"])
async def test_any_other_request_id_is_replaced(sent: str) -> None:
    """What is no UUID is replaced by one of our own, another one each time."""
    first, second = (await _identified(x_request_id=sent))[0], (await _identified(x_request_id=sent))[0]
    assert len({first, second, sent}) == 3
    assert len(first) == 36


@pytest.mark.parametrize(
    ("traceparent", "trace"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"cc-{TRACE}-00f067aa0ba902b7-00", TRACE),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE}-00f067aa0ba902b7", ""),
        (f"00-{TRACE}-00f067aa0ba902b7-01-more", ""),
        (f"00-{TRACE[:-1]}-00f067aa0ba902b7-01", ""),
        (f" 00-{TRACE}-00f067aa0ba902b7-01", ""),
        ("", ""),
    ],
)
async def test_a_trace_id_is_taken_from_traceparent(traceparent: str, trace: str) -> None:
    """The trace id of a well-formed W3C traceparent is the call's, and anything else is none."""
    assert (await _identified(traceparent=traceparent))[1] == trace


# Errors on the wire.


async def _refused(world: World, name: str, payload: bytes, **metadata: str) -> Refused:
    sent = {"authorization": f"Bearer {ADMIN_TOKEN}", "x-request-id": UUID, **metadata}
    with pytest.raises(Refused) as refused:
        await world.send(name, payload, sent)
    assert refused.value.detail(error_details_pb2.RequestInfo).request_id == UUID
    assert refused.value.detail(error_details_pb2.ErrorInfo).domain == "kubevend.dev"
    return refused.value


@pytest.mark.parametrize("payload", [b"\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe", b"roles/ci"])
async def test_bytes_that_are_no_message_are_the_callers_fault(world: World, payload: bytes) -> None:
    """What does not parse is INVALID_ARGUMENT, with the name of the message that it should be."""
    refused = await _refused(world, "IssueToken", payload)
    assert refused.status.code == code_pb2.INVALID_ARGUMENT
    assert refused.detail(error_details_pb2.ErrorInfo).reason == "REQUEST_MALFORMED"
    assert "kubevend.v1.IssueTokenRequest" in refused.status.message


async def test_a_broken_rule_becomes_a_bad_request(world: World) -> None:
    """A request whose fields break rules is INVALID_ARGUMENT with BadRequest."""
    refused = await _refused(world, "GetRole", rs.GetRoleRequest(name="ci").SerializeToString())
    (violation,) = refused.detail(error_details_pb2.BadRequest).field_violations
    assert (refused.status.code, violation.field) == (code_pb2.INVALID_ARGUMENT, "name")


async def test_nobody_learns_of_rules_without_a_credential(world: World) -> None:
    """Who calls comes before what is asked."""
    refused = await _refused(world, "IssueToken", b"\xff", authorization="Bearer nobody")
    assert refused.status.code == code_pb2.UNAUTHENTICATED


async def test_a_defect_is_internal_and_tells_nothing(world: World) -> None:
    """An exception that nobody foresaw is INTERNAL with the request's id, and its text goes nowhere near the caller
    or the audit log, which says that the call failed.
    """

    async def broken(_call: Call) -> Message:
        raise RuntimeError("the secret cause")

    behave = behavior(ISSUE_TOKEN, broken, world.interceptors)
    sent = {"authorization": f"Bearer {ADMIN_TOKEN}", "x-request-id": UUID}
    with pytest.raises(Refused) as refused:
        await behave(sending(iss.IssueTokenRequest(role="roles/ci").SerializeToString()), context(sent))
    assert refused.value.status.code == code_pb2.INTERNAL
    assert refused.value.detail(error_details_pb2.ErrorInfo).reason == "DEFECT"
    assert UUID in refused.value.status.message
    assert b"secret cause" not in refused.value.status.SerializeToString()
    assert "secret cause" not in world.audit_file.read_text()
    assert [(line["outcome"], line["reason"], line["status"]) for line in world.lines()] == [
        ("OUTCOME_FAILED", "DEFECT", "INTERNAL")
    ]


@given(payload=st.binary(max_size=60), name=st.sampled_from(["UpdateRole", "UpdateConfig", "CreateRole", "ListLeases"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
async def test_no_bytes_are_a_defect(world: World, payload: bytes, name: str) -> None:
    """Whatever bytes come for whatever method, the answer is never INTERNAL."""
    try:
        await world.send(name, payload)
    except Refused as refused:
        code = refused.status.code
        assert code != code_pb2.INTERNAL


# A caller who gives up.


class Work:
    """A handler that waits until it is told to go on."""

    def __init__(self) -> None:
        """Wait."""
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.irrevocable = False
        self.ended = ""

    async def handle(self, call: Call) -> Message:
        """Work."""
        call.irrevocable = self.irrevocable
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "done"
        return iss.IssueTokenResponse()


async def _give_up(world: World, work: Work) -> None:
    behave = behavior(ISSUE_TOKEN, work.handle, world.interceptors)
    payload = iss.IssueTokenRequest(role="roles/ci").SerializeToString()
    task = asyncio.ensure_future(behave(sending(payload), context({"authorization": f"Bearer {ADMIN_TOKEN}"})))
    await work.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    work.go_on.set()
    await world.recorder.drain()


async def test_a_call_that_is_given_up_in_time_is_cancelled(world: World) -> None:
    """Before anything was done, the work ends with its caller, and the log says so."""
    work = Work()
    await _give_up(world, work)
    assert work.ended == "cancelled"
    assert [(line["outcome"], line["status"]) for line in world.lines()] == [("OUTCOME_CANCELLED", "CANCELLED")]


async def test_a_call_that_is_given_up_too_late_is_carried_to_its_end(world: World) -> None:
    """Once it is irrevocable, the work goes on without its caller, and the log says what was done."""
    work = Work()
    work.irrevocable = True
    await _give_up(world, work)
    assert work.ended == "done"
    assert [(line["outcome"], line["status"]) for line in world.lines()] == [("OUTCOME_ABANDONED", "OK")]


async def test_a_call_that_is_given_up_at_once_leaves_its_line(world: World) -> None:
    """A caller who goes away before the work has begun leaves a line too, and the work is not done."""
    work = Work()
    behave = behavior(ISSUE_TOKEN, work.handle, world.interceptors)
    payload = iss.IssueTokenRequest(role="roles/ci").SerializeToString()
    task = asyncio.ensure_future(behave(sending(payload), context({"authorization": f"Bearer {ADMIN_TOKEN}"})))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.recorder.drain()
    assert work.ended in ("", "cancelled")
    assert [line["outcome"] for line in world.lines()] == ["OUTCOME_CANCELLED"]


@pytest.mark.parametrize(
    ("request_", "outcome"),
    [(iss.IssueTokenRequest(role="ci"), "INVALID_ARGUMENT"), (iss.IssueTokenRequest(role="roles/none"), "NOT_FOUND")],
)
async def test_calls_are_counted_by_status_and_reason(world: World, request_: Message, outcome: str) -> None:
    """Each call that ends is counted once, under its method, status and reason."""
    with pytest.raises(Refused) as refused:
        await world.call(request_)
    reason = refused.value.detail(error_details_pb2.ErrorInfo).reason
    labels = {"method": "kubevend.v1.IssueService/IssueToken", "status": outcome, "reason": reason}
    assert world.registry.get_sample_value("kubevend_calls_total", labels) == 1
    assert world.registry.get_sample_value("kubevend_issuance_failures_total", {"reason": reason}) == 1
