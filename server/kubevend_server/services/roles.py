"""RoleService."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from google.protobuf.message import Message

from kubevend.v1 import role_service_pb2 as pb
from kubevend.v1 import warning_pb2
from kubevend_server import names
from kubevend_server.authorization import Authorizer
from kubevend_server.calls import Call, Handler
from kubevend_server.catalog import Catalog
from kubevend_server.clock import Clock
from kubevend_server.configs import Config
from kubevend_server.field_rules import check_rules
from kubevend_server.paging import PageTokens
from kubevend_server.policy.access import Server
from kubevend_server.policy.limits import Limits
from kubevend_server.policy.role_rules import check_role
from kubevend_server.promises import Promises
from kubevend_server.roles import (
    DEFAULT_NAME_TEMPLATE,
    GeneratedRole,
    KubernetesRole,
    LabelSelector,
    Operator,
    Requirement,
    Revocation,
    Role,
    RoleKind,
)
from kubevend_server.services import convert, listing
from kubevend_server.services.updating import check_etag, merge, require_named
from kubevend_server.store import roles as store
from kubevend_server.store.configs import config_missing
from kubevend_server.streams import Opener
from kubevend_server.warning import Warning

_FIELDS = frozenset(
    {
        "config",
        "allowed_namespaces",
        "allowed_service_accounts",
        "allowed_audiences",
        "default_audiences",
        "ttl",
        "max_ttl",
        "labels",
        "allowed_namespace_selector",
        "revocation",
        "kubernetes_role",
        "generated_role",
        "cluster_wide_allowed",
        "name_template",
        "extra_labels",
        "extra_annotations",
    }
)


_SOUND = pb.Role(allowed_audiences=["x"])


class RoleService:
    """Reads and writes roles."""

    name = "kubevend.v1.RoleService"

    def __init__(
        self,
        catalog: Catalog,
        authorizer: Authorizer,
        tokens: PageTokens,
        promises: Promises,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._promises = promises
        self._catalog = catalog
        self._authorizer = authorizer
        self._tokens = tokens
        self._limits = limits
        self._clock = clock

    def handlers(self) -> dict[str, Handler]:
        """Its methods by name."""
        return {
            "GetRole": self.get_role,
            "ListRoles": self.list_roles,
            "CreateRole": self.create_role,
            "UpdateRole": self.update_role,
            "DeleteRole": self.delete_role,
        }

    def openers(self) -> Mapping[str, Opener]:
        """None with many answers."""
        return {}

    async def get_role(self, call: Call) -> Message:
        """Read one role."""
        request = cast("pb.GetRoleRequest", call.request)
        return pb.GetRoleResponse(role=_to_proto(self._find(call, request.name)))

    async def list_roles(self, call: Call) -> Message:
        """List the roles that the caller may get."""
        request = cast("pb.ListRolesRequest", call.request)
        self._authorizer.require(call, Server())
        found, next_page = listing.page(
            "roles",
            self._catalog.roles(),
            (request.page_size, request.page_token),
            self._tokens,
            lambda role: self._authorizer.may(call, "GetRole", role),
        )
        return pb.ListRolesResponse(roles=map(_to_proto, found), next_page_token=next_page)

    async def create_role(self, call: Call) -> Message:
        """Make a role."""
        request = cast("pb.CreateRoleRequest", call.request)
        call.record.resource = f"roles/{request.role_id}"
        call.record.request = convert.written(request)
        now = self._clock()
        proposed = replace(
            from_proto(request.role),
            name=call.record.resource,
            etag=names.new_etag(),
            create_time=now,
            update_time=now,
        )
        self._authorizer.require(call, proposed, proposed=proposed)
        warnings = await self._check(call, proposed)
        call.record.stage(
            store.insert(proposed), lambda: self._catalog.put(proposed), validate_only=request.validate_only
        )
        return pb.CreateRoleResponse(role=_to_proto(proposed), warnings=warnings)

    async def update_role(self, call: Call) -> Message:
        """Change a role."""
        request = cast("pb.UpdateRoleRequest", call.request)
        call.record.request = convert.written(request)
        require_named("role", "roles", request.role.name)
        call.record.resource = request.role.name
        # The new values alone first, on a role that says nothing of the one that is there: what nobody could write is
        # not worth a question to the policy, and the answer is the same whether or not the role exists.
        check_rules(merge(_SOUND, request.role, request.update_mask, _FIELDS), "role.")
        old = self._catalog.role(request.role.name)
        merged = merge(_to_proto(old or Role(request.role.name)), request.role, request.update_mask, _FIELDS)
        merged.name = request.role.name
        proposed = replace(
            from_proto(merged),
            name=request.role.name,
            etag=names.new_etag(),
            create_time=old.create_time if old else None,
            update_time=self._clock(),
        )
        not_found = store.role_not_found(proposed.name)
        self._authorizer.require(call, old or Role(proposed.name), hidden=not_found, proposed=proposed)
        if old is None:
            raise not_found
        check_rules(merged, "role.")
        check_etag(old.name, old.etag, request.role.etag)
        warnings = await self._check(call, proposed)
        call.record.stage(
            store.update(old, proposed), lambda: self._catalog.put(proposed), validate_only=request.validate_only
        )
        return pb.UpdateRoleResponse(role=_to_proto(proposed), warnings=warnings)

    async def delete_role(self, call: Call) -> Message:
        """Delete a role."""
        request = cast("pb.DeleteRoleRequest", call.request)
        call.record.request = convert.written(request)
        role = self._find(call, request.name)
        check_etag(role.name, role.etag, request.etag)
        call.record.stage(store.delete(role), lambda: self._catalog.remove(role), validate_only=request.validate_only)
        return pb.DeleteRoleResponse()

    def _find(self, call: Call, name: str) -> Role:
        call.record.resource = name
        role = self._catalog.role(name)
        not_found = store.role_not_found(name)
        self._authorizer.require(call, role or Role(name), hidden=not_found)
        if role is None:
            raise not_found
        return role

    async def _check(self, call: Call, role: Role) -> Sequence[warning_pb2.Warning]:
        found: tuple[Warning, ...] = check_role(role, self._limits)
        allowed_by = call.record.policies
        config = self._catalog.config(role.config) or Config(role.config)
        missing = config_missing(role.config)
        self._authorizer.require(call, config, action="UseConfig", hidden=missing)
        # What permitted the call itself; a denied UseConfig has left what denied it.
        call.record.policies = allowed_by
        call.record.warnings = (*found, *await self._promises.check(role))
        return convert.warnings(call.record.warnings)


def _to_proto(role: Role) -> pb.Role:
    proto = pb.Role(
        name=role.name,
        config=role.config,
        allowed_namespaces=role.allowed_namespaces,
        allowed_service_accounts=role.allowed_service_accounts,
        allowed_audiences=role.allowed_audiences,
        default_audiences=role.default_audiences,
        labels=dict(role.labels),
        etag=role.etag,
        allowed_namespace_selector=_selector_to_proto(role.allowed_namespace_selector),
        revocation=pb.Revocation.Value(f"REVOCATION_{role.revocation}"),
        cluster_wide_allowed=role.cluster_wide_allowed,
        extra_labels=dict(role.extra_labels),
        extra_annotations=dict(role.extra_annotations),
    )
    if role.makes_accounts:
        proto.name_template = role.name_template
    if role.kubernetes_role is not None:
        proto.kubernetes_role.kind = _KINDS[role.kubernetes_role.kind]
        proto.kubernetes_role.name = role.kubernetes_role.name
    if role.generated_role is not None:
        proto.generated_role.kind = _KINDS[role.generated_role.kind]
        proto.generated_role.rules = role.generated_role.rules
    if role.ttl is not None:
        convert.set_duration(proto.ttl, role.ttl)
    if role.max_ttl is not None:
        convert.set_duration(proto.max_ttl, role.max_ttl)
    convert.set_timestamp(proto.create_time, role.create_time)
    convert.set_timestamp(proto.update_time, role.update_time)
    return proto


def from_proto(proto: pb.Role) -> Role:
    """The role that a message describes."""
    makes_accounts = proto.HasField("kubernetes_role") or proto.HasField("generated_role")
    return Role(
        name=proto.name,
        config=proto.config or names.DEFAULT_CONFIG,
        allowed_namespaces=tuple(proto.allowed_namespaces),
        allowed_service_accounts=tuple(proto.allowed_service_accounts),
        allowed_audiences=tuple(proto.allowed_audiences),
        default_audiences=tuple(proto.default_audiences),
        ttl=convert.duration(proto, "ttl", "role.ttl"),
        max_ttl=convert.duration(proto, "max_ttl", "role.max_ttl"),
        labels=tuple(sorted(proto.labels.items())),
        allowed_namespace_selector=(
            _selector_from_proto(proto.allowed_namespace_selector)
            if proto.HasField("allowed_namespace_selector")
            else None
        ),
        revocation=_REVOCATIONS.get(proto.revocation) or ("PER_LEASE" if makes_accounts else "NONE"),
        kubernetes_role=(
            KubernetesRole(_kind(proto.kubernetes_role.kind), proto.kubernetes_role.name)
            if proto.HasField("kubernetes_role")
            else None
        ),
        generated_role=(
            GeneratedRole(_kind(proto.generated_role.kind), proto.generated_role.rules)
            if proto.HasField("generated_role")
            else None
        ),
        cluster_wide_allowed=proto.cluster_wide_allowed,
        name_template=proto.name_template or DEFAULT_NAME_TEMPLATE,
        extra_labels=tuple(sorted(proto.extra_labels.items())),
        extra_annotations=tuple(sorted(proto.extra_annotations.items())),
    )


_KINDS: dict[RoleKind, pb.KubernetesRoleKind.ValueType] = {
    "Role": pb.KUBERNETES_ROLE_KIND_ROLE,
    "ClusterRole": pb.KUBERNETES_ROLE_KIND_CLUSTER_ROLE,
}
_REVOCATIONS: dict[int, Revocation] = {
    pb.REVOCATION_NONE: "NONE",
    pb.REVOCATION_PER_LEASE: "PER_LEASE",
    pb.REVOCATION_PER_CALLER: "PER_CALLER",
    pb.REVOCATION_PER_ROLE: "PER_ROLE",
}
_OPERATORS: dict[int, Operator] = {
    pb.LabelSelectorRequirement.OPERATOR_IN: "IN",
    pb.LabelSelectorRequirement.OPERATOR_NOT_IN: "NOT_IN",
    pb.LabelSelectorRequirement.OPERATOR_EXISTS: "EXISTS",
    pb.LabelSelectorRequirement.OPERATOR_DOES_NOT_EXIST: "DOES_NOT_EXIST",
}


def _kind(kind: int) -> RoleKind:
    return "ClusterRole" if kind == pb.KUBERNETES_ROLE_KIND_CLUSTER_ROLE else "Role"


def _selector_to_proto(selector: LabelSelector | None) -> pb.LabelSelector | None:
    if selector is None:
        return None
    return pb.LabelSelector(
        match_labels=dict(selector.match_labels),
        match_expressions=[
            pb.LabelSelectorRequirement(
                key=each.key,
                operator=pb.LabelSelectorRequirement.Operator.Value(f"OPERATOR_{each.operator}"),
                values=each.values,
            )
            for each in selector.match_expressions
        ],
    )


def _selector_from_proto(proto: pb.LabelSelector) -> LabelSelector:
    return LabelSelector(
        match_labels=tuple(sorted(proto.match_labels.items())),
        match_expressions=tuple(
            # What is no operator is refused by the field's own rule before it comes to this.
            Requirement(each.key, _OPERATORS.get(each.operator, "IN"), tuple(each.values))
            for each in proto.match_expressions
        ),
    )
