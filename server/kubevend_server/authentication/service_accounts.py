"""Kubernetes ServiceAccounts as callers, checked by TokenReview at the cluster that issued their tokens."""

from __future__ import annotations

import re
import shlex
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from kubevend_server.authentication.claims import Claims
from kubevend_server.authentication.flights import Flights
from kubevend_server.callers import Caller, service_account
from kubevend_server.cluster.connection import Connection
from kubevend_server.cluster.credentials import Presented
from kubevend_server.cluster.reviews import Reviewed, review_token
from kubevend_server.errors import KubevendError, Unauthenticated, Unavailable
from kubevend_server.text import shown

AUDIENCE = "kubevend"
"""The audience of a token by which a ServiceAccount calls kubevend, unless the settings name another."""

_log = structlog.get_logger()

_LONGEST_ISSUER = 200
_SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"

# pkg/serviceaccount/claims.go and jwt.go of Kubernetes, and what the API server says of every token.
_TELLABLE = re.compile(r"invalid bearer token|[Tt]oken is expired|(?:service account )?[Tt]oken has [a-z ]{1,40}")

_Answer = Caller | Unauthenticated | Unavailable
_Remembered = OrderedDict[bytes, tuple[float, Caller | Unauthenticated]]


@dataclass(frozen=True, slots=True)
class CallerCluster:
    """A cluster whose ServiceAccounts may call.

    Attributes:
        name: what the settings call it; it becomes part of the callers' names.
        connection: how it is asked.
        issuers: the `iss` of its tokens; empty for any.
    """

    name: str
    connection: Connection
    issuers: tuple[str, ...] = ()


@dataclass(slots=True)
class ServiceAccounts:
    """Tells which ServiceAccount a token is of.

    Attributes:
        clusters: those whose ServiceAccounts may call.
        audience: which their tokens must have.
        remember: seconds for which an answer of a cluster, a refusal too, is used again.
        monotonic: ages what is remembered.
        most: how many answers are remembered, and how many refusals beside them.
    """

    clusters: Sequence[CallerCluster]
    audience: str
    remember: float
    monotonic: Callable[[], float] = time.monotonic
    most: int = 10_000
    _accepted: _Remembered = field(default_factory=OrderedDict, repr=False)
    # Apart from them, so that a flood of tokens which nobody accepts drives out none that somebody did.
    _refused: _Remembered = field(default_factory=OrderedDict, repr=False)
    _flights: Flights[bytes, _Answer] = field(default_factory=Flights, repr=False)

    def remembered(self, digest: bytes) -> Caller | None:
        """Who showed the token of this SHA-256 a moment ago, if anybody did.

        Raises:
            Unauthenticated: it was refused then.
        """
        known = self._accepted.get(digest) or self._refused.get(digest)
        return _settled(known[1]) if known is not None and known[0] > self.monotonic() else None

    async def authenticate(self, token: str, digest: bytes, claims: Claims) -> Caller:
        """Ask the cluster that issues such tokens whose this one is; who shows the same meanwhile waits for the answer.

        Args:
            token: the token.
            digest: its SHA-256.
            claims: what it says of itself, unproven.

        Raises:
            Unauthenticated: nobody's who may call; the message says what is wrong.
            Unavailable: the cluster that knows cannot be asked.
        """
        self._check(token, claims)
        return _settled(await self._flights.join(digest, lambda: self._ask(token, digest, claims)))

    async def _ask(self, token: str, digest: bytes, claims: Claims) -> _Answer:
        began = self.monotonic()
        answer = await self._review(token, claims.issuer)
        self._accepted.pop(digest, None)
        self._refused.pop(digest, None)
        if not isinstance(answer, Unavailable):
            remembered = self._accepted if isinstance(answer, Caller) else self._refused
            remembered[digest] = (began + min(self.remember, claims.life), answer)
            while len(remembered) > self.most:
                remembered.popitem(last=False)
        return answer

    def _check(self, token: str, claims: Claims) -> None:
        """Refuse what the token itself shows to be of no use, before a cluster is troubled."""
        if self.audience not in claims.audiences:
            raise Unauthenticated(
                "TOKEN_AUDIENCE",
                f"The bearer token is not meant for kubevend: its audience must be {self.audience!r}. In a pod, "
                f"project a serviceAccountToken volume with that audience; by hand, {self._make_another(token)}.",
            )
        if claims.life <= 0:
            raise Unauthenticated(
                "TOKEN_EXPIRED",
                f"The bearer token expired at {claims.expires.isoformat(timespec='seconds')}: get a fresh one. In a "
                f"pod, read the projected file again; by hand, {self._make_another(token)}.",
            )

    def _make_another(self, token: str) -> str:
        """The command that makes a token for kubevend, for the same ServiceAccount where the old one says which."""
        namespace, name = Presented(token).owner() or ("NAMESPACE", "NAME")
        audience = shlex.quote(f"--audience={self.audience}")
        return f"`kubectl create token {name} --namespace={namespace} {audience}` makes one"

    async def _review(self, token: str, issuer: str) -> _Answer:
        candidates = [c for c in self.clusters if not c.issuers or issuer in c.issuers]
        reasons = []
        unchecked: Unavailable | None = None
        for cluster in candidates:
            try:
                reviewed = await review_token(cluster.connection, token, self.audience)
            except KubevendError as error:
                unchecked = _not_checked(cluster, error)
                continue
            if reviewed.authenticated:
                return _service_account(cluster.name, reviewed)
            reasons.append(f"{cluster.name}: {_why_not(cluster, reviewed.error)}")
        if unchecked is not None:
            return unchecked
        if not candidates:
            return Unauthenticated(
                "TOKEN_FOREIGN",
                "No cluster whose ServiceAccounts may call here issues such tokens, and no issuer of the settings. The "
                f"bearer token's iss is {shown(issuer, _LONGEST_ISSUER)!r}; the settings must have exactly "
                "that, and count from a start of the server on.",
            )
        return Unauthenticated("TOKEN_REJECTED", f"The bearer token was not accepted ({'; '.join(reasons)}).")


def _not_checked(cluster: CallerCluster, error: KubevendError) -> Unavailable:
    # Hosts, files and identities are not for somebody whom nobody knows yet.
    _log.warning("caller_not_checked", cluster=cluster.name, reason=error.reason, error=error.message)
    return Unavailable(
        "CALLER_NOT_CHECKED",
        f"Whose token it is could not be checked at the cluster {cluster.name!r} ({error.reason}). Try again; the "
        "server's operator finds more in its log.",
        metadata={"cluster": cluster.name, "cause": error.reason},
    )


def _why_not(cluster: CallerCluster, error: str) -> str:
    """Why a cluster does not accept a token, as far as that is for somebody whom nobody knows yet.

    What it has besides ServiceAccounts (OIDC, webhooks) speaks up too, with client ids and addresses.
    """
    told = [part for part in re.split(r", |[\[\]]", error) if _TELLABLE.fullmatch(part)]
    if error:
        _log.info("token_not_accepted", cluster=cluster.name, error=error)
    return ", ".join(told) or "not valid"


def _service_account(cluster: str, reviewed: Reviewed) -> Caller | Unauthenticated:
    namespace, _, name = reviewed.username.removeprefix(_SERVICE_ACCOUNT_PREFIX).partition(":")
    if not reviewed.username.startswith(_SERVICE_ACCOUNT_PREFIX) or not name:
        return Unauthenticated("TOKEN_NOT_SERVICE_ACCOUNT", "The bearer token is valid, but not a ServiceAccount's.")
    return service_account(cluster, namespace, name, reviewed.jti, pod=reviewed.pod, node=reviewed.node)


def _settled(answer: _Answer) -> Caller:
    if isinstance(answer, Caller):
        return answer
    # A new one: an exception that is raised twice gathers tracebacks.
    raise type(answer)(answer.reason, answer.message, metadata=answer.metadata)
