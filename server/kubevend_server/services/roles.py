"""RoleService."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from google.protobuf.message import Message

from kubevend.v1 import role_service_pb2 as pb
from kubevend.v1 import warning_pb2
from kubevend_server import names
from kubevend_server.authorization import Authorizer
from kubevend_server.calls import Call
from kubevend_server.catalog import Catalog
from kubevend_server.clock import Clock
from kubevend_server.configs import Config
from kubevend_server.field_rules import check_rules
from kubevend_server.interceptors import Handler
from kubevend_server.paging import PageTokens
from kubevend_server.policy.access import Server
from kubevend_server.policy.role_rules import check_role
from kubevend_server.policy.terms import Limits, Warning
from kubevend_server.roles import Role
from kubevend_server.services import convert, listing
from kubevend_server.services.updating import check_etag, merge, require_named
from kubevend_server.store import roles as store
from kubevend_server.store.configs import config_missing

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
    }
)


_SOUND = pb.Role(allowed_namespaces=["x"], allowed_service_accounts=["x"], allowed_audiences=["x"])


class RoleService:
    """Reads and writes roles."""

    name = "kubevend.v1.RoleService"

    def __init__(
        self, catalog: Catalog, authorizer: Authorizer, tokens: PageTokens, limits: Limits, clock: Clock
    ) -> None:
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
            _from_proto(request.role),
            name=call.record.resource,
            etag=names.new_etag(),
            create_time=now,
            update_time=now,
        )
        self._authorizer.require(call, proposed, proposed=proposed)
        warnings = self._check(call, proposed)
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
            _from_proto(merged),
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
        warnings = self._check(call, proposed)
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

    def _check(self, call: Call, role: Role) -> Sequence[warning_pb2.Warning]:
        found: tuple[Warning, ...] = check_role(role, self._limits)
        allowed_by = call.record.policies
        config = self._catalog.config(role.config) or Config(role.config)
        missing = config_missing(role.config)
        self._authorizer.require(call, config, action="UseConfig", hidden=missing)
        # What permitted the call itself; a denied UseConfig has left what denied it.
        call.record.policies = allowed_by
        call.record.warnings = found
        return convert.warnings(found)


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
    )
    if role.ttl is not None:
        convert.set_duration(proto.ttl, role.ttl)
    if role.max_ttl is not None:
        convert.set_duration(proto.max_ttl, role.max_ttl)
    convert.set_timestamp(proto.create_time, role.create_time)
    convert.set_timestamp(proto.update_time, role.update_time)
    return proto


def _from_proto(proto: pb.Role) -> Role:
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
    )
