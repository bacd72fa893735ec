"""Test cases for access policies: what a YAML file says, made to questions with the answers that they must have.

docs/policies.md has the form of the file. Roles and configs have that of the API, as grpcurl prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

from kubevend.v1 import config_service_pb2, role_service_pb2
from kubevend_server import callers
from kubevend_server.catalog import Catalog
from kubevend_server.errors import KubevendError
from kubevend_server.field_rules import check_rules
from kubevend_server.leases import Lease
from kubevend_server.names import DEFAULT_CONFIG
from kubevend_server.policy.access import Server
from kubevend_server.policy.role_rules import check_role
from kubevend_server.policy.terms import Asked
from kubevend_server.policy_questions import (
    LIMITS,
    Asking,
    LabeledNamespaces,
    duration,
    moment,
    named,
    nearest,
    proposed_type,
    resource_type,
)
from kubevend_server.roles import Role
from kubevend_server.services import configs, roles

NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
"""When a case is decided that says no time: a Monday."""

_NEVER = datetime.min.replace(tzinfo=UTC)


class CasesError(ValueError):
    """A file of cases that cannot be used; the message says where and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerEntry:
    """A caller: its name, and what its credential says besides."""

    name: str
    claims: dict[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    pod: str = ""
    node: str = ""
    proxy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseEntry:
    """A lease. `role` is one of the file's; `caller` too."""

    role: str
    caller: str
    namespace: str
    service_account: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseEntry:
    """A case: a question, and the answer that it must have."""

    name: str
    caller: str
    expect: Literal["allow", "deny", "refuse"]
    action: str = "IssueToken"
    role: str = ""
    config: str = ""
    lease: str = ""
    proposed: str = ""
    namespace: str = ""
    service_account: str = ""
    audiences: tuple[str, ...] = ()
    ttl: str = ""
    cluster_wide: bool = False
    time: str = ""
    source: str = ""
    by: tuple[str, ...] | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CasesFile:
    """A whole file. `policies` is the policies' folder, from the file's own."""

    cases: tuple[CaseEntry, ...]
    callers: dict[str, CallerEntry]
    policies: str = "."
    roles: dict[str, dict[str, Any]] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    leases: dict[str, LeaseEntry] = field(default_factory=dict)
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """A question, and the answer that it must have.

    Attributes:
        expect: `refuse` where the role's own rules must refuse it, before any policy is asked.
        by: the `@id` of each policy that must decide; none for a denial because nothing permits; None for any.
        reason: that of the refusal; empty for any.
    """

    name: str
    asking: Asking
    expect: Literal["allow", "deny", "refuse"]
    by: tuple[str, ...] | None = None
    reason: str = ""


def read(file: Path) -> tuple[Path, list[Case]]:
    """Read a file of cases.

    Returns:
        The folder of the policies, and the cases.

    Raises:
        CasesError: it cannot be used.
        OSError: it cannot be read.
    """
    try:
        loaded = yaml.load(file.read_bytes(), _Loader)  # noqa: S506 - a SafeLoader, but for keys that are there twice
        entries = _convert(loaded)
        catalog = _catalog(entries)
        cases = [_case(entries, catalog, place, entry) for place, entry in enumerate(entries.cases)]
    except CasesError as error:
        raise CasesError(f"{file}: {error}") from error
    except yaml.YAMLError as error:
        raise CasesError(f"{file}: it is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise CasesError(f"{file}: it is nested too deep") from error
    return file.parent / entries.policies, cases


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, and leaves times as they are written."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise CasesError(f"line {key.start_mark.line + 1}: a key is no name")
            if key.value in seen:
                raise CasesError(f"line {key.start_mark.line + 1}: {key.value!r} is there twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _convert(loaded: Any) -> CasesFile:
    for fault in _strange_keys(loaded, CasesFile, ""):
        raise CasesError(fault)
    try:
        found = msgspec.convert(loaded, CasesFile)
    except msgspec.ValidationError as error:
        raise CasesError(_in_words(str(error), loaded)) from error
    if not found.cases:
        raise CasesError("it has no cases: a test that tests nothing would pass")
    return found


def _in_words(fault: str, loaded: Any) -> str:
    """A fault of msgspec's, with the name of the case."""
    what, _, place = fault.partition(" - at `$")
    path = place.rstrip("`").removeprefix(".")
    if what == "Object missing required field `expect`":
        what = "it has no expect: say allow, deny, or refuse"
    if path.startswith("cases["):
        name = loaded["cases"][int(path[6 : path.index("]")])].get("name")
        path = f"{path} ({name})" if name else path
    return f"{path}: {what}" if path else what


def _strange_keys(found: Any, expected: Any, path: str) -> Iterator[str]:
    if not isinstance(found, dict):
        return
    hints = get_type_hints(expected)
    known = [f.name for f in fields(expected)]
    for key, value in found.items():
        if key not in known:
            yield f"{path}{key} is nothing that it can have; {nearest(str(key), known)}"
        else:
            yield from _strange_keys_within(value, hints[key], f"{path}{key}")


def _strange_keys_within(value: Any, hint: Any, path: str) -> Iterator[str]:
    inner = next((part for part in get_args(hint) if is_dataclass(part)), None)
    if inner is None:
        return
    if get_origin(hint) is dict and isinstance(value, dict):
        for name, entry in value.items():
            yield from _strange_keys(entry, inner, f"{path}.{name}.")
    elif isinstance(value, list):
        for place, entry in enumerate(value):
            yield from _strange_keys(entry, inner, f"{path}[{place}].")


def _catalog(file: CasesFile) -> Catalog:
    try:
        return Catalog((_config(file, name) for name in file.configs), (_role(file, name) for name in file.roles))
    except (ValueError, KubevendError) as error:
        raise CasesError(str(error)) from error


def _case(file: CasesFile, catalog: Catalog, place: int, entry: CaseEntry) -> Case:
    try:
        return Case(entry.name, _asking(file, catalog, entry), entry.expect, _deciding(entry), entry.reason)
    except (ValueError, KubevendError) as error:
        raise CasesError(f"cases[{place}] ({entry.name}): {error}") from error


def _deciding(entry: CaseEntry) -> tuple[str, ...] | None:
    if entry.expect == "allow" and entry.by == ():
        raise ValueError("by is empty, but what no policy permits is denied")
    if entry.by is not None and entry.expect == "refuse":
        raise ValueError("it has by, but a role's own rules refuse before any policy is asked: give reason")
    if entry.reason and entry.expect != "refuse":
        raise ValueError("it has reason, which is that of a role's own rules: expect refuse")
    return None if entry.by is None else tuple(sorted(entry.by))


def _asking(file: CasesFile, catalog: Catalog, entry: CaseEntry) -> Asking:
    return Asking(
        caller=_caller(file, entry.caller),
        action=entry.action,
        resource=_resource(file, entry),
        time=moment(entry.time) if entry.time else NOON,
        asked=_asked(entry),
        proposed=_proposed(file, entry),
        source_ip=entry.source,
        namespaces=LabeledNamespaces(file.namespaces),
        catalog=catalog,
    )


def _asked(entry: CaseEntry) -> Asked:
    asked = Asked(
        namespace=entry.namespace,
        service_account=entry.service_account,
        audiences=entry.audiences,
        ttl=duration(entry.ttl) if entry.ttl else None,
        cluster_wide=entry.cluster_wide,
    )
    if asked != Asked() and entry.action != "IssueToken":
        raise ValueError(f"it asks for a token's namespace, audiences and so on, but {entry.action} has none")
    return asked


def _caller(file: CasesFile, name: str) -> callers.Caller:
    entry = _one(file.callers, name, "callers")
    return callers.named(
        entry.name,
        claims=tuple(sorted(entry.claims.items())),
        groups=entry.groups,
        pod=entry.pod,
        node=entry.node,
        proxy=entry.proxy,
    )


def _resource(file: CasesFile, entry: CaseEntry) -> Any:
    kind = resource_type(entry.action)
    given = {what: name for what in _READERS if (name := getattr(entry, what))}
    needed = [] if kind is Server else [kind.__name__.lower()]
    if list(given) != needed:
        on = f"a {needed[0]}: give {needed[0]}" if needed else "the server itself: give none of role, config and lease"
        raise ValueError(f"{entry.action} is on {on}, and no more")
    return _READERS[needed[0]](file, given[needed[0]]) if needed else Server()


def _proposed(file: CasesFile, entry: CaseEntry) -> Any:
    kind = proposed_type(entry.action)
    if kind is None:
        if entry.proposed:
            raise ValueError(f"{entry.action} proposes nothing: leave proposed out")
        return None
    if entry.action.startswith("Create"):
        if entry.proposed:
            raise ValueError(f"{entry.action} proposes the resource itself: leave proposed out")
        return _resource(file, entry)
    if not entry.proposed:
        raise ValueError(f"{entry.action} needs proposed: which of the file's is what the resource would become")
    proposed = _role(file, entry.proposed) if kind is Role else _config(file, entry.proposed)
    # An update changes no name, so its policies see the new values under the old one.
    return replace(proposed, name=_resource(file, entry).name)


def _one(known: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in known:
        raise ValueError(f"{what} has no {name!r}; {nearest(name, known)}")
    return known[name]


def _role(file: CasesFile, name: str) -> Role:
    name = name.removeprefix("roles/")
    proto = role_service_pb2.Role()
    _fill(proto, _one(file.roles, name, "roles"), f"roles.{name}")
    proto.name = f"roles/{name}"
    check_rules(proto, f"roles.{name}.")
    role = roles.from_proto(proto)
    check_role(role, LIMITS)
    return role


def _config(file: CasesFile, name: str) -> Any:
    name = name.removeprefix("configs/")
    proto = config_service_pb2.Config()
    _fill(proto, _one(file.configs, name, "configs"), f"configs.{name}")
    proto.name = f"configs/{name}"
    check_rules(proto, f"configs.{name}.")
    return configs.from_proto(proto)


def _fill(proto: Message, written: dict[str, Any], path: str) -> None:
    known = {name for f in proto.DESCRIPTOR.fields for name in (f.name, f.json_name)}
    for key in written:
        if key not in known:
            raise ValueError(f"{path}.{key} is nothing that it can have; {nearest(key, known)}")
    try:
        json_format.ParseDict(written, proto)
    except json_format.ParseError as error:
        raise ValueError(f"{path}: {error}") from error


def _lease(file: CasesFile, name: str) -> Lease:
    entry: LeaseEntry = _one(file.leases, name.removeprefix("leases/"), "leases")
    role = _role(file, entry.role)
    return Lease(
        name=named("leases", name),
        role=role.name,
        config=role.config or DEFAULT_CONFIG,
        caller=_caller(file, entry.caller).name,
        namespace=entry.namespace,
        service_account=entry.service_account,
        audiences=role.allowed_audiences,
        create_time=_NEVER,
        expire_time=_NEVER,
    )


_READERS: dict[str, Callable[[CasesFile, str], Any]] = {"role": _role, "config": _config, "lease": _lease}
