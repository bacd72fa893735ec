"""ConfigService."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

from kubevend.v1 import config_service_pb2 as pb
from kubevend_server import names
from kubevend_server.authorization import Authorizer
from kubevend_server.calls import Call
from kubevend_server.catalog import Catalog
from kubevend_server.clock import Clock
from kubevend_server.config_rules import ConfigRules
from kubevend_server.configs import Config, Credential
from kubevend_server.errors import InvalidArgument, Violation
from kubevend_server.interceptors import Handler
from kubevend_server.paging import PageTokens
from kubevend_server.policy.access import Server
from kubevend_server.services import convert, listing
from kubevend_server.services.updating import check_etag, merge, require_named
from kubevend_server.store.configs import ConfigStore, config_not_found

_CREDENTIALS = ("in_cluster", "token_file", "service_account_jwt")
_FIELDS = frozenset({"kubernetes_host", "kubernetes_ca_cert", *_CREDENTIALS})


Write = TypeVar("Write", pb.CreateConfigRequest, pb.UpdateConfigRequest)


class ConfigService:
    """Reads and writes configs."""

    name = "kubevend.v1.ConfigService"

    def __init__(
        self,
        catalog: Catalog,
        authorizer: Authorizer,
        tokens: PageTokens,
        store: ConfigStore,
        rules: ConfigRules,
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._authorizer = authorizer
        self._tokens = tokens
        self._store = store
        self._rules = rules
        self._clock = clock

    def handlers(self) -> dict[str, Handler]:
        """Its methods by name."""
        return {
            "GetConfig": self.get_config,
            "ListConfigs": self.list_configs,
            "CreateConfig": self.create_config,
            "UpdateConfig": self.update_config,
            "DeleteConfig": self.delete_config,
        }

    async def get_config(self, call: Call) -> Message:
        """Read one config."""
        request = cast("pb.GetConfigRequest", call.request)
        return pb.GetConfigResponse(config=_to_proto(self._find(call, request.name)))

    async def list_configs(self, call: Call) -> Message:
        """List the configs that the caller may get."""
        request = cast("pb.ListConfigsRequest", call.request)
        self._authorizer.require(call, Server())
        found, next_page = listing.page(
            "configs",
            self._catalog.configs(),
            (request.page_size, request.page_token),
            self._tokens,
            lambda config: self._authorizer.may(call, "GetConfig", config),
        )
        return pb.ListConfigsResponse(configs=map(_to_proto, found), next_page_token=next_page)

    async def create_config(self, call: Call) -> Message:
        """Make a config."""
        request = cast("pb.CreateConfigRequest", call.request)
        call.record.resource = f"configs/{request.config_id}"
        call.record.request = _written(request)
        now = self._clock()
        config = replace(
            _from_proto(request.config),
            name=call.record.resource,
            etag=names.new_etag(),
            create_time=now,
            update_time=now,
        )
        self._authorizer.require(call, config)
        self._rules.check(config)
        call.record.stage(
            self._store.insert(config), lambda: self._catalog.put(config), validate_only=request.validate_only
        )
        return pb.CreateConfigResponse(config=_to_proto(config))

    async def update_config(self, call: Call) -> Message:
        """Change a config."""
        request = cast("pb.UpdateConfigRequest", call.request)
        call.record.request = _written(request)
        require_named("config", "configs", request.config.name)
        old = self._find(call, request.config.name)
        check_etag(old.name, old.etag, request.config.etag)
        new = replace(
            self._merge(old, request),
            etag=names.new_etag(),
            create_time=old.create_time,
            update_time=self._clock(),
        )
        self._rules.check(new)
        change = self._store.update(old, new, self._clock())
        call.record.stage(change, lambda: self._catalog.put(new), validate_only=request.validate_only)
        return pb.UpdateConfigResponse(config=_to_proto(new))

    async def delete_config(self, call: Call) -> Message:
        """Delete a config."""
        request = cast("pb.DeleteConfigRequest", call.request)
        call.record.request = convert.written(request)
        config = self._find(call, request.name)
        check_etag(config.name, config.etag, request.etag)
        change = self._store.delete(config, self._clock())
        call.record.stage(change, lambda: self._catalog.remove(config), validate_only=request.validate_only)
        return pb.DeleteConfigResponse()

    def _find(self, call: Call, name: str) -> Config:
        call.record.resource = name
        config = self._catalog.config(name)
        not_found = config_not_found(name)
        self._authorizer.require(call, config or Config(name), hidden=not_found)
        if config is None:
            raise not_found
        return config

    def _merge(self, old: Config, request: pb.UpdateConfigRequest) -> Config:
        merged = _from_proto(merge(_to_proto(old), request.config, request.update_mask, _FIELDS))
        if _gives_credential(old, request):
            return replace(merged, credential=_from_proto(request.config).credential)
        moved = (old.kubernetes_host, old.kubernetes_ca_cert) != (merged.kubernetes_host, merged.kubernetes_ca_cert)
        if moved and old.credential.kind != "in_cluster":
            raise _credential_required(
                old, "The host or the CA changes, and the stored credential was not meant for the new one"
            )
        return replace(merged, credential=old.credential)


def _gives_credential(old: Config, request: pb.UpdateConfigRequest) -> bool:
    """Whether a request holds a credential to put in place of the stored one; to name one in the mask does not do.

    Raises:
        InvalidArgument: the mask names a credential that the request does not hold.
    """
    kind, masked = request.config.WhichOneof("credential"), set(request.update_mask.paths)
    named = masked & set(_CREDENTIALS)
    if named and kind not in named:
        raise _credential_required(old, f"update_mask names {', '.join(sorted(named))}, but the request holds none")
    if kind is None or (masked and not masked & {kind, "*"}):
        return False
    # A config that was read has an empty string in place of the token; written back, it means the stored one.
    read_back = kind == old.credential.kind == "service_account_jwt" and not request.config.service_account_jwt
    return not read_back


def _credential_required(old: Config, why: str) -> InvalidArgument:
    return InvalidArgument(
        "CREDENTIAL_REQUIRED",
        f"{why}: give {old.name} its credential again ({old.credential.kind} now).",
        metadata={"config": old.name},
        violations=[Violation(f"config.{old.credential.kind}", "required here")],
    )


def _written(request: Write) -> dict[str, Any]:
    """The request in proto JSON, without the credential, and with the CA's fingerprint in place of the CA."""
    shown = type(request)()
    shown.CopyFrom(request)
    if shown.config.WhichOneof("credential") == "service_account_jwt":
        shown.config.service_account_jwt = ""
    if shown.config.kubernetes_ca_cert:
        digest = hashlib.sha256(shown.config.kubernetes_ca_cert.encode()).hexdigest()
        shown.config.kubernetes_ca_cert = f"sha256:{digest}"
    return convert.written(shown)


def _to_proto(config: Config) -> pb.Config:
    proto = pb.Config(
        name=config.name,
        kubernetes_host=config.kubernetes_host,
        kubernetes_ca_cert=config.kubernetes_ca_cert,
        etag=config.etag,
    )
    if config.credential.kind == "in_cluster":
        proto.in_cluster.SetInParent()
    elif config.credential.kind == "token_file":
        proto.token_file = config.credential.token_file
    else:
        # Set, so that it shows which kind it is; empty, since a secret never comes back.
        proto.service_account_jwt = ""
    convert.set_timestamp(proto.create_time, config.create_time)
    convert.set_timestamp(proto.update_time, config.update_time)
    return proto


def _from_proto(proto: pb.Config) -> Config:
    kind = proto.WhichOneof("credential") or "in_cluster"
    return Config(
        name=proto.name,
        kubernetes_host=proto.kubernetes_host,
        kubernetes_ca_cert=proto.kubernetes_ca_cert,
        credential=Credential(kind, proto.token_file, proto.service_account_jwt),
    )
