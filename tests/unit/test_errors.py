from __future__ import annotations

import base64
from datetime import timedelta
from urllib.parse import quote

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server import errors
from kubevend_server.cluster.failures import AnchorGone, Forbidden, Unauthorized
from kubevend_server.errors import KubevendError, Violation, to_status

STATUSES = {
    errors.InvalidArgument: "INVALID_ARGUMENT",
    errors.Unauthenticated: "UNAUTHENTICATED",
    errors.PermissionDenied: "PERMISSION_DENIED",
    errors.NotFound: "NOT_FOUND",
    errors.AlreadyExists: "ALREADY_EXISTS",
    errors.Aborted: "ABORTED",
    errors.FailedPrecondition: "FAILED_PRECONDITION",
    errors.ResourceExhausted: "RESOURCE_EXHAUSTED",
    errors.OverLimit: "RESOURCE_EXHAUSTED",
    errors.DeadlineExceeded: "DEADLINE_EXCEEDED",
    errors.Unavailable: "UNAVAILABLE",
    errors.OutcomeUnknown: "UNKNOWN",
    errors.Internal: "INTERNAL",
    Unauthorized: "FAILED_PRECONDITION",
    AnchorGone: "ABORTED",
    Forbidden: "FAILED_PRECONDITION",
}


def _all_errors(root: type[KubevendError]) -> set[type[KubevendError]]:
    return {found for child in root.__subclasses__() for found in {child, *_all_errors(child)}}


def _status(error: KubevendError, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=error.code, message=error.message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def test_the_tree_has_no_error_that_is_not_tested() -> None:
    """Every error class of the server stands in the table of this test."""
    assert {error for error in _all_errors(KubevendError) if error.__module__.startswith("kubevend_server")} == set(
        STATUSES
    )


@pytest.mark.parametrize(("error", "status"), STATUSES.items())
def test_a_class_is_a_status(error: type[KubevendError], status: str) -> None:
    """Each class has its gRPC status, by name and by number."""
    made = error("SOME_REASON", "What to do.")
    assert (made.status, made.code, str(made)) == (status, code_pb2.Code.Value(status), "What to do.")


@pytest.mark.parametrize("error", STATUSES)
def test_every_status_has_error_info_and_request_info(error: type[KubevendError]) -> None:
    """Whatever the error, the wire has its reason, our domain and the request's id; a failed precondition is named as
    such, and nothing else is added.
    """
    made = error("SOME_REASON", "What to do.", metadata={"subject": "configs/a", "fact": "x"})
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason="SOME_REASON", domain="kubevend.dev", metadata={"subject": "configs/a", "fact": "x"}
        ),
        error_details_pb2.RequestInfo(request_id="id-1"),
    ]
    if issubclass(error, errors.FailedPrecondition):
        violation = error_details_pb2.PreconditionFailure.Violation(
            type="SOME_REASON", subject="configs/a", description="What to do."
        )
        details.append(error_details_pb2.PreconditionFailure(violations=[violation]))
    assert to_status(made, "id-1") == _status(made, *details)


def test_violations_become_a_bad_request() -> None:
    """Each field at fault is a violation of BadRequest, in order."""
    made = errors.InvalidArgument("X", "m", violations=[Violation("a.b", "must"), Violation("c[0]", "may not")])
    assert to_status(made, "id-1") == _status(
        made,
        error_details_pb2.ErrorInfo(reason="X", domain="kubevend.dev"),
        error_details_pb2.RequestInfo(request_id="id-1"),
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field="a.b", description="must"),
                error_details_pb2.BadRequest.FieldViolation(field="c[0]", description="may not"),
            ]
        ),
    )


def test_a_known_delay_becomes_retry_info() -> None:
    """When to come again stands in RetryInfo, fractions of a second too."""
    made = errors.ResourceExhausted("X", "m", retry_after=timedelta(seconds=2.5))
    assert to_status(made, "id-1") == _status(
        made,
        error_details_pb2.ErrorInfo(reason="X", domain="kubevend.dev"),
        error_details_pb2.RequestInfo(request_id="id-1"),
        error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000)),
    )


LONG = st.tuples(st.sampled_from(["a", "é", "%", "😀", "a\x00"]), st.sampled_from([1, 400, 2000, 200_000])).map(
    lambda of: of[0] * of[1]
)


@given(
    error=st.sampled_from(sorted(STATUSES, key=lambda error: error.__name__)),
    message=LONG,
    facts=st.lists(LONG, max_size=8),
    fields=st.lists(LONG, max_size=20),
)
def test_every_error_fits_into_the_trailers(
    error: type[KubevendError], message: str, facts: list[str], fields: list[str]
) -> None:
    """Whatever is in an error, it is small enough to arrive, with its reason and a field at fault."""
    made = error(
        "REASON",
        message,
        metadata={f"fact_{number}": fact for number, fact in enumerate(facts)},
        violations=[Violation(field, "must match a pattern") for field in fields],
        retry_after=timedelta(seconds=1),
    )
    status = to_status(made, "5f0c7f3e-64a7-4f11-8f0e-2e1f735629c1")
    on_the_wire = len(quote(status.message, safe=" ")) + len(base64.b64encode(status.SerializeToString()))
    # What gRPC adds: :status, content-type, grpc-status, the names of the two, and 32 bytes for each.
    assert on_the_wire + 250 <= 8192
    kinds = [detail.TypeName() for detail in status.details]
    assert kinds[:3] == ["google.rpc.ErrorInfo", "google.rpc.RequestInfo", "google.rpc.RetryInfo"]
    assert not fields or "google.rpc.BadRequest" in kinds or isinstance(made, errors.FailedPrecondition)


def test_what_is_too_long_is_cut_where_it_shows() -> None:
    """A message, a fact and a path that are too long end in an ellipsis, and what is short stays as it is."""
    made = errors.InvalidArgument(
        "X", "m" * 1800, metadata={"long": "é" * 3000, "short": "s"}, violations=[Violation("p" * 3000, "must")]
    )
    status = to_status(made, "id-1")
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[2].Unpack(request)
    assert status.message == "m" * 1491 + "…"
    assert dict(info.metadata) == {"long": "é" * 598 + "…", "short": "s"}
    assert request.field_violations[0].field == "p" * 397 + "…"
