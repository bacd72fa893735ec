"""How the Python library keeps one token good: each decision, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubevend.errors import KubevendError, kind_of
from kubevend.listeners import Failed, Refused, Renewed, Revoked, Told
from kubevend.tokens import Token
from kubevend.upkeep import Upkeep
from kubevend.v1 import issue_service_pb2 as pb

LIFE = 600.0


@dataclass
class World:
    """An upkeep, its clock, and the greatest pause each time where chance has a say."""

    time: float = 1000.0
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = count(1)

        def new_id() -> str:
            self.ids.append(f"id-{next(numbers)}")
            return self.ids[-1]

        request = pb.IssueTokenRequest(role="roles/ci", namespace="apps")
        self.upkeep = Upkeep(request, lambda: self.time, lambda _, most: most, new_id)

    def open(self) -> str:
        """Open the stream, whose time it must be; its request id."""
        assert self.upkeep.pause == 0
        issue = self.upkeep.open().issue
        assert (issue.role, issue.namespace) == ("roles/ci", "apps")
        return issue.request_id

    def hear(self, name: str = "one", life: float = LIFE, renew_after: float | None = 0.67) -> list[Told]:
        """Hear a token."""
        return self.upkeep.heard(token(name, life, renew_after))

    def notice(self, reason: str, lease: str = "leases/one") -> list[Told]:
        """Hear a notice."""
        return self.upkeep.heard(
            pb.StreamTokensResponse(notice=pb.StreamNotice(reason=reason, message="why", lease=lease))
        )

    def end(self, code: str = "UNAVAILABLE", reason: str = "", retry_after: float | None = None) -> list[Told]:
        """Have the stream end."""
        return self.upkeep.ended(failed(code, reason, retry_after))

    def current(self) -> str | None:
        """The name of the token that is handed out."""
        current = self.upkeep.current()
        return current.token if current else None


def token(name: str, life: float = LIFE, renew_after: float | None = 0.67) -> pb.StreamTokensResponse:
    """A stream's answer with a token. The server's time of day is far from ours."""
    answer = pb.StreamTokensResponse(token=pb.IssueTokenResponse(token=name, lease=f"leases/{name}", jti=name))
    issued = datetime(1999, 1, 1, tzinfo=UTC)
    answer.token.granted_ttl.FromTimedelta(timedelta(seconds=life))
    answer.token.expiration.FromDatetime(issued + timedelta(seconds=life))
    if renew_after is not None:
        answer.next_token_time.FromDatetime(issued + timedelta(seconds=life * renew_after))
    return answer


def failed(code: str = "UNAVAILABLE", reason: str = "", retry_after: float | None = None) -> KubevendError:
    """An error of a call."""
    after = None if retry_after is None else timedelta(seconds=retry_after)
    return kind_of(code)("why", code=code, reason=reason, retry_after=after)


@pytest.fixture
def world() -> World:
    """One that has done nothing yet."""
    return World()


@pytest.fixture
def supplied(world: World) -> World:
    """One with an open stream and token `one`."""
    world.open()
    world.hear()
    return world


@pytest.mark.parametrize(("life", "usable"), [(600.0, 590.0), (100.0, 90.0), (60.0, 54.0), (3600.0, 3590.0)])
def test_validity_is_counted_from_arrival(world: World, life: float, usable: float) -> None:
    """A token is handed out for its granted life from its arrival on, less a margin, whatever the times of day say."""
    world.open()
    assert world.current() is None
    assert world.hear(life=life) == [Renewed(Token.of(token("one", life).token))]
    arrived = world.time

    world.time = arrived + usable - 0.001
    assert world.current() == "one"
    world.time = arrived + usable
    assert world.current() is None


@pytest.mark.parametrize(
    ("renew_after", "part"), [(0.67, 0.85), (None, 0.85), (0.005, 0.85), (0.9, 0.95), (0.98, 0.99), (1.5, 1.0)]
)
def test_a_silent_stream_is_opened_anew(world: World, renew_after: float | None, part: float) -> None:
    """Without the next token at 85 % of the life, or later where the server means to send it later, it is dead."""
    first = world.open()
    world.hear(renew_after=renew_after)

    assert world.upkeep.pause == pytest.approx(LIFE * part)
    world.time += LIFE * part + 0.001
    assert world.open() == first
    assert world.upkeep.failure(1).reason == "STREAM_SILENT"


def test_an_opening_without_an_answer_is_given_up(world: World) -> None:
    """A stream that brings nothing at all is opened anew every 30 s, and whoever waits in vain is told that."""
    world.open()
    assert world.upkeep.pause == 30
    assert world.upkeep.failure(2).code == "DEADLINE_EXCEEDED"

    world.time += 30
    world.open()
    assert world.upkeep.pause == 30
    assert world.upkeep.failure(2).reason == "STREAM_SILENT"
    assert world.upkeep.refusal is None


def test_failures_back_off_and_a_token_resets(supplied: World) -> None:
    """Pauses double from half a second to half a minute; the token is served; a new one begins from the start."""
    pauses = []
    for _ in range(9):
        supplied.end()
        pauses.append(supplied.upkeep.pause)
        supplied.time += supplied.upkeep.pause
        supplied.open()
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert supplied.current() == "one"

    supplied.hear("two")
    supplied.end()
    assert supplied.upkeep.pause == 0.5


def test_a_retry_delay_is_waited_for(supplied: World) -> None:
    """Where kubevend says when to come again, nobody comes earlier."""
    supplied.end("RESOURCE_EXHAUSTED", "CALLER_LIMIT", retry_after=7)
    assert supplied.upkeep.pause == 7
    assert supplied.upkeep.refusal is None


def test_a_server_that_stops_is_left_at_once(supplied: World) -> None:
    """After a clean SERVER_STOPPING the stream is opened at once, but only once: a server that is gone needs time."""
    supplied.end("UNAVAILABLE", "SERVER_STOPPING", retry_after=0)
    supplied.open()
    supplied.end("UNAVAILABLE", "SERVER_STOPPING", retry_after=0)
    assert supplied.upkeep.pause == 0.5


@pytest.mark.parametrize(
    "code",
    [
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "FAILED_PRECONDITION",
        "UNIMPLEMENTED",
        "CLIENT",
    ],
)
def test_refusals_are_told_at_once_and_asked_about_rarely(world: World, code: str) -> None:
    """Who has no token learns of a permanent refusal without waiting, and kubevend is asked again after 5 s or more."""
    world.open()
    assert world.end(code, "WHY") == []
    assert world.upkeep.refusal is not None
    assert world.upkeep.failure(1).reason == "WHY"
    assert world.upkeep.failure(1) is not world.upkeep.failure(1)
    lowest = Upkeep(pb.IssueTokenRequest(), lambda: 0.0, lambda least, _: least)
    lowest.open()
    lowest.ended(failed(code))
    assert lowest.pause == 5

    world.time += world.upkeep.pause
    world.open()
    world.hear()
    assert world.upkeep.refusal is None
    assert world.current() == "one"


@pytest.mark.parametrize(
    "code",
    ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "CANCELLED"],
)
def test_other_failures_are_waited_out(world: World, code: str) -> None:
    """After any other failure whoever waits goes on waiting, and gets it as the last one in the end."""
    world.open()
    world.end(code, "WHY")
    assert world.upkeep.refusal is None
    assert (world.upkeep.failure(1).code, world.upkeep.failure(1).reason) == (code, "WHY")


def test_a_stream_that_ends_without_a_word_is_a_failure(supplied: World) -> None:
    """A stream that is closed without an error is opened again like one that failed."""
    supplied.upkeep.ended(None)
    assert (supplied.upkeep.failure(1).reason, supplied.upkeep.pause) == ("STREAM_ENDED", 0.5)


def test_openings_share_a_request_id(supplied: World) -> None:
    """After an outage the same request id is sent, so that the same lease is answered with."""
    supplied.end()
    supplied.time += 1
    assert supplied.open() == "id-1"
    supplied.hear("two")
    supplied.end()
    supplied.time += 1
    assert supplied.open() == "id-1"


@pytest.mark.parametrize("notice", [True, False])
def test_a_revoked_token_is_dropped_and_asked_for_anew(supplied: World, notice: bool) -> None:
    """The end of a lease drops its token, tells who listens once, and asks under a new request id at once."""
    told = supplied.notice("LEASE_REVOKED") if notice else []
    told += supplied.end("ABORTED", "LEASE_REVOKED")

    assert told == [Revoked("leases/one", "why")]
    assert supplied.current() is None
    assert supplied.open() == "id-2"


def test_the_end_of_another_lease_drops_nothing(supplied: World) -> None:
    """A notice about a lease whose token is not held is told, and no more."""
    assert supplied.notice("LEASE_REVOKED", "leases/other") == [Revoked("leases/other", "why")]
    assert supplied.current() == "one"


def test_nothing_of_a_dropped_stream_is_heard(supplied: World) -> None:
    """What arrives on a stream after its token was dropped is not taken for the next token."""
    supplied.notice("LEASE_REVOKED")
    assert supplied.hear("late") == []
    assert supplied.current() is None


def test_a_notice_of_refusal_is_told_once(supplied: World) -> None:
    """When no further token is allowed, listeners get the error once, and the token is served until its end."""
    assert supplied.notice("ACCESS_DENIED") == []
    (told,) = supplied.end("PERMISSION_DENIED", "ACCESS_DENIED")
    assert isinstance(told, Refused)
    assert (told.error.code, told.error.reason) == ("PERMISSION_DENIED", "ACCESS_DENIED")
    assert supplied.current() == "one"
    supplied.time += supplied.upkeep.pause
    supplied.open()
    assert supplied.end("PERMISSION_DENIED", "ACCESS_DENIED") == []
    supplied.time += LIFE
    assert supplied.current() is None
    assert supplied.upkeep.refusal is not None


def test_a_refusal_after_an_outage_is_told(supplied: World) -> None:
    """Who gets no further token hears of it where no notice came, too: the role may have gone in an outage."""
    supplied.end()
    supplied.time += supplied.upkeep.pause
    supplied.open()
    (told,) = supplied.end("NOT_FOUND", "ROLE_NOT_FOUND")
    assert isinstance(told, Refused)
    assert supplied.current() == "one"


def test_a_notice_of_a_temporary_failure_is_no_refusal(supplied: World) -> None:
    """A stream that ends because the cluster failed for long tells nobody that tokens are refused."""
    supplied.notice("KUBERNETES_UNREACHABLE")
    assert supplied.end("UNKNOWN", "KUBERNETES_TIMED_OUT") == []


def test_a_credential_that_ended_is_replaced_at_once(supplied: World) -> None:
    """A stream ends with the credential it was opened with; the next is tried at once, and only its refusal is told."""
    supplied.notice("TOKEN_EXPIRED")
    assert supplied.end("UNAUTHENTICATED", "TOKEN_EXPIRED") == []
    assert supplied.upkeep.pause == 0
    supplied.open()
    (told,) = supplied.end("UNAUTHENTICATED", "TOKEN_EXPIRED")
    assert isinstance(told, Refused)
    assert supplied.upkeep.pause == 10


@pytest.mark.parametrize("code", ["FAILED_PRECONDITION", "INVALID_ARGUMENT", "ALREADY_EXISTS"])
def test_a_request_id_that_is_of_no_use_is_replaced(supplied: World, code: str) -> None:
    """Refused for its request id, the stream is opened with another at once; refused again, that is a refusal."""
    supplied.end()
    supplied.time += 1
    supplied.open()
    assert supplied.end(code, "REQUEST_ID_LEASE_TOO_SHORT") == []
    assert supplied.upkeep.refusal is None
    assert supplied.open() == "id-2"

    supplied.end(code, "REQUEST_ID_LEASE_TOO_SHORT")
    assert supplied.upkeep.pause > 0
    supplied.time += supplied.upkeep.pause
    assert supplied.open() == "id-3"


def test_a_request_in_progress_keeps_its_id(supplied: World) -> None:
    """An opening that meets its own predecessor waits, and sends the same request id."""
    supplied.end("ABORTED", "REQUEST_ID_IN_PROGRESS")
    assert supplied.upkeep.pause == 0.5
    supplied.time += 0.5
    assert supplied.open() == "id-1"


def test_invalidating_drops_the_current_token_only(supplied: World) -> None:
    """Who was refused with the current token gets another, of another lease; with an older one nothing happens."""
    assert not supplied.upkeep.invalidate("other")
    assert supplied.current() == "one"
    assert supplied.upkeep.invalidate("one")
    assert supplied.current() is None
    assert not supplied.upkeep.invalidate("one")
    assert supplied.open() == "id-2"


def test_tokens_that_are_never_accepted_are_not_issued_without_end(supplied: World) -> None:
    """Tokens that are dropped soon after they came make the next one wait, longer each time, unless one lasted."""
    pauses = []
    for number in range(5):
        supplied.upkeep.invalidate(supplied.current() or "")
        pauses.append(supplied.upkeep.pause)
        supplied.time += supplied.upkeep.pause
        supplied.open()
        supplied.hear(f"token-{number}")
    assert pauses == [0, 0.5, 1, 2, 4]

    supplied.time += 61
    supplied.upkeep.invalidate(supplied.current() or "")
    assert supplied.upkeep.pause == 0


EVENTS = st.one_of(
    st.tuples(st.just("wait"), st.floats(0, 2000)),
    st.tuples(st.just("token"), st.floats(1, 4000)),
    st.tuples(st.just("end"), st.sampled_from(["UNAVAILABLE", "PERMISSION_DENIED", "UNAUTHENTICATED", "ABORTED"])),
    st.tuples(st.just("id"), st.just("FAILED_PRECONDITION")),
    st.tuples(st.just("revoke"), st.just("")),
    st.tuples(st.just("invalidate"), st.just("")),
)


@given(st.lists(EVENTS, max_size=60))
def test_whatever_happens(events: list[tuple[str, float | str]]) -> None:
    """No token is handed out after its end or its revocation, and the next attempt is never far away."""
    world = World()
    names = count()
    ends_held, dead = 0.0, set()
    for kind, value in events:
        if world.upkeep.pause == 0:
            world.open()
        if kind == "wait":
            world.time += float(value)
        elif kind == "token":
            name = f"token-{next(names)}"
            if world.hear(name, float(value)):
                ends_held = world.time + float(value)
        elif kind == "end":
            world.end(str(value))
        elif kind == "id":
            world.end(str(value), "REQUEST_ID_REUSED")
        else:
            held = world.current()
            if held and kind == "revoke":
                dead |= {held} if world.notice("LEASE_REVOKED", f"leases/{held}") else set()
            elif held:
                dead |= {held} if world.upkeep.invalidate(held) else set()
        current = world.current()
        assert current is None or (current not in dead and world.time < ends_held)
        assert world.upkeep.pause <= max(30.0, ends_held - world.time)


def test_each_failure_is_told_once(supplied: World) -> None:
    """What kept the next token from coming is told once each time that it does, and a token ends it."""
    assert supplied.upkeep.failures() == []
    supplied.end("UNAVAILABLE", "AWAY")
    (told,) = supplied.upkeep.failures()
    assert isinstance(told, Failed)
    assert told.error.reason == "AWAY"
    assert supplied.upkeep.failures() == []
    supplied.time += supplied.upkeep.pause
    supplied.open()
    supplied.end("UNAVAILABLE", "AWAY")
    assert len(supplied.upkeep.failures()) == 1
    supplied.time += supplied.upkeep.pause
    supplied.open()
    supplied.hear("two")
    assert supplied.upkeep.failures() == []
