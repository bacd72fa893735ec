"""The way of an issuance, from a request through a role to a token: `docs/architecture.md` tells it in steps."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from kubevend_server import names
from kubevend_server.audit import event
from kubevend_server.authorization import Authorizer
from kubevend_server.calls import Call
from kubevend_server.catalog import Catalog
from kubevend_server.clock import Clock
from kubevend_server.cluster.clusters import Clusters
from kubevend_server.cluster.tokens import IssuedToken, request_token
from kubevend_server.errors import FailedPrecondition, KubevendError
from kubevend_server.journal import Journal
from kubevend_server.leases import Lease, LeaseToken
from kubevend_server.policy.grant import Grant, grant
from kubevend_server.policy.terms import Asked, Limits, Terms, Warning, check_min_ttl, seconds, shortened, terms
from kubevend_server.roles import Role
from kubevend_server.store import leases as lease_store
from kubevend_server.store.configs import config_missing
from kubevend_server.store.roles import role_not_found

_SLACK = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Issued:
    """What an issuance came to. `token` and `lease` are empty where it was only validated."""

    grant: Grant
    audiences: tuple[str, ...]
    expiration: datetime
    token_expiration: datetime
    granted_ttl: timedelta
    warnings: tuple[Warning, ...]
    token: IssuedToken | None = None
    lease: str = ""


class Issuance:
    """Issues tokens."""

    def __init__(
        self,
        catalog: Catalog,
        authorizer: Authorizer,
        clusters: Clusters,
        journal: Journal,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._authorizer = authorizer
        self._clusters = clusters
        self._journal = journal
        self._limits = limits
        self._clock = clock

    async def issue(self, call: Call, role_name: str, asked: Asked, *, validate_only: bool) -> Issued:
        """Decide on a request, and have the cluster mint the token.

        The lease goes into the call's record: the journal writes it together with the audit event, before the token
        leaves.

        Raises:
            KubevendError: see the comment of IssueService.IssueToken.
        """
        granted = self._decide(call, role_name, asked)
        config = self._catalog.config(granted.terms.config)
        if config is None:
            raise config_missing(granted.terms.config)
        if validate_only:
            return _foreseen(granted, self._clock())
        connection = self._clusters.of(config)

        lease_name, audit_id = names.new_lease_name(self._clock()), str(uuid.uuid4())
        await self._journal.intend(event.intent(call, granted, lease_name, audit_id))
        call.record.kubernetes_audit_id, call.record.announced = audit_id, True
        # From here on a token may exist, so the work is carried to its end, whether or not the caller waits for it.
        call.irrevocable = True
        token = await request_token(connection, granted, audit_id)
        return self._lease(call, granted, token, lease_name)

    def _decide(self, call: Call, role_name: str, asked: Asked) -> Grant:
        call.record.resource = role_name
        # A role that is not there takes the way of one that allows nothing, and of one that the caller may not see.
        found = self._catalog.role(role_name)
        role = found or Role(role_name)
        try:
            offered = terms(role, asked, self._limits)
        except KubevendError as refusal:
            # The refusal tells what the role allows, which is for those who may see the role.
            self._require_sight(call, role)
            raise refusal if found else role_not_found(role_name) from None
        call.record.rules, call.record.warnings = offered.rules, offered.warnings
        decision = self._authorizer.require(call, role, hidden=role_not_found(role.name), terms=offered)
        call.record.grant = grant(offered, decision)
        return call.record.grant

    def _require_sight(self, call: Call, role: Role) -> None:
        if not self._authorizer.may(call, "GetRole", role):
            call.record.denied = True
            raise role_not_found(role.name)

    def _lease(self, call: Call, granted: Grant, token: IssuedToken, lease_name: str) -> Issued:
        record = call.record
        record.jti, record.token_expiration = token.jti, token.expire_time
        record.warnings = (*granted.terms.warnings, *_by_cluster(granted.terms, token))
        _check_minted(granted, token)
        check_min_ttl(token.ttl, granted.terms, record.warnings)
        lease = Lease(
            name=lease_name,
            role=granted.terms.role,
            config=granted.terms.config,
            caller=call.who.name,
            namespace=granted.namespace,
            service_account=granted.service_account,
            audiences=token.audiences,
            create_time=token.issue_time,
            expire_time=token.expire_time,
            tokens=(LeaseToken(token.jti, token.kubernetes_audit_id, token.issue_time, token.expire_time),),
        )
        record.lease, record.expiration = lease.name, lease.expire_time
        record.rows = lease_store.rows(lease)
        return Issued(
            grant=granted,
            audiences=token.audiences,
            expiration=lease.expire_time,
            token_expiration=token.expire_time,
            granted_ttl=token.expire_time - token.issue_time,
            warnings=record.warnings,
            token=token,
            lease=lease.name,
        )


def _check_minted(granted: Grant, token: IssuedToken) -> None:
    """Drop a token that is wider or longer than the grant: a webhook or a proxy can make the cluster answer so.

    Raises:
        FailedPrecondition: it is.
    """
    longer = token.expire_time - token.issue_time > granted.ttl + _SLACK
    if longer or not set(token.audiences) <= set(granted.audiences):
        raise FailedPrecondition(
            "TOKEN_NOT_AS_GRANTED",
            f"The cluster of {granted.terms.config} minted a token that is wider than the grant (audiences "
            f"{', '.join(token.audiences)}; {seconds(token.expire_time - token.issue_time)}), and it was dropped. Look "
            "for a mutating webhook on serviceaccounts/token, or a proxy.",
            metadata={"config": granted.terms.config, "subject": granted.terms.config},
        )


def _by_cluster(offered: Terms, token: IssuedToken) -> tuple[Warning, ...]:
    if token.ttl >= offered.ttl:
        return tuple(_said(text) for text in token.warnings)
    # What the cluster itself says of it is told here better: by whom, from what, to what.
    others = [text for text in token.warnings if not text.startswith("requested expiration of")]
    cap = shortened("TTL_CAPPED_BY_CLUSTER", "the cluster's maximum", offered.ttl, token.ttl)
    return (cap, *map(_said, others))


def _said(text: str) -> Warning:
    return Warning("CLUSTER_WARNING", f"The cluster warned: {text}")


def _foreseen(granted: Grant, now: datetime) -> Issued:
    end = now + granted.ttl
    return Issued(
        grant=granted,
        audiences=granted.audiences,
        expiration=end,
        token_expiration=end,
        granted_ttl=granted.ttl,
        warnings=granted.terms.warnings,
    )
