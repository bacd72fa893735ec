"""The typed rules: what exactly may be asked of Kubernetes for one request through one role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from kubevend_server.errors import InvalidArgument, PermissionDenied, Unavailable, Violation
from kubevend_server.policy.lifetimes import lifetime
from kubevend_server.policy.limits import MINIMUM_TTL, Limits
from kubevend_server.policy.made import MadeAccount, account_of
from kubevend_server.policy.name_template import PREFIX, RANDOM_LENGTH, render
from kubevend_server.policy.selectors import fits
from kubevend_server.roles import ANY, Revocation, Role
from kubevend_server.warning import Warning


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks of a role; empty or None where it leaves the choice to the role."""

    namespace: str = ""
    service_account: str = ""
    audiences: tuple[str, ...] = ()
    ttl: timedelta | None = None
    min_ttl: timedelta | None = None
    cluster_wide: bool = False


@dataclass(frozen=True, slots=True)
class Naming:
    """From what the objects that are made for a lease have their name: the lease's, and the caller's."""

    lease: str
    caller: str


class KnownNamespaces(Protocol):
    """What is known of the namespaces of a role's cluster."""

    def labels(self, namespace: str) -> Mapping[str, str] | None:
        """A namespace's labels; None where there is no such namespace.

        Raises:
            Unavailable: what is known is too old to decide by.
        """


class NothingKnown:
    """Stands for the namespaces of a cluster that nobody watches."""

    def labels(self, namespace: str) -> Mapping[str, str] | None:
        """Refuse to say."""
        raise Unavailable(
            "NAMESPACES_UNKNOWN",
            f"Whether {namespace!r} has the labels that this role asks for is not known: nobody watches the "
            "namespaces.",
            metadata={"namespace": namespace},
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """What a role allows of a request, complete and explicit.

    Attributes:
        ttl: how long the lease shall live.
        rules: where each value came from, one sentence each.
        warnings: what came out otherwise than asked.
        revocation: how the lease can be ended before its time.
        account: the ServiceAccount that is made for the lease, with what it is bound to; None for one that exists.
    """

    config: str
    role: str
    namespace: str
    service_account: str
    audiences: tuple[str, ...]
    ttl: timedelta
    min_ttl: timedelta | None
    rules: tuple[str, ...]
    warnings: tuple[Warning, ...]
    revocation: Revocation = "NONE"
    account: MadeAccount | None = None

    @property
    def token_ttl(self) -> timedelta:
        """How long the token shall live: no shorter than Kubernetes makes one."""
        return max(self.ttl, MINIMUM_TTL)


def terms(role: Role, asked: Asked, limits: Limits, naming: Naming, namespaces: KnownNamespaces | None = None) -> Terms:
    """Apply a role's rules to a request.

    Args:
        role: the role.
        asked: what the request asks.
        limits: the server's own.
        naming: for the name of a ServiceAccount that is made.
        namespaces: those of the role's cluster, for a role that allows them by their labels.

    Returns:
        Terms that are never wider than the role, with the rule behind each value named.

    Raises:
        InvalidArgument: the request leaves open what this role does not decide, or its TTL is too short.
        PermissionDenied: the role does not allow a namespace, a ServiceAccount, an audience, or rights everywhere.
        FailedPrecondition: the longest that can be had is less than `min_ttl`.
        Unavailable: it rests on the labels of a namespace, and they are not known well enough.
    """
    namespace, namespace_rule = _namespace(role, asked.namespace, namespaces or NothingKnown())
    account = _account(role, asked, naming)
    if account is None:
        name, account_rule = _one_of(asked.service_account, role.allowed_service_accounts, role.name, _SERVICE_ACCOUNT)
        _check_not_made(role, name)
    else:
        name, account_rule = _made_name(role, naming), f"service_account_name: made for this lease by {role.name}"
    audiences, audience_rule = _audiences(role, asked.audiences, limits.reserved_audiences)
    ttl, ttl_rules, warnings = lifetime(role, asked.ttl, asked.min_ttl, limits)
    return Terms(
        config=role.config,
        role=role.name,
        namespace=namespace,
        service_account=name,
        audiences=audiences,
        ttl=ttl,
        min_ttl=asked.min_ttl,
        rules=(namespace_rule, account_rule, audience_rule, *ttl_rules),
        warnings=warnings,
        revocation=role.revocation,
        account=account,
    )


@dataclass(frozen=True, slots=True)
class _Choice:
    field: str
    plural: str
    noun: str
    reason: str


def _namespace(role: Role, asked: str, known: KnownNamespaces) -> tuple[str, str]:
    selector = role.allowed_namespace_selector
    if selector is None or asked in role.allowed_namespaces or role.allowed_namespaces == (ANY,):
        return _one_of(asked, role.allowed_namespaces, role.name, _NAMESPACE)
    labels = known.labels(asked) if asked else None
    if labels is not None and fits(selector, labels):
        return asked, f"namespace: asked, and its labels fit allowed_namespace_selector of {role.name}"
    # A namespace that is not there and one with other labels answer alike.
    return _one_of(asked, role.allowed_namespaces, role.name, _NAMESPACE, (_LABELED,))


def _account(role: Role, asked: Asked, naming: Naming) -> MadeAccount | None:
    """What is made for the lease, or None for a role whose ServiceAccounts exist."""
    if asked.cluster_wide and not role.cluster_wide_allowed:
        raise PermissionDenied(
            "CLUSTER_WIDE_NOT_ALLOWED",
            f"{role.name} gives rights in one namespace only: leave cluster_wide out, or have cluster_wide_allowed of "
            f"{role.name} set.",
            metadata={"role": role.name},
        )
    if not role.makes_accounts:
        return None
    if asked.service_account:
        raise InvalidArgument(
            "SERVICE_ACCOUNT_GENERATED",
            f"{role.name} makes a ServiceAccount for each lease and names it itself: leave service_account_name out.",
            metadata={"role": role.name},
            violations=[Violation("service_account_name", f"left out, since {role.name} makes one")],
        )
    return account_of(role, _made_name(role, naming), cluster_wide=asked.cluster_wide)


def _check_not_made(role: Role, name: str) -> None:
    """Refuse a ServiceAccount that was made for a lease: it is of the caller and the role of that lease alone."""
    if role.allowed_service_accounts == (ANY,) and name.startswith(PREFIX):
        raise PermissionDenied(
            "SERVICE_ACCOUNT_NOT_ALLOWED",
            f"{role.name} allows any ServiceAccount but those named {PREFIX}…, which kubevend makes for single leases. "
            f"Ask for another one; for one of your own that is called so, have it named in allowed_service_accounts.",
            metadata={"role": role.name, "service_account_name": name, "allowed": "any"},
        )


def _made_name(role: Role, naming: Naming) -> str:
    return render(role.name_template, role.name.removeprefix("roles/"), naming.caller, naming.lease[-RANDOM_LENGTH:])


_LABELED = "those whose labels fit its allowed_namespace_selector"
_NAMESPACE = _Choice("namespace", "allowed_namespaces", "namespace", "NAMESPACE")
_SERVICE_ACCOUNT = _Choice("service_account_name", "allowed_service_accounts", "ServiceAccount", "SERVICE_ACCOUNT")


def _one_of(
    asked: str, allowed: tuple[str, ...], role: str, choice: _Choice, others: tuple[str, ...] = ()
) -> tuple[str, str]:
    """What is asked, or the only one that is allowed. `others` says what else is, which was looked at before."""
    if not asked:
        if len(allowed) == 1 and allowed[0] != ANY and not others:
            return allowed[0], f"{choice.field}: the only one that {role} allows"
        raise InvalidArgument(
            f"{choice.reason}_REQUIRED",
            f"{role} allows {_listed((*allowed, *others))}: set {choice.field} to the {choice.noun} that you mean.",
            metadata={"role": role, "allowed": _listed((*allowed, *others))},
            violations=[Violation(choice.field, f"required, since {role} does not allow exactly one")],
        )
    if asked in allowed or allowed == (ANY,):
        return asked, f"{choice.field}: asked, and in {choice.plural} of {role}"
    raise PermissionDenied(
        f"{choice.reason}_NOT_ALLOWED",
        f"{role} does not allow {choice.noun} {asked!r}; it allows {_listed((*allowed, *others))}. Ask for one of "
        f"those, or have {choice.plural} of {role} extended.",
        metadata={"role": role, choice.field: asked, "allowed": _listed((*allowed, *others))},
    )


def _audiences(role: Role, asked: tuple[str, ...], reserved: frozenset[str]) -> tuple[tuple[str, ...], str]:
    if asked:
        audiences, rule = asked, f"audiences: asked, and in allowed_audiences of {role.name}"
    elif role.default_audiences:
        audiences, rule = role.default_audiences, f"audiences: default_audiences of {role.name}"
    elif len(role.allowed_audiences) == 1:
        audiences, rule = role.allowed_audiences, f"audiences: the only one that {role.name} allows"
    else:
        raise InvalidArgument(
            "AUDIENCE_REQUIRED",
            f"{role.name} allows the audiences {_listed(role.allowed_audiences)} and has no default_audiences: set "
            "audiences to those that you mean.",
            metadata={"role": role.name, "allowed": _listed(role.allowed_audiences)},
            violations=[Violation("audiences", f"required, since {role.name} has no default")],
        )
    for audience in audiences:
        if audience in reserved or audience not in role.allowed_audiences:
            raise _audience_not_allowed(role, audience, reserved)
    return audiences, rule


def _audience_not_allowed(role: Role, audience: str, reserved: frozenset[str]) -> PermissionDenied:
    allowed = _listed(a for a in role.allowed_audiences if a not in reserved)
    extend = "" if audience in reserved else f", or have allowed_audiences of {role.name} extended"
    if extend and len(role.allowed_audiences) == 1 and not role.default_audiences:
        extend += " (and set default_audiences, or requests without audiences will have to name theirs)"
    why = "is kubevend's own and never issued through" if audience in reserved else "is not allowed by"
    return PermissionDenied(
        "AUDIENCE_NOT_ALLOWED",
        f"Audience {audience!r} {why} {role.name}; it allows {allowed}. Ask for one of those{extend}.",
        metadata={"role": role.name, "audience": audience, "allowed": allowed},
    )


def _listed(names: Iterable[str]) -> str:
    written = ", ".join("any" if n == ANY else n for n in names)
    return written or "none"
