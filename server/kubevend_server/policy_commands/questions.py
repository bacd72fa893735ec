"""Questions to the access policy that nobody calls with: decided as the server would decide a call."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from kubevend_server.authorization import with_labels
from kubevend_server.callers import Caller
from kubevend_server.catalog import Catalog
from kubevend_server.configs import Config
from kubevend_server.errors import KubevendError
from kubevend_server.leases import Lease
from kubevend_server.names import DEFAULT_CONFIG
from kubevend_server.policy.access import Circumstances, Resource, Server, actions
from kubevend_server.policy.explaining import Explainer, Explanation
from kubevend_server.policy.limits import Limits
from kubevend_server.policy.terms import Asked, KnownNamespaces, Naming, Terms, terms
from kubevend_server.roles import Role

LIMITS = Limits(timedelta(hours=1), timedelta(days=1), frozenset({"kubevend"}))
"""The server's own limits where its settings are not known: those that it has where they say nothing."""

# What is made for a lease has the end of its name in its own; here none is made.
_LEASE = "leases/00000000000000000000000000"
_NEVER = datetime.min.replace(tzinfo=UTC)
_GROUPS = frozenset({"view", "administer"})
_DURATION = re.compile(r"([1-9][0-9]*)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class LabeledNamespaces:
    """The namespaces that a question knows, with their labels."""

    known: Mapping[str, Mapping[str, str]]

    def labels(self, namespace: str) -> Mapping[str, str] | None:
        """A namespace's labels; None where there is no such namespace."""
        return self.known.get(namespace)


@dataclass(frozen=True, slots=True)
class Asking:
    """A question.

    Attributes:
        action: a method's name, or UseConfig.
        asked: for IssueToken, the request.
        proposed: for what creates or updates, the role or the config as it would be.
        namespaces: for a role that allows them by their labels.
        catalog: the roles and configs whose labels count for leases, and for roles.
    """

    caller: Caller
    action: str
    resource: Resource
    time: datetime
    asked: Asked = field(default_factory=Asked)
    proposed: Role | Config | None = None
    source_ip: str = ""
    namespaces: KnownNamespaces = field(default_factory=lambda: LabeledNamespaces({}))
    catalog: Catalog = field(default_factory=lambda: Catalog([], []))


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a question.

    Attributes:
        explanation: what the access policy decides, and why; None where the role's own rules refuse before it.
        refusal: what the role's own rules say then.
        visible: whether the caller may get the resource; else every refusal reads as if there were none.
        terms: what would be granted.
    """

    explanation: Explanation | None
    visible: bool
    refusal: KubevendError | None = None
    terms: Terms | None = None

    @property
    def allowed(self) -> bool:
        """Whether it would be done."""
        return self.explanation is not None and self.explanation.decision.allowed


def answer(explainer: Explainer, asking: Asking, limits: Limits) -> Answer:
    """Decide a question: by the role's own rules first, as an issuance does, then by the access policy."""
    offered: Terms | None = None
    if isinstance(asking.resource, Role) and asking.action == "IssueToken":
        naming = Naming(_LEASE, asking.caller.name)
        try:
            offered = terms(asking.resource, asking.asked, limits, naming, asking.namespaces)
        except KubevendError as refusal:
            return Answer(None, _visible(explainer, asking), refusal)
    circumstances = _circumstances(asking, offered, asking.proposed)
    explanation = explainer.explain(asking.caller, asking.action, asking.resource, circumstances)
    return Answer(explanation, _visible(explainer, asking), terms=offered)


def _visible(explainer: Explainer, asking: Asking) -> bool:
    if isinstance(asking.resource, Server):
        return True
    get = f"Get{type(asking.resource).__name__}"
    return explainer.decide(asking.caller, get, asking.resource, _circumstances(asking)).allowed


def _circumstances(
    asking: Asking, offered: Terms | None = None, proposed: Role | Config | None = None
) -> Circumstances:
    return with_labels(Circumstances(asking.time, asking.source_ip, offered, proposed), asking.resource, asking.catalog)


def lease_of(role: Role, caller: Caller, namespace: str, service_account: str, name: str = _LEASE) -> Lease:
    """A lease on a role, granted to a caller, as policies see it: they are told nothing of its times."""
    return Lease(
        name=name,
        role=role.name,
        config=role.config or DEFAULT_CONFIG,
        caller=caller.name,
        namespace=namespace,
        service_account=service_account,
        audiences=role.allowed_audiences,
        create_time=_NEVER,
        expire_time=_NEVER,
    )


def resource_type(action: str) -> type[Server | Config | Role | Lease]:
    """On what an action is.

    Raises:
        ValueError: there is no such action.
    """
    known = actions() - _GROUPS
    if action not in known:
        raise ValueError(f"{action!r} is no action; {nearest(action, known)}")
    for kind in (Config, Role, Lease):
        if action.endswith(kind.__name__):
            return kind
    return Role if action == "IssueToken" else Server


def proposed_type(action: str) -> type[Role | Config] | None:
    """Of what type the resource is that an action proposes, if it does."""
    kind = resource_type(action)
    if kind in (Role, Config) and action.startswith(("Create", "Update")):
        return Role if kind is Role else Config
    return None


def nearest(word: str, known: Iterable[str]) -> str:
    """What somebody may have meant who wrote a word that is not known."""
    near = difflib.get_close_matches(word, sorted(known), 1)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known)) or 'none'}."


def duration(text: str) -> timedelta:
    """A time such as 600s, 10m, 1h or 1d.

    Raises:
        ValueError: it is none.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no length of time: write 600s, 10m, 1h or 1d.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def moment(text: str) -> datetime:
    """A time as RFC 3339 has it.

    Raises:
        ValueError: it is none, or has no zone.
    """
    with contextlib.suppress(ValueError):
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found
    raise ValueError(f"{text!r} is no time with its zone: write 2026-05-04T12:00:00Z.")


def named(kind: str, name: str) -> str:
    """The full name of a resource, of its full name or of its id alone: roles/ci for both roles/ci and ci."""
    return name if name.startswith(f"{kind}/") else f"{kind}/{name}"
