"""ConfigService."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

from kubevend.v1 import config_service_pb2 as pb
from kubevend_server import names
from kubevend_server.authorization import Authorizer
from kubevend_server.calls import Call, Handler
from kubevend_server.catalog import Catalog
from kubevend_server.checks import Checker
from kubevend_server.clock import Clock
from kubevend_server.cluster.clusters import Clusters
from kubevend_server.config_rules import ConfigRules, normalized
from kubevend_server.configs import Config, Credential
from kubevend_server.errors import InvalidArgument, KubevendError, Violation
from kubevend_server.findings import Finding
from kubevend_server.paging import PageTokens
from kubevend_server.policy.access import Server
from kubevend_server.services import convert, listing
from kubevend_server.services.updating import check_etag, merge, require_named
from kubevend_server.store.configs import ConfigStore, config_not_found
from kubevend_server.streams import Opener

_CREDENTIALS = ("in_cluster", "token_file", "service_account_jwt", "client_certificate", "client_certificate_files")
_SEALED = ("service_account_jwt", "client_certificate")
_FIELDS = frozenset({"kubernetes_host", "kubernetes_ca_cert", "labels", *_CREDENTIALS})


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
        clusters: Clusters,
        checker: Checker,
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._authorizer = authorizer
        self._tokens = tokens
        self._store = store
        self._rules = rules
        self._clusters = clusters
        self._checker = checker
        self._clock = clock

    def handlers(self) -> dict[str, Handler]:
        """Its methods by name."""
        return {
            "GetConfig": self.get_config,
            "ListConfigs": self.list_configs,
            "CreateConfig": self.create_config,
            "UpdateConfig": self.update_config,
            "DeleteConfig": self.delete_config,
            "CheckConfig": self.check_config,
        }

    def openers(self) -> Mapping[str, Opener]:
        """None with many answers."""
        return {}

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
            from_proto(request.config),
            name=call.record.resource,
            etag=names.new_etag(),
            create_time=now,
            update_time=now,
        )
        self._authorizer.require(call, config, proposed=config)
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
        call.record.resource = request.config.name
        found, not_found = self._catalog.config(request.config.name), config_not_found(request.config.name)
        # A config that is not there takes the way of one that the caller may not see.
        old = found or Config(request.config.name)
        try:
            merged, missing = self._merge(old, request)
        except KubevendError:
            self._require_sight(call, old, not_found)
            if found is None:
                raise not_found from None
            raise
        self._authorizer.require(call, old, hidden=not_found, proposed=merged)
        if found is None:
            raise not_found
        check_etag(old.name, old.etag, request.config.etag)
        new = replace(merged, etag=names.new_etag(), create_time=old.create_time, update_time=self._clock())
        if missing:
            # Told in the journal's transaction, where the leases are: who must wait for them needs no credential yet.
            change = self._store.refuse_move(old, self._clock(), missing)
        else:
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

        def deleted() -> None:
            self._catalog.remove(config)
            self._clusters.forget(config.name)

        call.record.stage(change, deleted, validate_only=request.validate_only)
        return pb.DeleteConfigResponse()

    async def check_config(self, call: Call) -> Message:
        """Look at a config's cluster."""
        request = cast("pb.CheckConfigRequest", call.request)
        call.record.request = convert.written(request)
        config = self._find(call, request.name)
        roles = [role for role in self._catalog.roles() if role.config == config.name]
        shown = [role for role in roles if self._authorizer.may(call, "GetRole", role)]
        report = await self._checker.check(config, shown, hidden=len(shown) < len(roles))
        return pb.CheckConfigResponse(
            passed=report.passed,
            identity=report.identity,
            checks=map(_check, report.findings),
            missing_rbac=report.missing_rbac,
        )

    def _find(self, call: Call, name: str) -> Config:
        call.record.resource = name
        config = self._catalog.config(name)
        not_found = config_not_found(name)
        self._authorizer.require(call, config or Config(name), hidden=not_found)
        if config is None:
            raise not_found
        return config

    def _require_sight(self, call: Call, config: Config, not_found: KubevendError) -> None:
        if not self._authorizer.may(call, "GetConfig", config):
            call.record.denied = True
            raise not_found

    def _merge(self, old: Config, request: pb.UpdateConfigRequest) -> tuple[Config, InvalidArgument | None]:
        """The config as it would be, and the refusal where its credential must be given again for that."""
        merged = from_proto(merge(_to_proto(old), request.config, request.update_mask, _FIELDS))
        if _gives_credential(old, request):
            return replace(merged, credential=from_proto(request.config).credential), None
        merged = replace(merged, credential=old.credential)
        return merged, _credential_missing(old, request) if _needs_credential(old, merged) else None


def _needs_credential(old: Config, merged: Config) -> bool:
    # The pod's own credential goes to the pod's own host whatever is given; but who vouches for that host may change.
    moved = old.kubernetes_host != merged.kubernetes_host and old.credential.kind != "in_cluster"
    return moved or old.kubernetes_ca_cert != merged.kubernetes_ca_cert


def _gives_credential(old: Config, request: pb.UpdateConfigRequest) -> bool:
    """Whether a request holds a credential to put in place of the stored one; to name one in the mask does not do.

    Raises:
        InvalidArgument: the mask names a credential that the request does not hold.
    """
    kind, masked = request.config.WhichOneof("credential"), set(request.update_mask.paths)
    named = masked & set(_CREDENTIALS)
    if named and kind not in named:
        named_kinds = ", ".join(sorted(named))
        raise _credential_required(
            old,
            f"update_mask names {named_kinds}, but the request holds {kind or 'no credential'}: give what update_mask "
            f"names in the same UpdateConfig, or name {kind or 'no credential'} in update_mask",
        )
    if kind is None or (masked and not masked & {kind, "*"}):
        return False
    # A config that was read has an empty string in place of the secret; written back, it means the stored one.
    given = from_proto(request.config).credential
    read_back = (
        given.kind == old.credential.kind
        and given.kind in _SEALED
        and not given.secret
        and given.certificate == old.credential.certificate
    )
    return not read_back


def _credential_missing(old: Config, request: pb.UpdateConfigRequest) -> InvalidArgument:
    """The refusal of a host or a CA for which the stored credential was not meant."""
    why = "The host or the CA changes, and the stored credential was not meant for the new one"
    given, masked = request.config.WhichOneof("credential"), set(request.update_mask.paths)
    if given and masked and not masked & {given, "*"}:
        return _credential_required(
            old, f"{why}; the request gives {given}, but update_mask does not name it: add {given} to update_mask"
        )
    return _credential_required(
        old,
        f"{why}: give {old.name} its credential again, in the same UpdateConfig, as {old.credential.kind} and, where "
        "there is an update_mask, named in it",
    )


def _credential_required(old: Config, told: str) -> InvalidArgument:
    return InvalidArgument(
        "CREDENTIAL_REQUIRED",
        f"{told}.",
        metadata={"config": old.name},
        violations=[Violation(f"config.{old.credential.kind}", "required here")],
    )


def _written(request: Write) -> dict[str, Any]:
    """The request in proto JSON, without the credential, and with the CA's fingerprint in place of the CA."""
    shown = type(request)()
    shown.CopyFrom(request)
    kind = shown.config.WhichOneof("credential")
    if kind == "service_account_jwt":
        shown.config.service_account_jwt = ""
    elif kind == "client_certificate":
        shown.config.client_certificate.private_key = ""
    if shown.config.kubernetes_ca_cert:
        digest = hashlib.sha256(shown.config.kubernetes_ca_cert.encode()).hexdigest()
        shown.config.kubernetes_ca_cert = f"sha256:{digest}"
    return convert.written(shown)


def _to_proto(config: Config) -> pb.Config:
    proto = pb.Config(
        name=config.name,
        kubernetes_host=config.kubernetes_host,
        kubernetes_ca_cert=config.kubernetes_ca_cert,
        labels=dict(config.labels),
        etag=config.etag,
    )
    credential = config.credential
    if credential.kind == "in_cluster":
        proto.in_cluster.SetInParent()
    elif credential.kind == "token_file":
        proto.token_file = credential.token_file
    elif credential.kind == "client_certificate":
        proto.client_certificate.certificate = credential.certificate
    elif credential.kind == "client_certificate_files":
        proto.client_certificate_files.certificate_file = credential.certificate_file
        proto.client_certificate_files.private_key_file = credential.private_key_file
    else:
        # Set, so that it shows which kind it is; empty, since a secret never comes back.
        proto.service_account_jwt = ""
    convert.set_timestamp(proto.create_time, config.create_time)
    convert.set_timestamp(proto.update_time, config.update_time)
    return proto


def from_proto(proto: pb.Config) -> Config:
    """The config that a message describes."""
    kind = proto.WhichOneof("credential") or "in_cluster"
    return Config(
        name=proto.name,
        # In one form from here on, so that no policy is dodged by another spelling.
        kubernetes_host=normalized(proto.kubernetes_host),
        kubernetes_ca_cert=proto.kubernetes_ca_cert,
        credential=Credential(
            kind=kind,
            token_file=proto.token_file,
            service_account_jwt=proto.service_account_jwt,
            certificate=proto.client_certificate.certificate,
            private_key=proto.client_certificate.private_key,
            certificate_file=proto.client_certificate_files.certificate_file,
            private_key_file=proto.client_certificate_files.private_key_file,
        ),
        labels=tuple(sorted(proto.labels.items())),
    )


def _check(finding: Finding) -> pb.Check:
    return pb.Check(
        item=pb.Check.Item.Value(f"ITEM_{finding.item}"),
        state=pb.Check.State.Value(f"STATE_{finding.state}"),
        reason=finding.reason,
        message=finding.message,
        namespace=finding.namespace,
        service_account=finding.service_account,
        roles=finding.roles,
        metadata=finding.metadata,
    )
