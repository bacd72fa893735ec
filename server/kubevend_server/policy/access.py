"""The access policy: which caller may do what, to what. Cedar policies; what none permits is denied.

See https://docs.cedarpolicy.com.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import cedarpy

from kubevend_server.callers import Caller
from kubevend_server.configs import Config
from kubevend_server.leases import Lease
from kubevend_server.policy.terms import Terms
from kubevend_server.roles import Role

SCHEMA = resources.files(__package__).joinpath("kubevend.cedarschema").read_text()

_MOST_REMEMBERED = 4096
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Server:
    """This server as a resource: what lists are asked of."""

    name: str = "kubevend"


Resource = Server | Config | Role | Lease


class PolicyError(ValueError):
    """A set of policies that cannot be used; the message names each fault."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of the access policy.

    Attributes:
        allowed: whether.
        policies: the `@id` of each policy that decided; empty where none matched, which denies.
        errors: what went wrong in the evaluation, which denies too.
    """

    allowed: bool
    policies: tuple[str, ...]
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What policies may ask about a call besides who, what and on what.

    Attributes:
        time: the present moment.
        source_ip: the peer's address, or empty where it has none.
        terms: for IssueToken, what would be granted.
        proposed: for the methods that create or update, the role or the config as it would be.
    """

    time: datetime
    source_ip: str = ""
    terms: Terms | None = None
    proposed: Role | Config | None = None


def join_files(files: Mapping[str, str]) -> str:
    """Join the texts of policy files, after each was checked alone, so that a fault is told with its file.

    Args:
        files: their texts, by name.

    Raises:
        PolicyError: one of them cannot be used; the message names it.
    """
    for name, text in files.items():
        try:
            AccessPolicy(text)
        except PolicyError as error:
            raise PolicyError(f"{name}: {error}") from error
    return "\n".join(files.values())


class AccessPolicy:
    """A set of Cedar policies, parsed and checked against the schema once."""

    def __init__(self, policies: str) -> None:
        """Parse and check a set of policies.

        Args:
            policies: Cedar text; every policy has an `@id` of its own.

        Raises:
            PolicyError: the text does not parse, does not fit the schema, or an `@id` is missing or doubled.
        """
        try:
            _check_ids(policies)
            self._policies = cedarpy.PolicySet.from_str(policies)
        except ValueError as error:
            raise PolicyError(f"The access policies cannot be used: {error}") from error
        result = cedarpy.validate_policies(policies, SCHEMA)
        if not result.validation_passed:
            ids = result.id_annotations_by_policy_id
            faults = "; ".join(f"{ids.get(e.policy_id, e.policy_id)}: {e.error}" for e in result.errors)
            raise PolicyError(f"The access policies do not fit the schema: {faults}")
        self._schema = cedarpy.Schema.from_str(SCHEMA)
        parsed = json.loads(cedarpy.policies_to_json_str(policies))
        self._asks_for_the_time = _asks_for_the_time(parsed)
        # Cedar has no clock and no state, so the same question has the same answer.
        self._remembered = functools.lru_cache(_MOST_REMEMBERED)(self._evaluate)
        self._remembered_of_leases = functools.lru_cache(_MOST_REMEMBERED)(self._evaluate)
        # Else it is what leases are about that decides, which many leases have in common.
        self._tells_leases_apart = _names_a_lease(parsed)

    def authorize(self, caller: Caller, action: str, resource: Resource, circumstances: Circumstances) -> Decision:
        """Decide whether a caller may do something.

        Args:
            caller: who.
            action: what: a method's name, or `UseConfig`.
            resource: to what.
            circumstances: the rest of what policies may ask about.

        Returns:
            The decision. An evaluation error is a denial: Cedar by itself would skip a `forbid` that errs.
        """
        if not self._asks_for_the_time:
            # Else no question would ever be asked again.
            circumstances = replace(circumstances, time=_ANY_TIME)
        else:
            circumstances = replace(circumstances, time=circumstances.time.replace(microsecond=0))
        # What is asked again and again is small; proposed roles may be large, and the names of ServiceAccounts that are
        # made for leases are many.
        made = circumstances.terms is not None and circumstances.terms.account is not None
        if isinstance(resource, Lease):
            if self._tells_leases_apart:
                return self._evaluate(caller, action, resource, circumstances)
            return self._remembered_of_leases(caller, action, _any_such(resource), circumstances)
        if circumstances.proposed is not None or made:
            return self._evaluate(caller, action, resource, circumstances)
        return self._remembered(caller, action, resource, circumstances)

    def _evaluate(self, caller: Caller, action: str, resource: Resource, circumstances: Circumstances) -> Decision:
        request = {
            "principal": {"type": caller.kind, "id": caller.name},
            "action": {"type": "Action", "id": action},
            "resource": {"type": type(resource).__name__, "id": resource.name},
            "context": _context(caller, resource, circumstances),
        }
        entities = self._parse_entities(caller, resource, circumstances.proposed)
        result = cedarpy.is_authorized(request, self._policies, entities, self._schema)
        diagnostics = result.diagnostics
        ids = diagnostics.id_annotations_by_reason
        return Decision(
            allowed=result.allowed and not diagnostics.errors,
            policies=tuple(sorted(ids.get(reason, reason) for reason in diagnostics.reasons)),
            errors=tuple(diagnostics.errors),
        )

    def _parse_entities(self, caller: Caller, resource: Resource, proposed: Role | Config | None) -> cedarpy.Entities:
        entities = [_principal(caller), _entity(resource)]
        if isinstance(proposed, Role):
            entities.append(_role(proposed, _proposed_id(proposed)))
        return cedarpy.Entities.from_json_str(json.dumps(entities), self._schema)


def actions() -> frozenset[str]:
    """The actions that the schema knows: the methods of the API, `UseConfig`, and the groups."""
    declared = re.findall(r"^action ([\w, ]+?)(?: in|\s+appliesTo|;)", SCHEMA, re.MULTILINE)
    return frozenset(name.strip() for names in declared for name in names.split(","))


def _check_ids(policies: str) -> None:
    seen: set[str] = set()
    parsed = json.loads(cedarpy.policies_to_json_str(policies))
    if parsed.get("templates"):
        raise ValueError("a template (with ?principal or ?resource) permits nothing; write a policy")
    for position, policy in parsed["staticPolicies"].items():
        name = policy.get("annotations", {}).get("id")
        if not name:
            raise ValueError(f'{position} (counted from 0) has no @id; write @id("a-name") before it')
        if name in seen:
            raise ValueError(f"two policies have the @id {name!r}")
        seen.add(name)


def _names_a_lease(policies: Any) -> bool:
    """Whether policies, as Cedar's JSON has them, speak of a lease by its name."""
    if isinstance(policies, dict):
        named = policies.get("type") == "Lease" and "id" in policies
        return named or any(map(_names_a_lease, policies.values()))
    return isinstance(policies, list) and any(map(_names_a_lease, policies))


def _asks_for_the_time(policies: Any) -> bool:
    """Whether policies, as Cedar's JSON has them, may look at `context.time`: whether they speak of any `time`."""
    if isinstance(policies, dict):
        named = policies.get("attr") == "time" or "time" in policies
        return named or any(map(_asks_for_the_time, policies.values()))
    return isinstance(policies, list) and any(map(_asks_for_the_time, policies))


def _any_such(lease: Lease) -> Lease:
    """A lease that has in common with this one what policies may ask about."""
    return Lease(
        name="leases/any",
        role=lease.role,
        config=lease.config,
        caller=lease.caller,
        namespace=lease.namespace,
        service_account=lease.service_account,
        audiences=(),
        create_time=_NEVER,
        expire_time=_NEVER,
    )


def _context(caller: Caller, resource: Resource, circumstances: Circumstances) -> dict[str, Any]:
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
    if isinstance(proposed, Role):
        context["proposed"] = {"__entity": {"type": "Role", "id": _proposed_id(proposed)}}
    elif proposed is not None:
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


def _proposed_id(role: Role) -> str:
    # A role's name has no space, so this is nobody's name.
    return f"{role.name} as proposed"


def _principal(caller: Caller) -> Mapping[str, Any]:
    attributes = {"name": caller.name, **dict(caller.attributes)}
    if caller.proxy:
        attributes["proxy"] = caller.proxy
    entity = {
        "uid": {"type": caller.kind, "id": caller.name},
        "attrs": attributes,
        "parents": [{"type": "Group", "id": group} for group in caller.groups],
    }
    return {**entity, "tags": dict(caller.claims)} if caller.claims else entity


def _entity(resource: Resource) -> Mapping[str, Any]:
    if isinstance(resource, Role):
        return _role(resource, resource.name)
    attributes: dict[str, Any] = {}
    if isinstance(resource, Lease):
        attributes = {
            "role": resource.role,
            "config": resource.config,
            "caller": resource.caller,
            "namespace": resource.namespace,
            "service_account": resource.service_account,
        }
    return {"uid": {"type": type(resource).__name__, "id": resource.name}, "attrs": attributes, "parents": []}


def _role(role: Role, entity_id: str) -> Mapping[str, Any]:
    return {
        "uid": {"type": "Role", "id": entity_id},
        "attrs": {
            "config": {"__entity": {"type": "Config", "id": role.config}},
            "allowed_namespaces": list(role.allowed_namespaces),
            "allowed_service_accounts": list(role.allowed_service_accounts),
            "allowed_audiences": list(role.allowed_audiences),
            "has_namespace_selector": role.allowed_namespace_selector is not None,
            "revocation": role.revocation,
            **_credentials(role),
        },
        "tags": dict(role.labels),
        "parents": [],
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
