"""Who calls: by the bootstrap admin's token, or by a Kubernetes ServiceAccount's, checked by TokenReview."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import shlex
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import jwt
import structlog

from kubevend_server.callers import BOOTSTRAP_ADMIN, Caller, service_account
from kubevend_server.clock import Clock
from kubevend_server.cluster.connection import Connection
from kubevend_server.cluster.credentials import Presented
from kubevend_server.cluster.reviews import Reviewed, review_token
from kubevend_server.encryption import read_or_make
from kubevend_server.errors import KubevendError, Unauthenticated, Unavailable
from kubevend_server.redaction import ADMIN_PREFIX, TOKEN_NOTE, redact

AUDIENCE = "kubevend"
"""The audience of a token by which a ServiceAccount calls kubevend, unless the settings name another."""

_log = structlog.get_logger()

_SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
_MOST_REMEMBERED = 10_000


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
class Authenticator:
    """Tells who calls from the `authorization` metadata.

    Attributes:
        admin_digest: the SHA-256 of the bootstrap admin's token; empty for no such admin.
        clusters: those whose ServiceAccounts may call.
        audience: which their tokens must have.
        remember: seconds for which an answer of a cluster, a refusal too, is used again.
        clock: tells expired tokens.
        monotonic: ages what is remembered.
    """

    admin_digest: bytes
    clusters: Sequence[CallerCluster]
    audience: str
    remember: float
    clock: Clock
    monotonic: Callable[[], float] = time.monotonic
    _remembered: OrderedDict[bytes, tuple[float, Caller | Unauthenticated]] = field(
        default_factory=OrderedDict, repr=False
    )

    async def authenticate(self, metadata: Mapping[str, str]) -> Caller:
        """Tell who calls.

        Raises:
            Unauthenticated: nobody, or a credential that is not accepted; the message says what is wrong.
            Unavailable: the cluster that knows cannot be asked.
        """
        token = _bearer(metadata)
        digest = hashlib.sha256(token.encode()).digest()
        if hmac.compare_digest(digest, self.admin_digest):
            return BOOTSTRAP_ADMIN
        now = self.monotonic()
        known = self._remembered.get(digest)
        if known is not None and known[0] > now:
            return _settled(known[1])
        issuer, life = self._check_claims(token)
        answer = await self._review(token, issuer)
        self._remembered[digest] = (now + min(self.remember, life), answer)
        self._remembered.move_to_end(digest)
        while len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return _settled(answer)

    def _check_claims(self, token: str) -> tuple[str, float]:
        """Refuse what the token itself shows to be of no use, before a cluster is troubled.

        Returns:
            Its issuer, and the seconds that it has left. Neither is proven before the cluster has agreed.
        """
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
            audience = claims["aud"]
            audiences = [audience] if isinstance(audience, str) else audience
            if not isinstance(audiences, list):
                raise TypeError("aud")  # noqa: TRY301 - it is what float() raises for a wrong exp
            expires = datetime.fromtimestamp(float(claims["exp"]), self.clock().tzinfo)
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            raise _refused(
                "TOKEN_MALFORMED",
                "The bearer token is neither the bootstrap admin's nor a ServiceAccount token (a JWT with "
                "aud and exp).",
            ) from error
        if self.audience not in audiences:
            raise _refused(
                "TOKEN_AUDIENCE",
                f"The bearer token is not meant for kubevend: its audience must be {self.audience!r}. In a pod, "
                f"project a serviceAccountToken volume with that audience; by hand, {self._make_another(token)}.",
            )
        life = (expires - self.clock()).total_seconds()
        if life <= 0:
            raise _refused(
                "TOKEN_EXPIRED",
                f"The bearer token expired at {expires.isoformat(timespec='seconds')}: get a fresh one. In a pod, read "
                f"the projected file again; by hand, {self._make_another(token)}.",
            )
        return str(claims.get("iss", "")), life

    def _make_another(self, token: str) -> str:
        """The command that makes a token for kubevend, for the same ServiceAccount where the old one says which."""
        namespace, name = Presented(token).owner() or ("NAMESPACE", "NAME")
        audience = shlex.quote(f"--audience={self.audience}")
        return f"`kubectl create token {name} --namespace={namespace} {audience}` makes one"

    async def _review(self, token: str, issuer: str) -> Caller | Unauthenticated:
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
            reasons.append(f"{cluster.name}: {reviewed.error or 'not valid'}")
        if unchecked is not None:
            raise unchecked
        if not candidates:
            return _refused("TOKEN_FOREIGN", "No cluster whose ServiceAccounts may call here issues such tokens.")
        return _refused("TOKEN_REJECTED", f"The bearer token was not accepted ({'; '.join(reasons)}).")


def _not_checked(cluster: CallerCluster, error: KubevendError) -> Unavailable:
    # Hosts, files and identities are not for somebody whom nobody knows yet.
    _log.warning("caller_not_checked", cluster=cluster.name, reason=error.reason, error=error.message)
    return Unavailable(
        "CALLER_NOT_CHECKED",
        f"Whose token it is could not be checked at the cluster {cluster.name!r} ({error.reason}). Try again; the "
        "server's operator finds more in its log.",
        metadata={"cluster": cluster.name, "cause": error.reason},
    )


def read_admin_digest(path: Path) -> bytes:
    """Read the bootstrap admin's token, made on the first start for its owner only, and digest it.

    Returns:
        Its SHA-256; the token itself is not kept.

    Raises:
        ValueError: the file holds no token.
    """
    token = read_or_make(path, lambda: ADMIN_PREFIX + secrets.token_urlsafe(32) + "\n").strip()
    if redact(token) != TOKEN_NOTE:
        raise ValueError(
            f"{path} holds no token: delete it, and the next start makes a new one. Its form ({ADMIN_PREFIX} and at "
            "least 32 random letters, digits, - and _) is what keeps it out of logs where somebody shows it by mistake."
        )
    return hashlib.sha256(token.encode()).digest()


def _bearer(metadata: Mapping[str, str]) -> str:
    scheme, _, token = metadata.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _refused(
            "CREDENTIAL_MISSING",
            "The call shows no credential: send the metadata `authorization: Bearer TOKEN`, with a ServiceAccount "
            "token or the bootstrap admin's.",
        )
    return token.strip()


def _service_account(cluster: str, reviewed: Reviewed) -> Caller | Unauthenticated:
    namespace, _, name = reviewed.username.removeprefix(_SERVICE_ACCOUNT_PREFIX).partition(":")
    if not reviewed.username.startswith(_SERVICE_ACCOUNT_PREFIX) or not name:
        return _refused("TOKEN_NOT_SERVICE_ACCOUNT", "The bearer token is valid, but not a ServiceAccount's.")
    return service_account(cluster, namespace, name, reviewed.jti)


def _settled(answer: Caller | Unauthenticated) -> Caller:
    if isinstance(answer, Unauthenticated):
        # A new one: an exception that is raised twice gathers tracebacks.
        raise Unauthenticated(answer.reason, answer.message, metadata=answer.metadata)
    return answer


def _refused(reason: str, message: str) -> Unauthenticated:
    return Unauthenticated(reason, message)
