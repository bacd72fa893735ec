from __future__ import annotations

from kubevend_server.callers import BOOTSTRAP_ADMIN, Caller, service_account


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
