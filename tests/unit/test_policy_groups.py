from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.callers import Caller, oidc_subject, service_account, workload
from kubevend_server.policy.access import Decision
from kubevend_server.policy.entities import Circumstances, Server
from kubevend_server.policy.groups import Groups, parse_groups
from kubevend_server.policy.parsing import PolicyError
from kubevend_server.policy.policies import PolicyFiles, load
from tests.unit.builders import NOW

GROUPS = """
[groups]
payments = ["spiffe://example.org/ns/payments/*", "kubernetes://prod/payments/runner"]
runners = ["kubernetes://prod/ci/runner-*", "oidc://github/repo%3Aacme%2Fshop%3A*", "kubernetes://prod/payments/runner"]
nobody = []
"""
IN_PAYMENTS = (
    '@id("group") permit(principal in Group::"payments", action, resource);'
    '@id("token") forbid(principal in Group::"okta:payments", action, resource);'
)


@pytest.mark.parametrize(
    ("caller", "groups"),
    [
        (workload("spiffe://example.org/ns/payments/api"), ("payments",)),
        (workload("spiffe://example.org/ns/payments-evil/api"), ()),
        (workload("spiffe://example.org.evil/ns/payments/api"), ()),
        (service_account("prod", "payments", "runner"), ("payments", "runners")),
        (service_account("prod", "payments", "runner-2"), ()),
        (service_account("prod", "ci", "runner-2"), ("runners",)),
        (oidc_subject("github", "repo:acme/shop:ref:refs/heads/main"), ("runners",)),
        (oidc_subject("github", "repo:acme/shopping:ref:refs/heads/main"), ()),
        (oidc_subject("okta", "me", groups=("okta:payments",)), ("okta:payments",)),
    ],
)
def test_a_caller_is_in_the_groups_that_name_it(caller: Caller, groups: tuple[str, ...]) -> None:
    """A whole name, or its beginning, puts a caller into a group, beside those of its token and never in place of
    them; a second time nothing changes.
    """
    policies = load(PolicyFiles({}, GROUPS))
    enrolled = policies.enroll(caller)
    assert enrolled.groups == groups
    assert policies.enroll(enrolled) is enrolled


@pytest.mark.parametrize(
    ("caller", "decision"),
    [
        (workload("spiffe://example.org/ns/payments/api"), Decision(True, ("group",))),
        (workload("spiffe://example.org/ns/web/api"), Decision(False, ())),
        (oidc_subject("okta", "me", groups=("okta:payments",)), Decision(False, ("token",))),
    ],
)
def test_policies_ask_for_groups(caller: Caller, decision: Decision) -> None:
    """A group of the file and one of a token are two, and a policy can ask for each."""
    policies = load(PolicyFiles({"a.cedar": IN_PAYMENTS}, GROUPS))
    assert policies.authorize(caller, "ListRoles", Server(), Circumstances(NOW)) == decision


def test_groups_of_an_older_set_do_not_count() -> None:
    """Whoever was put into a group by a set that is no longer in force is not in it for a decision of the next one."""
    caller = load(PolicyFiles({}, GROUPS)).enroll(workload("spiffe://example.org/ns/payments/api"))
    policies = load(PolicyFiles({"a.cedar": IN_PAYMENTS}, "[groups]\npayments = []"))
    assert policies.authorize(caller, "ListRoles", Server(), Circumstances(NOW)) == Decision(False, ())


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("*", "is no caller's name"),
        ("spiffe://*", "after the authority and its slash"),
        ("spiffe://example.org*", "after the authority and its slash"),
        ("spiffe://example.org", "after the authority and its slash"),
        ("spiffe://example.org/", "after the authority and its slash"),
        ("spiffe://exam*/ns/payments", "after the authority and its slash"),
        ("spiffe://example.org/*/payments", "at its end"),
        ("spiffe://example.org/ns/pay*", "middle of a word"),
        ("kubernetes://prod/ci*", "middle of a word"),
        ("spiffe://Example.org/ns/*", "capital letters in 'Example.org'"),
        ("https://example.org/*", "begins with spiffe://, kubernetes://, oidc://, admin://"),
        ("oidc://github/repo:acme/shop:*", "write oidc://github/repo%3Aacme%2Fshop%3A*"),
        ("oidc://github/repo%3aacme", "write oidc://github/repo%3Aacme"),
        ("oidc://github/repo%3*", "middle of a word"),
        ("kubernetes://prod/ci", "kubernetes://{cluster}/{namespace}/{name}"),
        ("kubernetes://prod/ci/a/b", "kubernetes://{cluster}/{namespace}/{name}"),
        ("", "is no caller's name"),
        ("spiffe://example.org/a b", "is no caller's name"),
    ],
)
def test_an_entry_that_could_mean_more_than_it_says_is_refused(entry: str, told: str) -> None:
    """What cuts an authority or a word, or can be nobody's name, is refused with what to write."""
    with pytest.raises(PolicyError) as refusal:
        load(PolicyFiles({}, f"[groups]\na = [{entry!r}]"))
    assert told in str(refusal.value)
    assert str(refusal.value).startswith("groups.toml: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[groups", "it is no TOML"),
        ("[group]\na = []", "all that it can have is a table"),
        ("groups = 1", "groups is no table"),
        ("[groups]\nA = []", "'A' is no name of a group"),
        ('[groups]\n"okta:a" = []', "'okta:a' is no name of a group"),
        ('[groups]\na = "spiffe://a/b"', "is no list"),
        ("[groups]\na = [1]", "is no list"),
    ],
)
def test_a_file_that_is_no_groups_file_is_refused(text: str, told: str) -> None:
    """Its form is one table of lists, and the fault is told."""
    with pytest.raises(PolicyError) as refusal:
        load(PolicyFiles({}, text))
    assert told in str(refusal.value)


@pytest.mark.parametrize("groups", [None, "[groups]\npayments = []"])
def test_a_group_that_is_not_there_is_refused(groups: str | None) -> None:
    """A policy for a group whose name is mistyped would hold for nobody, so the set is refused; the groups of tokens
    are known to the issuer alone.
    """
    forbid = '@id("x") forbid(principal, action, resource) when { principal in [Group::"paymnts", Group::"a:b"] };'
    with pytest.raises(PolicyError, match="does not have: paymnts"):
        load(PolicyFiles({"a.cedar": forbid}, groups))


@given(
    st.lists(st.sampled_from(["a", "b", "-", "/", "*"]), max_size=6).map("".join),
    st.lists(st.sampled_from(["a", "b", "-", "/"]), min_size=1, max_size=6).map("".join),
)
def test_an_entry_matches_names_that_go_on_after_a_whole_word(entry: str, path: str) -> None:
    """Whatever entry is taken: it names one caller, or it ends a word and names those whose names go on from there."""
    entry, name = f"spiffe://td/{entry}", f"spiffe://td/{path}"
    try:
        groups = parse_groups(f"[groups]\na = [{entry!r}]")
    except PolicyError:
        return
    prefix = entry.removesuffix("*")
    assert "*" not in prefix
    assert prefix == entry or prefix[-1] in "/-"
    assert groups.of(name) == (("a",) if name == entry or (entry != prefix and name.startswith(prefix)) else ())


def test_no_file_is_no_group() -> None:
    """Without groups.toml, and with an empty one, nobody is in a group."""
    assert load(PolicyFiles({})).groups == Groups() == load(PolicyFiles({}, "")).groups
