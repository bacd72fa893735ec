"""Another token of a lease that a request id has got before: what it may be, and how long it may live."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta

from kubevend_server.errors import FailedPrecondition
from kubevend_server.leases import Lease
from kubevend_server.policy.grant import Grant
from kubevend_server.policy.lifetimes import seconds
from kubevend_server.policy.limits import MINIMUM_TTL
from kubevend_server.policy.terms import Terms

MOST_TOKENS = 100
"""Of one lease. Whoever reads a lease reads all of its tokens, and no call loses so many answers."""

_SECOND = timedelta(seconds=1)


def terms_digest(terms: Terms) -> str:
    """What was granted, its lifetime aside: SHA-256 in hexadecimal, to tell whether it would be granted again."""
    what = (terms.config, terms.namespace, terms.service_account, sorted(terms.audiences), terms.revocation)
    return hashlib.sha256(repr((*what, terms.account)).encode()).hexdigest()


def time_left(lease: Lease, now: datetime) -> timedelta:
    """For how long a lease still lives, in whole seconds.

    Where a lease ends with its token, its end is a moment by the cluster's clock, which may not be ours. So no more is
    left of it than of the token's life, from the moment at which it was granted: a token for that long does not
    outlive the lease, whichever clock is ahead.
    """
    left = lease.expire_time - now
    if lease.revocation != "PER_LEASE" and lease.tokens:
        # The first one's, which is the longest: tokens of the same second come in no order.
        whole = max(token.expire_time - token.issue_time for token in lease.tokens)
        left = min(left, whole - (now - lease.create_time))
    return left // _SECOND * _SECOND


def within(offered: Terms, lease: Lease, now: datetime) -> Terms:
    """What a role offers, for as long as a lease still lives at the most. Less than a second is told as one."""
    left = max(time_left(lease, now), _SECOND)
    if left >= offered.ttl:
        return offered
    rule = f"ttl: shortened from {seconds(offered.ttl)} to {seconds(left)}, which is what is left of {lease.name}"
    return replace(offered, ttl=left, rules=(*offered.rules, rule))


def life(granted: Grant, lease: Lease, now: datetime) -> timedelta:
    """How long another token of a lease is good for, from now on.

    Args:
        granted: what was granted, within the lease.
        lease: the lease.
        now: the moment.

    Raises:
        FailedPrecondition: Kubernetes issues no token that short, and kubevend would not end a longer one; or it is
            shorter than the caller can use.
    """
    left = min(time_left(lease, now), granted.ttl)
    if left < (_SECOND if lease.revocation == "PER_LEASE" else MINIMUM_TTL):
        raise FailedPrecondition(
            "REQUEST_ID_LEASE_TOO_SHORT",
            f"{lease.name}, which this request_id has got, lives {seconds(left)} more, and Kubernetes issues no token "
            f"for less than {seconds(MINIMUM_TTL)}. Use a new request_id for another lease.",
            metadata=_facts(lease, left),
        )
    min_ttl = granted.terms.min_ttl
    if min_ttl is not None and left < min_ttl:
        raise FailedPrecondition(
            "MIN_TTL_NOT_MET",
            f"min_ttl is {seconds(min_ttl)}, but {lease.name}, which this request_id has got, lives {seconds(left)} "
            "more. Use a new request_id for another lease.",
            metadata={**_facts(lease, left), "min_ttl": seconds(min_ttl), "ttl": seconds(left)},
        )
    return left


def _facts(lease: Lease, left: timedelta) -> dict[str, str]:
    return {"lease": lease.name, "left": seconds(left), "minimum": seconds(MINIMUM_TTL), "subject": lease.name}


def worth_more(lease: Lease, now: datetime) -> bool:
    """Whether a stream that is opened again goes on with a lease: with the next one, where little is left of it."""
    if len(lease.tokens) >= MOST_TOKENS:
        return False
    left = time_left(lease, now)
    # Its turn at the cluster takes some of what is left.
    least = timedelta(0) if lease.revocation == "PER_LEASE" else MINIMUM_TTL * 1.05
    return left > max(least, (lease.expire_time - lease.create_time) / 3)
