"""What Kubernetes' failures mean to a caller of kubevend. docs/errors.md has a part for each reason."""

from __future__ import annotations

import os
import re
import shlex
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from kubevend_server.cluster.credentials import NOTHING, SERVICE_ACCOUNT_SUBJECT, Presented
from kubevend_server.cluster.status import Status, parse_status
from kubevend_server.errors import (
    Aborted,
    FailedPrecondition,
    KubevendError,
    OutcomeUnknown,
    ResourceExhausted,
    Unavailable,
)
from kubevend_server.text import shown

_LONGEST_MESSAGE = 600
_LONGEST_IDENTITY = 300
_DEFAULT_RETRY = timedelta(seconds=1)
_SECONDS = re.compile("[0-9]{1,5}")
# Go writes the name as %q does, with a backslash before a quote.
_IDENTITY = re.compile(r'User "((?:[^"\\]|\\.)*)" cannot')
# RBAC's own words (pkg/registry/rbac/validation/rule.go), with a line for each right that lacks.
_ESCALATION = re.compile(
    r'user "((?:[^"\\]|\\.)*)" \(groups=.*?\) is attempting to grant RBAC permissions not currently held:\n(.*)',
    re.DOTALL,
)
_LONGEST_LACK = 300
# Of the quota admission (apiserver, pkg/admission/plugin/resourcequota/controller.go).
_QUOTA = "exceeded quota: "
_OWN_POLICY = "ValidatingAdmissionPolicy 'kubevend-"
_OLD_POLICY = (
    ". This policy is kubevend's own, and does not know the roles as they are: apply what `kubevend-server rbac --all` "
    "prints, and try again after some seconds, which a policy takes to come into force."
)
_ESCALATE = (
    " (`kubevend-server rbac --all` prints them). Or, which lets whoever takes over kubevend have any right there, the "
    "right to give what it has not:"
)
_BINDINGS = ("rolebindings", "clusterrolebindings")
_SEARCHED = 4000
# In bytes, of 1,500 that reach a caller: half a command would be worse than none.
_LONGEST_WITH_COMMAND = 1490
_SERVICE_ACCOUNT = "system:serviceaccount:"

# OpenSSL's X509_V_ERR_…, https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = (62, 64)

_SHOW_CA = (
    "`kubectl config view --raw --minify --flatten -o "
    "jsonpath='{{.clusters[0].cluster.certificate-authority-data}}' | base64 -d{}` prints the CA of the cluster that "
    "kubectl reaches{}"
)
_AS_JSON = (" | awk '{printf \"%s\\\\n\", $0}'", ", as JSON takes it")
_HOST, _CA = '"kubernetesHost":"https://HOST:PORT"', '"kubernetesCaCert":"PEM"'
_LONGEST_UPDATE = 400
# What is in no file, but in the config itself.
_STORED = ('"serviceAccountJwt"', '"clientCertificate":')
_IN_CLUSTER = '"inCluster"'

_NO_URL = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)


class Redirected(aiohttp.ClientError):
    """The server answered with a redirect."""


class Unauthorized(FailedPrecondition):
    """The cluster does not accept kubevend's own credential."""


class Forbidden(FailedPrecondition):
    """RBAC does not let kubevend do what it asked for."""


class AnchorGone(Aborted):
    """The Secret that a token was to be bound to is not there, or another one has its name."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was asked of which cluster, for the words of an error.

    Attributes:
        label: where the cluster is written down, as `configs/default`.
        host: the API server's URL.
        trusts: whom to trust there, in words.
        credential: with what it is called, in words.
        what: the request in words, as `a token for ServiceAccount ns/name`.
        namespace: the namespace that it is in, or empty.
        name: the object's name, or empty.
        right: which right it takes, in words.
        grant: the command that grants that right, or empty; `{identity}` stands for the flag that says to whom.
        given: how the config's credential is given in UpdateConfig, as a member of proto JSON; empty for a cluster of
            the settings.
        audit_id: under which id Kubernetes' audit log has the request, or empty.
        mints: whether it has an effect that stays, so that nobody can tell what became of it when no answer comes.
        role: to what it binds, in words, as `ClusterRole 'view'`; or empty.
        escalation: the command that lets kubevend give rights that it has not itself, as `grant`; or empty.
        asked: whether it is done as asked, so that its namespace may be a slip.
    """

    label: str
    host: str
    trusts: str
    credential: str
    what: str
    namespace: str = ""
    name: str = ""
    right: str = ""
    grant: str = ""
    given: str = ""
    audit_id: str = ""
    mints: bool = False
    role: str = ""
    escalation: str = ""
    asked: bool = True

    def facts(self, **more: str) -> dict[str, str]:
        """The facts for `ErrorInfo.metadata`."""
        facts = {"config": self.label, "host": self.host, "namespace": self.namespace, "name": self.name, **more}
        return {"subject": self.label, **{key: value for key, value in facts.items() if value}}


def from_status(  # noqa: PLR0911 - one return for each status that means something of its own
    status: int, headers: Any, body: bytes, attempt: Attempt, presented: Presented = NOTHING
) -> KubevendError:
    """The error for an answer of the API server that is no success.

    Args:
        status: the HTTP status, 300 or more.
        headers: the answer's headers.
        body: usually a Status object (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/).
        attempt: what was asked.
        presented: the credential that was shown.
    """
    answer = parse_status(body)
    # Priority and fairness turns away in plain text, unlike all else that an API server says.
    if answer is None and status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
        return _not_kubernetes(attempt, f"it answers {status} with something that is not Kubernetes' own")
    said = "an answer that is not Kubernetes' own"
    if answer:
        said = shown(answer.message, _LONGEST_MESSAGE) or "without a reason"
    facts = attempt.facts(http_status=str(status), kubernetes_message=said)
    if status == HTTPStatus.UNAUTHORIZED:
        return _unauthorized(attempt, presented, facts)
    if status == HTTPStatus.FORBIDDEN and answer:
        return _forbidden(answer, attempt, facts)
    if status == HTTPStatus.NOT_FOUND and answer:
        return _not_found(answer, attempt, facts)
    if status == HTTPStatus.CONFLICT:
        return Aborted(
            "KUBERNETES_CONFLICT",
            f"{attempt.host} refused {attempt.what} because of a conflict: {said}. Something else changes the same "
            "object just now, or an admission webhook says so: try again.",
            metadata=facts,
            retry_after=_retry_after(headers),
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return ResourceExhausted(
            "KUBERNETES_THROTTLED",
            f"{attempt.host} throttles kubevend. Try again after the delay in RetryInfo. kubevend itself holds nothing "
            "back; the cluster's FlowSchemas and PriorityLevelConfigurations decide how much it may ask.",
            metadata=facts,
            retry_after=_retry_after(headers),
        )
    if status == HTTPStatus.GATEWAY_TIMEOUT:
        return _no_answer("KUBERNETES_TIMED_OUT", attempt, f"it answered 504: {said}")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable(
            "KUBERNETES_UNAVAILABLE",
            f"{attempt.host} failed with {status} at {attempt.what}: {said}. Try again; if it stays so, look at the "
            "API server and its admission webhooks.",
            metadata=facts,
            retry_after=_retry_after(headers),
        )
    return FailedPrecondition(
        "KUBERNETES_REJECTED", f"{attempt.host} rejected {attempt.what} with {status}: {said}", metadata=facts
    )


def from_exception(  # noqa: PLR0911 - one return for each kind of failure
    error: Exception, attempt: Attempt
) -> KubevendError:
    """The error for a request that got no answer.

    Args:
        error: an aiohttp error, a TimeoutError, or the UnicodeError of a host name that no resolver takes.
        attempt: what was asked.
    """
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _untrusted(error.certificate_error, attempt)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return FailedPrecondition(
            "KUBERNETES_TLS_FAILED",
            f"{attempt.host} does not speak TLS as an API server does ({_openssl(error)}). Set kubernetes_host of "
            f"{attempt.label} to the API server's https address and port, which `kubectl cluster-info` shows."
            f"{_by_update(attempt, _HOST)}",
            metadata=attempt.facts(),
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _unreachable(attempt, "its name cannot be looked up")
    if isinstance(error, aiohttp.ClientConnectorError):
        return _unreachable(attempt, _system(error))
    # A redirect's URL comes after something was sent.
    if isinstance(error, _NO_URL) and not isinstance(error, aiohttp.RedirectClientError):
        return _unreachable(attempt, "it is not a URL that can be called")
    if isinstance(error, UnicodeError):
        return _unreachable(attempt, "it is not a name that can be looked up")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return _unreachable(attempt, "no connection came about in time (kubernetes.connect_timeout_seconds)")
    if isinstance(error, TimeoutError):
        return _no_answer(
            "KUBERNETES_TIMED_OUT", attempt, "no answer came in time (kubernetes.request_timeout_seconds)"
        )
    if isinstance(error, Redirected):
        return _not_kubernetes(attempt, "it redirects elsewhere, which is not followed")
    return _no_answer("KUBERNETES_CONNECTION_LOST", attempt, f"the connection was lost ({type(error).__name__})")


def unreadable(attempt: Attempt) -> KubevendError:
    """The error for a success whose body is not what Kubernetes answers."""
    if not attempt.mints:
        return _not_kubernetes(attempt, "its answer could not be read")
    return _no_answer("KUBERNETES_UNREADABLE", attempt, "its answer could not be read; is it a Kubernetes API server?")


def busy(attempt: Attempt, most: int) -> KubevendError:
    """The error where no connection to the cluster came free in time."""
    return ResourceExhausted(
        "CLUSTER_BUSY",
        f"All {most} connections to {attempt.host} were busy. Try again; if it stays so, raise "
        "kubernetes.max_connections in the settings, or look why the API server is slow.",
        metadata=attempt.facts(max_connections=str(most)),
        retry_after=_DEFAULT_RETRY,
    )


def anchor_gone(status: int, body: bytes, attempt: Attempt, anchor: str) -> AnchorGone | None:
    """The error where what lacks for a bound token is the Secret that it was to be bound to; None for all else.

    A Secret that is not there is a 404; one that has another UID than the reference a 409, with its kind as it is
    (pkg/registry/core/serviceaccount/storage/token.go).

    Args:
        status: the HTTP status.
        body: the answer.
        attempt: the TokenRequest.
        anchor: the Secret's name.
    """
    answer = parse_status(body)
    missing = (HTTPStatus.NOT_FOUND, "secrets"), (HTTPStatus.CONFLICT, "Secret")
    if answer is None or (status, answer.details.kind) not in missing:
        return None
    said = shown(answer.message, _LONGEST_MESSAGE)
    return AnchorGone(
        "ANCHOR_GONE",
        f"The Secret {attempt.namespace}/{anchor} of {attempt.host}, to which {attempt.what} was to be bound, is not "
        f"there or is another one by now: {said}. Somebody has deleted it, and with it all tokens that were bound to "
        "it. Try again: kubevend makes another one.",
        metadata=attempt.facts(http_status=str(status), kubernetes_message=said, anchor=anchor),
    )


def not_covered(refusal: Forbidden, attempt: Attempt) -> Forbidden:
    """The error where the right is there, and its resourceNames leave this one out.

    It does not tell which are in them: whoever may have a token issued need not know what else there is.
    """
    identity = refusal.metadata["identity"]
    why = (
        f"{identity} may request tokens in namespace {attempt.namespace!r} of {attempt.host} for some ServiceAccounts "
        f"only (resourceNames of its Kubernetes Role), and {attempt.name!r} is not among them. Add it there, or grant "
        "it by itself:"
    )
    message = _with_command(why, attempt.grant, attempt, identity)
    return Forbidden("KUBERNETES_RESOURCE_NAMES", message, metadata=refusal.metadata)


def subject_flag(identity: str) -> str:
    """The flag by which `kubectl create rolebinding` names an identity."""
    if identity.startswith(_SERVICE_ACCOUNT):
        return shlex.quote(f"--serviceaccount={identity.removeprefix(_SERVICE_ACCOUNT)}")
    return shlex.quote(f"--user={identity}")


def _with_command(why: str, command: str, attempt: Attempt, identity: str) -> str:
    """A message with the command that grants what lacks, where it can be written for this identity."""
    command = command.format(identity=subject_flag(identity))
    everything = f"CheckConfig on {attempt.label} prints all that is missing" if attempt.namespace else ""
    whole = f"{why} `{command}`" + (f" ({everything})" if everything else "")
    if _is_nameable(identity) and len(whole.encode()) <= _LONGEST_WITH_COMMAND:
        return whole
    return f"{why} {everything or 'no command can name it, so write the binding by hand'}."


def _is_nameable(identity: str) -> bool:
    """Whether this is somebody's name as it is: neither cut nor escaped, nor by a cluster that makes names up."""
    if identity.startswith(_SERVICE_ACCOUNT):
        return SERVICE_ACCOUNT_SUBJECT.fullmatch(identity) is not None
    return 0 < len(identity) < _LONGEST_IDENTITY and identity.isprintable() and not set("\\`") & set(identity)


def _unauthorized(attempt: Attempt, presented: Presented, facts: dict[str, str]) -> KubevendError:
    expiry = presented.expiry()
    if expiry is not None and expiry <= datetime.now(UTC):
        why = f"it expired at {expiry.isoformat(timespec='seconds')}"
        facts = {**facts, "expired": expiry.isoformat(timespec="seconds")}
    elif presented.certificate:
        why = "it was not signed by an authority that the cluster lets sign client certificates"
    else:
        audiences = shown(", ".join(presented.audiences()), _LONGEST_IDENTITY)
        own = f" (it is for {audiences})" if audiences else ""
        why = f"it is of another cluster, was revoked, or is for another audience than the API server's{own}"
    return Unauthorized(
        "KUBERNETES_UNAUTHORIZED",
        f"{attempt.host} does not accept {attempt.credential} ({attempt.label}): {why}. {_renew(attempt, presented)}",
        metadata=facts,
    )


def _renew(attempt: Attempt, presented: Presented) -> str:
    """The sentences that say how a credential that is not accepted is made anew, and where it is put."""
    taken = _update(attempt, attempt.given) if attempt.given.startswith(_STORED) else ""
    put = f" {taken} takes it." if taken else ""
    if presented.certificate:
        return (
            "Put one in its place, with its key, that the cluster has signed (a CertificateSigningRequest for "
            f"kubernetes.io/kube-apiserver-client).{put}"
        )
    command, whose = "kubectl create token NAME --namespace=NAMESPACE", "a ServiceAccount"
    owner = presented.owner()
    if owner:
        command = f"kubectl create token {owner[1]} --namespace={owner[0]}"
        whose = "the same ServiceAccount"
    return f"Put a fresh one in its place; `{command}` makes one for {whose}, for an hour (--duration for more).{put}"


def _forbidden(answer: Status, attempt: Attempt, facts: dict[str, str]) -> KubevendError:
    if any(cause.reason == "NamespaceTerminating" for cause in answer.details.causes):
        return FailedPrecondition(
            "KUBERNETES_NAMESPACE_TERMINATING",
            f"Namespace {attempt.namespace!r} of {attempt.host} is being deleted, and nothing new comes into it. Wait "
            "until it is gone and make it anew, or name another one.",
            metadata=facts,
        )
    if _QUOTA in answer.message:
        return _quota(answer, attempt, facts)
    escalation = _ESCALATION.search(answer.message[:_SEARCHED])
    if escalation and attempt.escalation:
        return _escalation(_unquoted(escalation[1]), escalation[2], attempt, facts)
    found = _IDENTITY.search(answer.message[:_SEARCHED])
    if not found:
        # RBAC always says who; whatever else forbids is an admission policy or webhook, or another authorizer.
        return FailedPrecondition(
            "KUBERNETES_DENIED",
            f"An admission policy or webhook of {attempt.host} does not allow {attempt.what}: "
            f"{facts['kubernetes_message']}{_OLD_POLICY if _OWN_POLICY in answer.message[:_SEARCHED] else ''}",
            metadata=facts,
        )
    identity = _unquoted(found[1])
    # Before the command, which is wrong advice where the namespace does not exist.
    slip = f" If {attempt.namespace!r} is a slip, correct the request or allowed_namespaces of the role."
    why = (
        f"RBAC of {attempt.host} does not let {identity} have {attempt.what}: that takes {attempt.right}."
        f"{slip if attempt.namespace and attempt.asked else ''} To grant it:"
    )
    message = _with_command(why, attempt.grant, attempt, identity)
    return Forbidden("KUBERNETES_FORBIDDEN", message, metadata={**facts, "identity": identity})


def _escalation(identity: str, lack: str, attempt: Attempt, facts: dict[str, str]) -> KubevendError:
    """The error where kubevend would give rights that it has not itself.

    See https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping.
    """
    lack = shown("; ".join(lack.splitlines()), _LONGEST_LACK)
    # To bind one role that is named is the least there is; to make any role is all there is.
    instead = ", or the right to give what it has not:" if attempt.role else _ESCALATE
    why = (
        f"RBAC of {attempt.host} does not let {identity} have {attempt.what}, which would give more than that identity "
        f"has itself: {lack}. Give it those rights too{instead}"
    )
    message = _with_command(why, attempt.escalation, attempt, identity)
    return FailedPrecondition("KUBERNETES_ESCALATION", message, metadata={**facts, "identity": identity, "lacks": lack})


def _quota(answer: Status, attempt: Attempt, facts: dict[str, str]) -> KubevendError:
    said = shown(answer.message.partition(_QUOTA)[2], _LONGEST_IDENTITY)
    return ResourceExhausted(
        "KUBERNETES_QUOTA",
        f"A ResourceQuota of namespace {attempt.namespace!r} of {attempt.host} leaves no room for {attempt.what}: "
        f"{said}. End leases that are no longer needed, or have the quota raised; `kubectl describe resourcequota "
        f"--namespace={attempt.namespace}` shows it.",
        metadata=facts,
    )


def _unquoted(identity: str) -> str:
    return shown(identity.replace('\\"', '"').replace("\\\\", "\\"), _LONGEST_IDENTITY)


def _not_found(answer: Status, attempt: Attempt, facts: dict[str, str]) -> KubevendError:
    if answer.details.kind == "namespaces":
        return FailedPrecondition(
            "KUBERNETES_NAMESPACE_NOT_FOUND",
            f"{attempt.host} has no namespace {attempt.namespace!r}: create it (`kubectl create namespace "
            f"{attempt.namespace}`), or name another one.",
            metadata=facts,
        )
    # Where a binding's role is looked up and is not there, the answer names the role, and says that it is a binding.
    if answer.details.kind in _BINDINGS and attempt.role:
        return FailedPrecondition(
            "KUBERNETES_ROLE_NOT_FOUND",
            f"{attempt.host} has no {attempt.role}: create it, or name another one in kubernetes_role of the role.",
            metadata=facts,
        )
    if answer.details.kind == "serviceaccounts":
        return FailedPrecondition(
            "KUBERNETES_SERVICE_ACCOUNT_NOT_FOUND",
            f"{attempt.host} has no ServiceAccount {attempt.name!r} in namespace {attempt.namespace!r}: create it "
            f"(`kubectl create serviceaccount {attempt.name} --namespace={attempt.namespace}`), or name another one "
            "in the request or the role.",
            metadata=facts,
        )
    return _not_kubernetes(
        attempt, f"it does not know {attempt.what}: {facts['kubernetes_message'][:_LONGEST_IDENTITY]}"
    )


def _untrusted(error: Exception, attempt: Attempt) -> KubevendError:
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
    why = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
    if code in _OTHER_NAME:
        todo = (
            f"Set kubernetes_host of {attempt.label} to a name or address for which the certificate was made: `kubectl "
            f"cluster-info` shows one that fits{_show_names(attempt.host)}.{_by_update(attempt, _HOST)}"
        )
    elif code in (_EXPIRED, _NOT_YET_VALID):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        todo = f"Renew the API server's certificate, or set kubevend's clock, which says {now}."
    else:
        in_config = attempt.trusts.startswith("kubernetes_ca_cert")
        todo = (
            f"It was not signed by {attempt.trusts}: put there the CA that signed it. "
            f"{_SHOW_CA.format(*_AS_JSON if in_config else ('', ''))}.{_by_update(attempt, _CA) if in_config else ''}"
        )
    return FailedPrecondition(
        "KUBERNETES_UNTRUSTED",
        f"The certificate of {attempt.host} is not trusted: {shown(why, _LONGEST_IDENTITY).rstrip('.')}. {todo}",
        metadata=attempt.facts(tls_error=shown(why, _LONGEST_IDENTITY)),
    )


def _unreachable(attempt: Attempt, why: str) -> KubevendError:
    return Unavailable(
        "KUBERNETES_UNREACHABLE",
        f"{attempt.host} cannot be reached: {why}. Check the network, whether the API server runs, and kubernetes_host "
        f"of {attempt.label}: `kubectl cluster-info` shows the right one.{_by_update(attempt, _HOST)}",
        metadata=attempt.facts(),
    )


def _not_kubernetes(attempt: Attempt, why: str) -> KubevendError:
    return FailedPrecondition(
        "NOT_KUBERNETES",
        f"{attempt.host} is not a Kubernetes API server, or something stands before it: {why}. Set kubernetes_host of "
        f"{attempt.label} to the API server's own address, which `kubectl cluster-info` shows."
        f"{_by_update(attempt, _HOST)}",
        metadata=attempt.facts(),
    )


def _by_update(attempt: Attempt, member: str) -> str:
    """The sentence that says how a config's host or CA is changed; empty where they stand in the settings."""
    # The pod's own credential is for the pod's own host alone.
    if not attempt.given or (member == _HOST and attempt.given.startswith(_IN_CLUSTER)):
        return ""
    again = "the credential is asked for again, since it was not meant for the new one"
    update = _update(attempt, f"{member},{attempt.given}")
    return f" {update} sets it; {again}." if update else f" UpdateConfig sets it; {again}."


def _update(attempt: Attempt, members: str) -> str:
    """The call that changes a config, as docs/errors.md writes calls; empty where it is too long for an error."""
    update = f'{{"config":{{"name":"{attempt.label}",{members}}}}}'
    return "" if len(update) > _LONGEST_UPDATE or "'" in update else f"ConfigService/UpdateConfig '{update}'"


def _show_names(host: str) -> str:
    """The command that prints for which names a server's certificate was made."""
    try:
        found = urlsplit(host)
        name, port = found.hostname, found.port or 443
    except ValueError:
        return ""
    if not name or not name.isprintable() or "`" in name:
        return ""
    where = shlex.quote(f"[{name}]:{port}" if ":" in name else f"{name}:{port}")
    return (
        f"; `openssl s_client -connect {where} </dev/null | openssl x509 -noout -ext subjectAltName` shows what it was "
        "made for"
    )


def _no_answer(reason: str, attempt: Attempt, why: str) -> KubevendError:
    if not attempt.mints:
        return Unavailable(
            reason,
            f"{attempt.host} was asked for {attempt.what}, and {why}. Try again; if it stays so, look at "
            "the API server.",
            metadata=attempt.facts(),
        )
    return OutcomeUnknown(
        reason,
        f"{attempt.host} was asked for {attempt.what}, and {why}. Whether it was done, Kubernetes' audit log tells "
        f"under auditID {attempt.audit_id}; nobody has what it may have issued. Try again.",
        metadata=attempt.facts(kubernetes_audit_id=attempt.audit_id),
    )


def _system(error: aiohttp.ClientConnectorError) -> str:
    # asyncio puts words of its own in place of the system's.
    return os.strerror(error.os_error.errno) if error.os_error.errno else str(error.os_error)


def _openssl(error: aiohttp.ClientConnectorSSLError) -> str:
    found = error.os_error
    return (getattr(found, "reason", None) or str(found)).replace("_", " ").lower()


def _retry_after(headers: Any) -> timedelta:
    value = str(headers.get("Retry-After", ""))
    return timedelta(seconds=int(value)) if _SECONDS.fullmatch(value) else _DEFAULT_RETRY
