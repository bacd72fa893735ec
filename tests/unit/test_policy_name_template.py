from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kubevend_server.policy.name_template import PREFIX, RANDOM_LENGTH, render, template_fault
from kubevend_server.roles import DEFAULT_NAME_TEMPLATE

RANDOM = "0123456789abcdef"
LABEL = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
RANDOMS = st.text("0123456789abcdefghjkmnpqrstvwxyz", min_size=RANDOM_LENGTH, max_size=RANDOM_LENGTH)
PIECES = st.sampled_from(["{role}", "{caller}", "{random}", "-", "a", "team-", "0", "x" * 12])
TEMPLATES = st.lists(PIECES, max_size=8).map(lambda pieces: PREFIX + "".join(pieces))


@given(st.text(max_size=80), st.text(max_size=300), RANDOMS)
@example("r" * 63, "spiffe://" + "a" * 300, RANDOM)
@example("", "://", RANDOM)
def test_whatever_the_caller_the_name_is_valid(role_id: str, caller: str, random: str) -> None:
    """The default template makes a name of whatever caller and role, and the random part is whole."""
    name = render(DEFAULT_NAME_TEMPLATE, role_id, caller, random)
    assert LABEL.fullmatch(name)
    assert name.startswith(PREFIX)
    assert name.endswith(f"-{random}")


@given(TEMPLATES, st.text(max_size=80), st.text(max_size=100), RANDOMS)
@example("kubevend-{random}-{caller}-{role}" + "x" * 34, "r" * 63, "c" * 63, RANDOM)
def test_a_template_without_a_fault_always_makes_names(template: str, role_id: str, caller: str, random: str) -> None:
    """Whatever template is accepted makes a valid name with the whole random part, of any caller and role."""
    if not template_fault(template):
        name = render(template, role_id, caller, random)
        assert LABEL.fullmatch(name)
        assert name.startswith(PREFIX)
        assert random in name


@given(RANDOMS, RANDOMS)
def test_other_randoms_make_other_names(one: str, other: str) -> None:
    """Two leases of one caller have two names."""
    names = {render(DEFAULT_NAME_TEMPLATE, "ci" * 30, "admin://local/bootstrap", random) for random in (one, other)}
    assert len(names) == len({one, other})


@pytest.mark.parametrize(
    ("caller", "shown"),
    [
        ("kubernetes://prod/ci/runner", "prod-ci-runner"),
        ("admin://local/bootstrap", "local-bootstrap"),
        ("spiffe://example.org/ns/ci/sa/runner", "example-org-ns-ci-sa-runner"),
        ("oidc://github/repo%3Aacme%2Fshop", "github-repo-3aacme-2fshop"),
        ("Zoë Müller", "zo-m-ller"),
        ("--a--", "a"),
        ("://", "x"),
        ("日本", "x"),
    ],
)
def test_a_caller_is_made_to_fit(caller: str, shown: str) -> None:
    """A caller stands in a name without its scheme, in lower case, with hyphens for what no name can have."""
    assert render("kubevend-{random}-{caller}", "ci", caller, RANDOM) == f"kubevend-{RANDOM}-{shown}"


def test_the_caller_is_shortened_before_the_role() -> None:
    """Where there is no room, the caller loses its beginning; only when nothing is left of it, the role its end."""
    caller = "spiffe://example.org/namespaces/ci/serviceaccounts/runner"
    assert render(DEFAULT_NAME_TEMPLATE, "payments-deploy", caller, RANDOM) == (
        f"kubevend-payments-deploy-erviceaccounts-runner-{RANDOM}"
    )
    assert render(DEFAULT_NAME_TEMPLATE, "r" * 63, caller, RANDOM) == f"kubevend-{'r' * 35}-r-{RANDOM}"


@pytest.mark.parametrize(
    "template",
    [
        DEFAULT_NAME_TEMPLATE,
        "kubevend-{random}",
        "kubevend-{role}{caller}{random}",
        "kubevend-" + "x" * 38 + "{random}",
    ],
)
def test_a_sound_template_has_no_fault(template: str) -> None:
    """What makes names is accepted."""
    assert template_fault(template) == ""


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("", "must begin with 'kubevend-'"),
        ("{random}", "must begin with 'kubevend-'"),
        ("{role}-kubevend-{random}", "must begin with 'kubevend-'"),
        ("kubevend-{role}", "must have {random}"),
        ("kubevend-{random}-{random}", "has {random} more than once"),
        ("kubevend-{role}-{role}-{random}", "has {role} more than once"),
        ("kubevend-{caller}{caller}{random}", "has {caller} more than once"),
        (
            "kubevend-{namespace}-{random}",
            "has the placeholder {namespace}; those that there are: {role}, {caller} and",
        ),
        ("kubevend-{}-{random}", "has the placeholder {}; those"),
        ("kubevend-{random}-", "must not end with a hyphen"),
        ("kubevend-{random}}", "must have lower-case letters, digits and hyphens alone"),
        ("kubevend-{random}\n", "must have lower-case letters, digits and hyphens alone"),
        ("kubevend-Team-{random}", "must have lower-case letters, digits and hyphens alone"),
        ("kubevend-team.a-{random}", "must have lower-case letters, digits and hyphens alone"),
        ("kubevend-" + "x" * 39 + "{random}", "has 48 characters besides its placeholders; there is room for 47"),
        (
            "kubevend-" + "x" * 37 + "{random}{role}{caller}",
            "has 46 characters besides its placeholders; there is room",
        ),
    ],
)
def test_a_fault_of_a_template_is_told(template: str, fault: str) -> None:
    """What would make no names, or the same one twice, says what is wrong with it."""
    assert template_fault(template).startswith(fault)
