"""Test cases for access policies: the entries of a file made to questions, with the answers that they must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from google.protobuf import json_format
from google.protobuf.message import Message

from kubevend.v1 import config_service_pb2, role_service_pb2
from kubevend_server import callers
from kubevend_server.catalog import Catalog
from kubevend_server.errors import KubevendError
from kubevend_server.field_rules import check_rules
from kubevend_server.leases import Lease
from kubevend_server.policy.access import Server
from kubevend_server.policy.role_rules import check_role
from kubevend_server.policy.terms import Asked
from kubevend_server.policy_commands.case_files import CaseEntry, CasesError, CasesFile, LeaseEntry, parse
from kubevend_server.policy_commands.questions import (
    LIMITS,
    Asking,
    LabeledNamespaces,
    duration,
    lease_of,
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
        entries = parse(file.read_bytes())
        catalog = _catalog(entries)
        cases = [_case(entries, catalog, place, entry) for place, entry in enumerate(entries.cases)]
    except CasesError as error:
        raise CasesError(f"{file}: {error}") from error
    return file.parent / entries.policies, cases


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
    caller = _caller(file, entry.caller)
    return lease_of(role, caller, entry.namespace, entry.service_account, named("leases", name))


_READERS: dict[str, Callable[[CasesFile, str], Any]] = {"role": _role, "config": _config, "lease": _lease}
