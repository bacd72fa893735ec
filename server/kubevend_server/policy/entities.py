"""What policies may ask about, as Cedar has it: entities with their attributes, and the context of a call."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubevend_server.callers import Caller
from kubevend_server.configs import Config
from kubevend_server.leases import Lease
from kubevend_server.policy.terms import Terms
from kubevend_server.roles import Role


@dataclass(frozen=True, slots=True)
class Server:
    """This server as a resource: what lists are asked of."""

    name: str = "kubevend"


Labels = tuple[tuple[str, str], ...]
Resource = Server | Config | Role | Lease


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What policies may ask about a call besides who, what and on what.

    Attributes:
        time: the present moment.
        source_ip: the peer's address, or empty where it has none.
        terms: for IssueToken, what would be granted.
        proposed: for the methods that create or update, the role or the config as it would be.
        role_labels: for a lease, the labels of its role as they are now; none where the role is gone.
        config_labels: the labels that a role's config has, as it is or as it would be, by the config's name.
    """

    time: datetime
    source_ip: str = ""
    terms: Terms | None = None
    proposed: Role | Config | None = None
    role_labels: Labels = ()
    config_labels: tuple[tuple[str, Labels], ...] = ()


def context(caller: Caller, resource: Resource, circumstances: Circumstances) -> dict[str, Any]:
    """The context of a call."""
    context: dict[str, Any] = {
        "mechanism": caller.mechanism,
        "time": {"__extn": {"fn": "datetime", "arg": circumstances.time.strftime("%Y-%m-%dT%H:%M:%SZ")}},
    }
    if circumstances.source_ip:
        context["source"] = {"__extn": {"fn": "ip", "arg": circumstances.source_ip}}
    if circumstances.terms is not None:
        context["namespace"] = circumstances.terms.namespace
        context["service_account"] = circumstances.terms.service_account
        context["audiences"] = list(circumstances.terms.audiences)
        context["ttl"] = int(circumstances.terms.ttl.total_seconds())
        context["cluster_wide"] = circumstances.terms.account is not None and circumstances.terms.account.cluster_wide
    proposed = circumstances.proposed
    if proposed is not None:
        kind = type(proposed).__name__
        context["proposed"] = {"__entity": {"type": kind, "id": proposed_id(proposed)}}
    if isinstance(proposed, Config):
        context["kubernetes_host"] = proposed.kubernetes_host
        context["credential"] = proposed.credential.kind
        context["credential_files"] = sorted(proposed.credential.files.values())
        context["kubernetes_ca_cert_sha256"] = _sha256(proposed.kubernetes_ca_cert)
        # A config that is only proposed has no version yet.
        if isinstance(resource, Config) and resource is not proposed:
            context["current_kubernetes_host"] = resource.kubernetes_host
            context["current_credential"] = resource.credential.kind
            context["current_credential_files"] = sorted(resource.credential.files.values())
    return context


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def proposed_id(proposed: Role | Config) -> str:
    """What a role or config as it would be is called, beside the one as it is."""
    # A resource's name has no space, so this is nobody's name.
    return f"{proposed.name} as proposed"


def principal(caller: Caller) -> Mapping[str, Any]:
    """A caller as an entity, with the groups that it is in as its parents."""
    attributes = {"name": caller.name, **dict(caller.attributes)}
    if caller.proxy:
        attributes["proxy"] = caller.proxy
    entity = {
        "uid": {"type": caller.kind, "id": caller.name},
        "attrs": attributes,
        "parents": [{"type": "Group", "id": group} for group in caller.groups],
    }
    return {**entity, "tags": dict(caller.claims)} if caller.claims else entity


def entity(resource: Resource, circumstances: Circumstances) -> Mapping[str, Any]:
    """A resource as an entity, under its own name."""
    if isinstance(resource, Role | Config):
        return _labelled(resource, resource.name)
    if not isinstance(resource, Lease):
        return {"uid": {"type": "Server", "id": resource.name}, "attrs": {}, "parents": []}
    attributes = {
        "role": resource.role,
        "config": resource.config,
        "caller": resource.caller,
        "namespace": resource.namespace,
        "service_account": resource.service_account,
    }
    return {
        "uid": {"type": "Lease", "id": resource.name},
        "attrs": attributes,
        "tags": dict(circumstances.role_labels),
        "parents": [],
    }


def known(caller: Caller, resource: Resource, circumstances: Circumstances) -> list[Mapping[str, Any]]:
    """All entities that a question is about."""
    found = [principal(caller), entity(resource, circumstances)]
    if circumstances.proposed is not None:
        found.append(proposed_entity(circumstances.proposed))
    labels = dict(circumstances.config_labels)
    roles = [each for each in (resource, circumstances.proposed) if isinstance(each, Role)]
    # Else a policy that asks for a tag of resource.config would silently find none.
    found += [_config(name, labels.get(name, ())) for name in sorted({role.config for role in roles})]
    return found


def _config(name: str, labels: Labels) -> Mapping[str, Any]:
    return {"uid": {"type": "Config", "id": name}, "attrs": {}, "tags": dict(labels), "parents": []}


def proposed_entity(proposed: Role | Config) -> Mapping[str, Any]:
    """A role or config as it would be, as an entity beside the one as it is."""
    return _labelled(proposed, proposed_id(proposed))


def _labelled(resource: Role | Config, entity_id: str) -> Mapping[str, Any]:
    return {
        "uid": {"type": type(resource).__name__, "id": entity_id},
        "attrs": _role_attributes(resource) if isinstance(resource, Role) else {},
        "tags": dict(resource.labels),
        "parents": [],
    }


def _role_attributes(role: Role) -> Mapping[str, Any]:
    return {
        "config": {"__entity": {"type": "Config", "id": role.config}},
        "allowed_namespaces": list(role.allowed_namespaces),
        "allowed_service_accounts": list(role.allowed_service_accounts),
        "allowed_audiences": list(role.allowed_audiences),
        "has_namespace_selector": role.allowed_namespace_selector is not None,
        "revocation": role.revocation,
        "extra_labels": [f"{key}={value}" for key, value in role.extra_labels],
        "extra_annotations": [f"{key}={value}" for key, value in role.extra_annotations],
        **_credentials(role),
    }


def _credentials(role: Role) -> dict[str, Any]:
    """How a role comes to its credentials."""
    made, there = role.generated_role, role.kubernetes_role
    kind = made.kind if made else there.kind if there else ""
    return {
        "makes_service_accounts": role.makes_accounts,
        "kubernetes_role": f"{kind}/{there.name}" if there else kind,
        "generated_rules": made.rules if made else "",
        "cluster_wide_allowed": role.cluster_wide_allowed,
    }
