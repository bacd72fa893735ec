"""A token that a cluster minted, held against what was granted."""

from __future__ import annotations

from datetime import datetime, timedelta

from kubevend_server.cluster.tokens import IssuedToken
from kubevend_server.errors import FailedPrecondition
from kubevend_server.leases import ClusterObject
from kubevend_server.policy.grant import Grant
from kubevend_server.policy.lifetimes import seconds, shortened
from kubevend_server.policy.terms import Terms
from kubevend_server.warning import Warning

_SLACK = timedelta(seconds=60)
"""By how much a token may live longer than it was granted for."""


def check_minted(granted: Grant, token: IssuedToken) -> None:
    """Drop a token that is wider or longer than the grant: a webhook or a proxy can make the cluster answer so.

    Raises:
        FailedPrecondition: it is.
    """
    longer = token.expire_time - token.issue_time > granted.token_ttl + _SLACK
    if longer or not set(token.audiences) <= set(granted.audiences):
        raise FailedPrecondition(
            "TOKEN_NOT_AS_GRANTED",
            f"The cluster of {granted.terms.config} minted a token that is wider than the grant (audiences "
            f"{', '.join(token.audiences)}; {seconds(token.expire_time - token.issue_time)}), and it was dropped. Look "
            "for a mutating webhook on serviceaccounts/token, or a proxy.",
            metadata={"config": granted.terms.config, "subject": granted.terms.config},
        )


def check_bound(granted: Grant, token: IssuedToken, anchor: ClusterObject | None) -> None:
    """Drop a token that would outlive its anchor, and with it any word of its end.

    Raises:
        FailedPrecondition: it is bound to something else, or to nothing.
    """
    if anchor is None:
        return
    name, uid = token.bound
    if name != anchor.name or (anchor.uid and uid != anchor.uid):
        raise FailedPrecondition(
            "TOKEN_NOT_AS_GRANTED",
            f"The cluster of {granted.terms.config} minted a token that is not bound to Secret {anchor.namespace}/"
            f"{anchor.name}, so that deleting this would not end it, and it was dropped. Look for a mutating webhook "
            "on serviceaccounts/token, or a proxy.",
            metadata={"config": granted.terms.config, "subject": granted.terms.config},
        )


def by_cluster(offered: Terms, token: IssuedToken) -> tuple[Warning, ...]:
    """What the cluster made otherwise than asked, or warns of."""
    if token.ttl >= offered.ttl:
        return tuple(_said(text) for text in token.warnings)
    # What the cluster itself says of it is told here better: by whom, from what, to what.
    others = [text for text in token.warnings if not text.startswith("requested expiration of")]
    cap = shortened("TTL_CAPPED_BY_CLUSTER", "the cluster's maximum", offered.ttl, token.ttl)
    return (cap, *map(_said, others))


def _said(text: str) -> Warning:
    return Warning("CLUSTER_WARNING", f"The cluster warned: {text}")


def lease_end(granted: Grant, token: IssuedToken, now: datetime) -> datetime:
    """When the lease of a token ends: with it, unless kubevend ends it earlier, by its own clock."""
    if granted.ttl >= granted.token_ttl:
        return token.expire_time
    return min(now + granted.ttl, token.expire_time)
