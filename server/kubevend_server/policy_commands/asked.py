"""What `kubevend-server policy explain` is asked: from the options of the command to an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kubevend_server import callers, inspection, settings
from kubevend_server.authorization import with_labels
from kubevend_server.catalog import Catalog
from kubevend_server.clock import Clock
from kubevend_server.configs import Config
from kubevend_server.leases import Lease
from kubevend_server.names import DEFAULT_CONFIG
from kubevend_server.policy.access import Circumstances, Resource, Server
from kubevend_server.policy.checking import Policy
from kubevend_server.policy.limits import MINIMUM_TTL, Limits
from kubevend_server.policy.terms import Asked, Terms
from kubevend_server.policy_commands.inspection import Inspected, inspect
from kubevend_server.policy_commands.questions import (
    LIMITS,
    Answer,
    Asking,
    LabeledNamespaces,
    answer,
    duration,
    lease_of,
    moment,
    named,
    proposed_type,
    resource_type,
)
from kubevend_server.policy_commands.recognized import caller_fault
from kubevend_server.roles import Role
from kubevend_server.wiring import make_limits

# Where the role is not known, and nobody says what else is asked for.
_NAMESPACE = "default"
_SERVICE_ACCOUNT = "default"
_AUDIENCE = "https://kubernetes.default.svc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command, as they were given; its help tells what each is."""

    caller: str
    action: str
    role: str
    config: str
    lease_of: str
    namespace: str
    service_account: str
    audiences: Sequence[str]
    ttl: str
    cluster_wide: bool
    labels: Sequence[str]
    namespace_labels: Sequence[str]
    claims: Sequence[str]
    groups: Sequence[str]
    pod: str
    node: str
    proxy: str
    source: str
    time: str


@dataclass(frozen=True, slots=True)
class Explained:
    """A question with its answer. `assumed`: what nobody said, so that it was made up."""

    inspected: Inspected
    asking: Asking
    answer: Answer
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Possible:
    """The policies that may say something about an action on a resource."""

    inspected: Inspected
    action: str
    resource: Resource
    policies: tuple[Policy, ...]


@dataclass(frozen=True, slots=True)
class _Server:
    """What is known of a server.

    Attributes:
        folder: that of its policies.
        catalog: its roles and configs; None where nothing is known of them.
        limits: its own, for every role.
        recognized: who may call, by its settings; None where they are not known.
    """

    folder: Path
    catalog: Catalog | None
    limits: Limits
    recognized: settings.CallersSettings | None = None


class _Unlabeled:
    """Stands for namespaces whose labels nobody has given."""

    def labels(self, namespace: str) -> NoReturn:
        """Ask for them."""
        raise ValueError(f"The role allows namespaces by their labels: give those of {namespace} as --namespace-label.")


def ask(folder: Path | None, settings_file: Path | None, options: Options, clock: Clock) -> Explained:
    """Answer whether a caller may do something.

    Raises:
        ValueError, OSError: the options, the policies, the settings or the store cannot be used.
    """
    server = _server(folder, settings_file)
    caller = callers.named(
        options.caller,
        claims=_pairs(options.claims, "claim"),
        groups=tuple(options.groups),
        pod=options.pod,
        node=options.node,
        proxy=options.proxy,
    )
    if server.recognized is not None and (fault := caller_fault(caller, server.recognized)):
        raise ValueError(fault)
    resource, assumed = _resource(server, options)
    labels = dict(_pairs(options.namespace_labels, "namespace-label"))
    asking = Asking(
        caller,
        options.action,
        resource,
        moment(options.time) if options.time else clock(),
        _asked(options),
        source_ip=options.source,
        namespaces=LabeledNamespaces({options.namespace: labels}) if labels else _Unlabeled(),
        catalog=server.catalog or Catalog([], [_role(server, options)[0]] if isinstance(resource, Lease) else []),
    )
    inspected = inspect(server.folder)
    return Explained(inspected, asking, answer(inspected.explainer(), asking, server.limits), assumed)


def ask_who(folder: Path | None, settings_file: Path | None, options: Options, clock: Clock) -> Possible:
    """Answer who may do something.

    Raises:
        ValueError, OSError: the options, the policies, the settings or the store cannot be used.
    """
    server = _server(folder, settings_file)
    resource, _ = _resource(server, options)
    inspected = inspect(server.folder)
    now = moment(options.time) if options.time else clock()
    offered = _any_terms(resource) if isinstance(resource, Role) and options.action == "IssueToken" else None
    catalog = server.catalog or Catalog([], [])
    circumstances = with_labels(Circumstances(now, options.source, offered), resource, catalog)
    found = inspected.explainer().who(options.action, resource, circumstances)
    return Possible(inspected, options.action, resource, tuple(found))


def _any_terms(role: Role) -> Terms:
    """Terms that stand for any: what depends on them is left out of the answer."""
    return Terms(role.config, role.name, "any", "any", (_AUDIENCE,), MINIMUM_TTL, None, (), ())


def _server(folder: Path | None, settings_file: Path | None) -> _Server:
    if settings_file is not None:
        found = settings.load(settings_file)
        return _Server(
            folder or Path(found.policy.folder), inspection.read_catalog(found), make_limits(found), found.callers
        )
    if folder is None:
        raise ValueError("Give the folder of the policies, or --settings.")
    return _Server(folder, None, LIMITS)


def _asked(options: Options) -> Asked:
    if options.action != "IssueToken":
        return Asked()
    return Asked(
        namespace=options.namespace,
        service_account=options.service_account,
        audiences=tuple(options.audiences),
        ttl=duration(options.ttl) if options.ttl else None,
        cluster_wide=options.cluster_wide,
    )


def _resource(server: _Server, options: Options) -> tuple[Resource, tuple[str, ...]]:
    kind = resource_type(options.action)
    if proposed_type(options.action):
        raise ValueError(
            f"{options.action} depends on what the {kind.__name__.lower()} would be: write that down as a case, and "
            "run kubevend-server policy test."
        )
    if kind is Server:
        return Server(), ()
    if kind is Config:
        return _config(server, options), ()
    role, assumed = _role(server, options)
    if kind is Role:
        return role, assumed
    return _lease(role, options), assumed


def _config(server: _Server, options: Options) -> Config:
    name = named("configs", options.config or DEFAULT_CONFIG)
    if server.catalog is None:
        return Config(name)
    found = server.catalog.config(name)
    if found is None:
        raise ValueError(f"There is no {name}. There is {_listed(server.catalog.configs())}.")
    return found


def _role(server: _Server, options: Options) -> tuple[Role, tuple[str, ...]]:
    if not options.role:
        raise ValueError(f"{options.action} is on a role: give --role.")
    name = named("roles", options.role)
    if server.catalog is None:
        return _supposed(name, options)
    found = server.catalog.role(name)
    if found is None:
        raise ValueError(f"There is no {name}. There is {_listed(server.catalog.roles())}.")
    if options.labels or options.config:
        raise ValueError(f"{name} has its labels and its config in the store: leave out --label and --config.")
    return found, ()


def _supposed(name: str, options: Options) -> tuple[Role, tuple[str, ...]]:
    """A role that allows what is asked, and nothing else."""
    namespace = options.namespace or _NAMESPACE
    account = options.service_account or _SERVICE_ACCOUNT
    audiences = tuple(options.audiences) or (_AUDIENCE,)
    role = Role(
        name,
        config=named("configs", options.config or DEFAULT_CONFIG),
        allowed_namespaces=(namespace,),
        allowed_service_accounts=(account,),
        allowed_audiences=audiences,
        default_audiences=audiences,
        labels=_pairs(options.labels, "label"),
        cluster_wide_allowed=options.cluster_wide,
        # So that no TTL that some role may allow is refused.
        revocation="PER_LEASE" if options.ttl and duration(options.ttl) < MINIMUM_TTL else "NONE",
    )
    told = [f"{name} allows this much: its own rules are not known without --settings"]
    if options.action == "IssueToken":
        given = (options.namespace, options.service_account, options.audiences)
        what = (("namespace", namespace), ("service_account", account), ("audiences", ", ".join(audiences)))
        told += [f"{field} {value}" for (field, value), there in zip(what, given, strict=True) if not there]
    return role, tuple(told)


def _lease(role: Role, options: Options) -> Lease:
    granted_to = options.lease_of or options.caller
    if not granted_to:
        raise ValueError(f"{options.action} is on a lease: give --lease-of, the caller that it was granted to.")
    namespace, account = options.namespace or _NAMESPACE, options.service_account or _SERVICE_ACCOUNT
    return lease_of(role, callers.named(granted_to), namespace, account)


def _pairs(written: Iterable[str], option: str) -> tuple[tuple[str, str], ...]:
    found = {}
    for one in written:
        name, equals, value = one.partition("=")
        if not (name and equals):
            raise ValueError(f"--{option} {one!r} is no pair: write NAME=VALUE.")
        found[name] = value
    return tuple(sorted(found.items()))


def _listed(resources: Iterable[Role | Config]) -> str:
    return ", ".join(resource.name for resource in resources) or "none"
