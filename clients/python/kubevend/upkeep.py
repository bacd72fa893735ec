"""How one token is kept good: every decision, and no I/O. `source` and `aio.source` do what is decided here."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

from kubevend.errors import DeadlineExceeded, KubevendError, Unavailable
from kubevend.listeners import Failed, Refused, Renewed, Revoked, Told
from kubevend.tokens import Token, new_request_id
from kubevend.v1 import issue_service_pb2 as pb

PERMANENT = {
    "CLIENT",
    "FAILED_PRECONDITION",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "UNIMPLEMENTED",
}
"""The codes of refusals, which waiting alone does not put right."""

_OF_REQUEST_IDS = {"ALREADY_EXISTS", "FAILED_PRECONDITION", "INVALID_ARGUMENT"}

_FIRST_ANSWER_SECONDS = 30.0
"""How long a stream that was just opened may be silent."""

_MARGIN_SECONDS, _MARGIN = 10.0, 0.1
"""So long before its end a token is no longer handed out, and at most for this part of its life."""

_LATEST = 0.85
"""The part of a token's life after which a stream that has not brought the next one is taken for dead."""

_SOON_SECONDS = 60.0
"""A token that is dropped so soon after it came makes its successor wait, the longer the more often that happens."""

_TEMPORARY_SECONDS = (0.0, 0.5)
_REFUSED_SECONDS = (5.0, 10.0)
"""The bounds of the first pause after a failure, and after a refusal. The upper one doubles each time."""

_LONGEST_PAUSE_SECONDS = 30.0


def now() -> float:
    """Seconds that pass however the time of day is set, and while a machine sleeps, where its system counts that."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)


@dataclass(frozen=True, slots=True)
class _Held:
    """A token, when it came, and until when it is handed out: by the clock, in seconds.

    Its life is counted from its arrival, by a clock that nobody sets: the time of day may be wrong, here or there.
    """

    token: Token
    since: float
    usable_until: float


class Upkeep:
    """What is held, what went wrong, and what to do when. To be used by one thread at a time."""

    def __init__(
        self,
        request: pb.IssueTokenRequest,
        clock: Callable[[], float] = now,
        spread: Callable[[float, float], float] = random.uniform,
        new_id: Callable[[], str] = new_request_id,
    ) -> None:
        """Take what each token is to be, and where time and chance come from.

        Args:
            request: without a `request_id`.
            clock: in seconds, from any beginning; never set back.
            spread: a random number between two.
            new_id: makes request ids.
        """
        self._request = request
        self._clock = clock
        self._new_id = new_id
        self._request_id = new_id()
        self._held: _Held | None = None
        self._failures = _Pauses(spread)
        self._drops = _Pauses(spread)
        self._due = clock()
        self._open = False  # a stream is
        self._answered = False  # it has brought a token
        self._id_refused = False  # the request id of late
        self._warned = False  # listeners, since the last token, that there will be no other
        self.error: KubevendError | None = None
        self._told: KubevendError | None = None

    @property
    def pause(self) -> float:
        """In how many seconds to open a stream. One that is open then is to be ended first, and not listened to."""
        return max(0.0, self._due - self._clock())

    @property
    def refusal(self) -> KubevendError | None:
        """Why waiting for a token is of no use, if that is so."""
        return self.error if self.error and self.error.code in PERMANENT else None

    def current(self) -> Token | None:
        """The token, if one is held that is good."""
        held = self._held
        return held.token if held is not None and self._clock() < held.usable_until else None

    def failure(self, waited: float) -> KubevendError:
        """What to tell somebody who has waited in vain, so many seconds: each an error of their own."""
        if self.error is not None:
            return copy(self.error)
        return DeadlineExceeded(
            f"No token came within {waited:g} s, and nothing was heard of kubevend.",
            code="DEADLINE_EXCEEDED",
            reason="NO_TOKEN_IN_TIME",
        )

    def failures(self) -> list[Told]:
        """What went wrong and was not told yet, which is then told."""
        before, self._told = self._told, self.error
        return [Failed(self.error)] if self.error is not None and self.error is not before else []

    def open(self) -> pb.StreamTokensRequest:
        """What to open a stream with, now."""
        now = self._clock()
        if self._open and self.error is None:
            self.error = Unavailable(
                "The stream of tokens brought nothing in time, and was opened anew.",
                code="UNAVAILABLE",
                reason="STREAM_SILENT",
            )
        self._open, self._answered = True, False
        self._due = now + _FIRST_ANSWER_SECONDS
        request = pb.StreamTokensRequest(issue=self._request)
        request.issue.request_id = self._request_id
        return request

    def heard(self, answer: pb.StreamTokensResponse) -> list[Told]:
        """Take what the stream brought."""
        if not self._open:
            return []
        if answer.HasField("token"):
            return self._renewed(answer)
        if answer.notice.reason == "LEASE_REVOKED":
            return self._revoked(answer.notice.lease, answer.notice.message)
        return []  # of any other notice the end of the stream says the same, and more

    def ended(self, error: KubevendError | None) -> list[Told]:
        """Take it that the stream has ended, and how."""
        if not self._open:
            return []
        self._open = False
        error = error or Unavailable("The stream of tokens ended.", code="UNAVAILABLE", reason="STREAM_ENDED")
        if error.reason == "LEASE_REVOKED" and self._held is not None:  # and its notice did not arrive
            return self._revoked(self._held.token.lease, error.message)
        at_once = self._is_no_failure(error)
        self.error = None if at_once else error
        least = error.retry_after.total_seconds() if error.retry_after else 0.0
        bounds = _REFUSED_SECONDS if self.refusal else _TEMPORARY_SECONDS
        self._due = self._clock() + max(least, 0.0 if at_once else self._failures.next(*bounds))
        if self._warned or not self.refusal or not self.current():
            return []
        self._warned = True
        return [Refused(error)]

    def invalidate(self, token: str) -> bool:
        """Take it that somebody was refused with a token: whether it was the current one, which is then dropped."""
        if self._held is None or self._held.token.token != token:
            return False
        self._drop()
        return True

    def _renewed(self, answer: pb.StreamTokensResponse) -> list[Told]:
        now = self._clock()
        token = Token.of(answer.token)
        life = token.granted_ttl.total_seconds()
        self._held = _Held(token, now, now + life - min(_MARGIN_SECONDS, _MARGIN * life))
        self._due = now + max(_LATEST * life, _life_before_next(answer))
        self._answered, self._warned, self._id_refused, self.error = True, False, False, None
        self._failures.reset()
        return [Renewed(token)]

    def _revoked(self, lease: str, message: str) -> list[Told]:
        if self._held is not None and lease == self._held.token.lease:
            self._drop()
        return [Revoked(lease, message)]

    def _drop(self) -> None:
        """Hold nothing, and ask for something new: at once, unless that happens again and again."""
        now = self._clock()
        if self._held is not None and now - self._held.since > _SOON_SECONDS:
            self._drops.reset()
        self._held, self.error, self._open = None, None, False
        self._request_id = self._new_id()
        self._due = now + self._drops.next(*_TEMPORARY_SECONDS, at_once=1)

    def _is_no_failure(self, error: KubevendError) -> bool:
        """Whether what ended the stream is put right by opening it again at once."""
        if error.code in _OF_REQUEST_IDS and error.reason.startswith("REQUEST_ID_"):
            again, self._id_refused = self._id_refused, True
            self._request_id = self._new_id()
            return not again
        # Another server takes over; or the stream's own credential has ended, and the next one is in the file already.
        return self._answered and (error.reason == "SERVER_STOPPING" or error.code == "UNAUTHENTICATED")


class _Pauses:
    """Pauses that grow, with chance in them, so that those who failed together do not come again together."""

    def __init__(self, spread: Callable[[float, float], float]) -> None:
        self._spread = spread
        self.count = 0

    def next(self, low: float, high: float, at_once: int = 0) -> float:
        """The next pause in seconds; so many of the first are none."""
        doublings = self.count - at_once
        self.count += 1
        if doublings < 0:
            return 0.0
        return self._spread(low, min(_LONGEST_PAUSE_SECONDS, high * 2 ** min(doublings, 10)))

    def reset(self) -> None:
        """Begin again with the shortest."""
        self.count = 0


def _life_before_next(answer: pb.StreamTokensResponse) -> float:
    """Until when in a token's life, in seconds, its successor is not overdue, where the server sends it late.

    Half of what is left when the server means to send it. All three times are the server's.
    """
    if not answer.HasField("next_token_time"):
        return 0.0
    left = (answer.token.expiration.ToDatetime() - answer.next_token_time.ToDatetime()).total_seconds()
    return answer.token.granted_ttl.ToTimedelta().total_seconds() - max(0.0, left) / 2
