from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from kubevend_server.policy.access import Decision
from kubevend_server.policy.grant import Grant, grant
from kubevend_server.policy.terms import terms
from tests.unit.builders import NAMING, asked, granted, limits, role

TERMS = terms(role(), asked(), limits(), NAMING)
ALLOWED = Decision(True, ("everything",))


def test_a_grant_says_what_its_terms_say() -> None:
    """A grant has the namespace, the ServiceAccount, the audiences and the TTL of its terms."""
    got = grant(TERMS, ALLOWED)
    assert (got.terms, got.decision) == (TERMS, ALLOWED)
    assert (got.namespace, got.service_account, got.audiences, got.ttl) == (
        "apps",
        "deployer",
        ("https://api",),
        timedelta(hours=1),
    )


def test_a_denial_makes_no_grant() -> None:
    """Without an allowing decision there is no grant."""
    with pytest.raises(ValueError, match="denial"):
        grant(TERMS, Decision(False, ()))


def test_terms_without_audiences_make_no_grant() -> None:
    """A grant never leaves the audiences to the cluster."""
    with pytest.raises(ValueError, match="audiences"):
        grant(replace(TERMS, audiences=()), ALLOWED)


def test_a_grant_cannot_be_made_elsewhere() -> None:
    """The type's own constructor refuses, with or without a guess at its seal."""
    with pytest.raises(TypeError):
        Grant(TERMS, ALLOWED)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Grant(TERMS, ALLOWED, object())


def test_a_grant_cannot_be_widened_by_replace() -> None:
    """`dataclasses.replace`, with which frozen objects are changed everywhere, makes no other grant of a grant."""
    with pytest.raises((TypeError, ValueError)):
        replace(granted(), terms=replace(TERMS, namespace="kube-system"))  # type: ignore[call-arg]


def test_a_grant_does_not_change() -> None:
    """A grant is frozen."""
    with pytest.raises(AttributeError):
        granted().terms = replace(TERMS, namespace="kube-system")  # type: ignore[misc]
