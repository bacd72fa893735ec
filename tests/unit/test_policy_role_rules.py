from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from kubevend_server.errors import InvalidArgument, Violation
from kubevend_server.policy.role_rules import check_role
from kubevend_server.warning import Warning
from tests.unit.builders import limits, role


def test_a_sound_role_is_accepted_without_a_word() -> None:
    """A role that keeps all rules raises nothing and warns of nothing."""
    assert check_role(role(), limits()) == ()


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (
            {"allowed_namespaces": ("*", "apps")},
            Violation("role.allowed_namespaces", "'*' stands for all and must stand alone"),
        ),
        (
            {"allowed_service_accounts": ("a", "*")},
            Violation("role.allowed_service_accounts", "'*' stands for all and must stand alone"),
        ),
        (
            {"default_audiences": ("other",)},
            Violation("role.default_audiences", "'other' is not in allowed_audiences"),
        ),
        (
            {"allowed_audiences": ("kubevend",)},
            Violation("role.allowed_audiences", "'kubevend' is kubevend's own and is never issued"),
        ),
        (
            {"ttl": timedelta(seconds=599)},
            Violation("role.ttl", "599s is less than 600s, Kubernetes' floor for a token"),
        ),
        (
            {"ttl": None, "max_ttl": timedelta(seconds=60)},
            Violation("role.max_ttl", "60s is less than 600s, Kubernetes' floor for a token"),
        ),
        (
            {"ttl": timedelta(hours=3), "max_ttl": timedelta(hours=2)},
            Violation("role.ttl", "10800s is more than max_ttl, 7200s"),
        ),
    ],
)
def test_a_role_that_contradicts_itself_is_refused(overrides: dict[str, Any], fault: Violation) -> None:
    """Each rule that a role breaks is named with its field."""
    with pytest.raises(InvalidArgument) as refusal:
        check_role(role(**overrides), limits())
    assert (refusal.value.reason, refusal.value.metadata, refusal.value.violations) == (
        "ROLE_INVALID",
        {"role": "roles/ci"},
        (fault,),
    )
    assert refusal.value.message == f"roles/ci cannot be: {fault.field}: {fault.description}."


def test_every_fault_is_named_at_once() -> None:
    """A role with several faults is refused with all of them."""
    with pytest.raises(InvalidArgument) as refusal:
        check_role(role(default_audiences=("x", "y"), ttl=timedelta(seconds=1)), limits())
    assert [fault.field for fault in refusal.value.violations] == [
        "role.default_audiences",
        "role.default_audiences",
        "role.ttl",
    ]


def test_a_ttl_above_the_servers_is_accepted_with_a_warning() -> None:
    """What a role wants beyond the server's max_ttl is no fault, but its owner is told that it will not hold."""
    found = check_role(role(ttl=None, max_ttl=timedelta(days=2)), limits())
    assert found == (
        Warning(
            "TTL_ABOVE_SERVER_MAX",
            "max_ttl is 172800s, but this server's max_ttl is 86400s, which holds in any case.",
            (("by", "the server's max_ttl"), ("from", "172800s"), ("to", "86400s")),
        ),
    )
