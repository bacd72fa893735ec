"""The access policy, asked about a call; what it answers goes into the call's record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kubevend_server.calls import Call
from kubevend_server.catalog import Catalog
from kubevend_server.clock import Clock
from kubevend_server.configs import Config
from kubevend_server.errors import KubevendError, PermissionDenied
from kubevend_server.leases import Lease
from kubevend_server.policy.access import Circumstances, Decision, Resource
from kubevend_server.policy.terms import Terms
from kubevend_server.policy.visible import Kind
from kubevend_server.policy_folder import PolicySource
from kubevend_server.roles import Role


class Authorizer:
    """Asks the access policies that are in force on behalf of calls."""

    def __init__(self, source: PolicySource, catalog: Catalog, clock: Clock) -> None:
        self._source = source
        self._catalog = catalog
        self._clock = clock

    def require(
        self,
        call: Call,
        resource: Resource,
        *,
        action: str = "",
        hidden: KubevendError | None = None,
        terms: Terms | None = None,
        proposed: Role | Config | None = None,
    ) -> Decision:
        """Refuse a call that the access policy does not allow.

        Args:
            call: the call.
            resource: on what.
            action: what, where that is not the call's method.
            hidden: the answer for a resource that is not there. A caller who may not even get the resource gets
                this one, so that the two cannot be told apart.
            terms: what would be granted.
            proposed: the role or the config as it would be.

        Raises:
            PermissionDenied: it is denied, and the caller may know that the resource exists.
            KubevendError: `hidden`.
        """
        action = action or call.method.name
        decision = self._ask(call, action, resource, terms, proposed)
        call.record.policies = decision.policies
        if decision.allowed:
            return decision
        call.record.denied = True
        if hidden is not None and not self.may(call, f"Get{type(resource).__name__}", resource):
            raise hidden
        raise PermissionDenied(
            "ACCESS_DENIED",
            f"{call.who.name} may not {action} on {resource.name}: {_why(decision)}. Have an operator add or "
            "change an access policy.",
            metadata={"caller": call.who.name, "action": action, "resource": resource.name},
        )

    def may(self, call: Call, action: str, resource: Resource) -> bool:
        """Whether the caller may do something else, such as get what a list would show."""
        return self._ask(call, action, resource).allowed

    def gettable_leases(self, call: Call) -> Sequence[Kind]:
        """The kinds of leases among which all are that the caller may get; each of them is still to be asked about."""
        roles = {role.name: role.labels for role in self._catalog.roles()}
        return self._source.current.gettable(call.who, Circumstances(self._clock(), call.source_ip), roles)

    def _ask(
        self,
        call: Call,
        action: str,
        resource: Resource,
        terms: Terms | None = None,
        proposed: Role | Config | None = None,
    ) -> Decision:
        circumstances = with_labels(
            Circumstances(self._clock(), call.source_ip, terms, proposed), resource, self._catalog
        )
        return self._source.current.authorize(call.who, action, resource, circumstances)


def with_labels(circumstances: Circumstances, resource: Resource, catalog: Catalog) -> Circumstances:
    """Circumstances with the labels of what a resource names: a lease its role, a role its config."""
    role = catalog.role(resource.role) if isinstance(resource, Lease) else None
    named = sorted({each.config for each in (resource, circumstances.proposed) if isinstance(each, Role)})
    configs = (catalog.config(name) for name in named)
    return replace(
        circumstances,
        role_labels=role.labels if role is not None else (),
        config_labels=tuple((config.name, config.labels) for config in configs if config is not None),
    )


def _why(decision: Decision) -> str:
    if decision.errors:
        return "an access policy could not be evaluated, which denies"
    if decision.policies:
        return f"forbidden by the access policies {', '.join(decision.policies)}"
    return "no access policy permits it"
