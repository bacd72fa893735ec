from __future__ import annotations

import pytest

from kubevend_server.callers import BOOTSTRAP_ADMIN, Caller, named, oidc_subject, service_account, workload


def test_the_admin_has_its_name() -> None:
    """The bootstrap admin is of this server and of no cluster."""
    assert Caller("admin://local/bootstrap", "Admin", "bootstrap_token") == BOOTSTRAP_ADMIN


def test_a_service_account_carries_its_cluster() -> None:
    """A ServiceAccount's name has the cluster that the settings name, its namespace and its own name, and policies can
    ask for each.
    """
    assert service_account("prod", "ci", "runner", "jti-1") == Caller(
        name="kubernetes://prod/ci/runner",
        kind="ServiceAccount",
        mechanism="token_review",
        attributes=(("cluster", "prod"), ("namespace", "ci"), ("service_account", "runner")),
        credential_id="jti-1",
    )


def test_two_clusters_service_accounts_never_look_alike() -> None:
    """The same ServiceAccount of two clusters is two callers."""
    assert service_account("a", "ci", "runner") != service_account("b", "ci", "runner")


def test_a_callers_tokens_are_one_caller() -> None:
    """With a fresh token a caller is still the same."""
    assert service_account("a", "ci", "runner", "jti-1") == service_account("a", "ci", "runner", "jti-2")


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("ns/apps/sa/runner", {"namespace": "apps", "service_account": "runner"}),
        ("ns/apps/sa/runner.v2", {"namespace": "apps", "service_account": "runner.v2"}),
        ("ns/apps/sa/runner/x", {}),
        ("x/ns/apps/sa/runner", {}),
        ("ns/a/b/sa/runner", {}),
        ("ns//sa/runner", {}),
        ("ns/Apps/sa/runner", {}),
        ("ns/apps/sa/runner\n", {}),
        ("ns/apps/sa/*", {}),
        ("ns/apps.x/sa/runner", {}),
    ],
)
def test_a_workload_of_kubernetes_has_its_namespace(path: str, names: dict[str, str]) -> None:
    """Policies can ask for the namespace and ServiceAccount of a path of that form alone."""
    attributes = {"trust_domain": "example.org", "path": f"/{path}", **names}

    assert dict(workload(f"spiffe://example.org/{path}").attributes) == attributes


def test_a_name_makes_the_caller_that_has_it() -> None:
    """What is named is the caller that would have been recognized."""
    claims = (("repository", "acme/shop"),)
    made = (
        BOOTSTRAP_ADMIN,
        service_account("prod", "ci", "runner", pod="runner-0", node="node-1"),
        workload("spiffe://example.org/ns/apps/sa/runner", proxy="ingress"),
        oidc_subject("github", "repo:acme/shop:ref", claims, ("github:acme",)),
    )

    assert made == (
        named("admin://local/bootstrap"),
        named("kubernetes://prod/ci/runner", pod="runner-0", node="node-1"),
        named("spiffe://example.org/ns/apps/sa/runner", proxy="ingress"),
        named("oidc://github/repo%3Aacme%2Fshop%3Aref", claims=claims, groups=("github:acme",)),
    )


@pytest.mark.parametrize(
    "name",
    [
        "",
        "runner",
        "admin://local/root",
        "kubernetes://prod/runner",
        "kubernetes://prod/ci/runner/x",
        "spiffe://a",
        "spiffe://A/b",
        "spiffe://a/b/",
        "oidc://a/b c",
        "oidc:///b",
    ],
)
def test_what_is_no_callers_name_is_refused(name: str) -> None:
    """A name that nobody can have is a mistake."""
    with pytest.raises(ValueError, match="is no caller's name"):
        named(name)


def test_what_a_kind_of_caller_has_not_is_refused() -> None:
    """A pod, a proxy or claims of a caller that never has them are a mistake."""
    with pytest.raises(ValueError, match="has no proxy: only callers named spiffe://"):
        named("kubernetes://prod/ci/runner", proxy="ingress")
