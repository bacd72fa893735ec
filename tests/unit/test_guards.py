from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml

from kubevend_server.checks import Checker
from kubevend_server.cluster.connection import Answer
from kubevend_server.errors import KubevendError, Unavailable
from kubevend_server.findings import Finding, Report
from kubevend_server.rbac.admission import Policy, admission_policies
from kubevend_server.roles import GeneratedRole, KubernetesRole, LabelSelector, Role
from tests.unit.builders import clock, config, limits, role
from tests.unit.fake_cluster import OWN, ApiClusters, FakeApi

ANCHORED = role(revocation="PER_LEASE")
GENERATED = role(
    name="roles/made",
    allowed_service_accounts=(),
    revocation="PER_LEASE",
    generated_role=GeneratedRole("Role", "[{apiGroups: [''], resources: [pods], verbs: [get]}]"),
)
SELECTED = role(
    name="roles/by-label",
    allowed_namespaces=(),
    allowed_service_accounts=(),
    allowed_namespace_selector=LabelSelector((("a", "b"),)),
    kubernetes_role=KubernetesRole("ClusterRole", "view"),
)
ASKED_BY = {
    "secrets": "secrets",
    "tokens": "token",
    "serviceaccounts": "serviceaccounts",
    "bindings": "rolebindings",
    "roles": "roles",
}


def _policies(*roles: Role) -> tuple[Policy, ...]:
    return admission_policies("configs/default", OWN, roles, limits())


def _refusals(policies: tuple[Policy, ...], version: str = "") -> dict[str, str]:
    """The words in which policies refuse, by what they are asked by; of another version where one is given."""
    return {
        ASKED_BY[policy.topic]: (
            f"ValidatingAdmissionPolicy '{policy.name}' with binding '{policy.name}' denied request: kubevend makes "
            f"nothing (policy {version or policy.version})"
        )
        for policy in policies
    }


async def _check(api: FakeApi, *roles: Role, hidden: bool = False) -> Report:
    return await Checker(ApiClusters(api), (), limits(), clock).check(config(), roles, hidden=hidden)


def _admission(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.item == "ADMISSION"]


def _kinds(report: Report) -> list[str]:
    return [each["kind"] for each in yaml.safe_load_all(report.missing_rbac)]


async def test_roles_that_make_nothing_need_no_policy() -> None:
    """Where RBAC is enough, admission is not asked."""
    api = FakeApi()
    assert _admission(await _check(api, role())) == []
    assert not any("?" in kind for kind, _ in api.asked)


@pytest.mark.parametrize("roles", [(ANCHORED,), (GENERATED,), (ANCHORED, GENERATED), (SELECTED,)])
async def test_policies_that_are_in_force_pass(roles: tuple[Role, ...]) -> None:
    """A policy whose refusal has its name and its version is in force, and nothing is missing."""
    policies = _policies(*roles)
    report = await _check(FakeApi(admission=_refusals(policies)), *roles)
    assert [(found.state, found.message) for found in _admission(report)] == [
        ("PASSED", f"Policy {policy.name} is in force.") for policy in policies
    ]
    assert report.missing_rbac == ""


async def test_policies_that_are_missing_are_told_and_printed() -> None:
    """What is admitted although a policy should refuse it is a warning that says what it makes possible."""
    report = await _check(FakeApi(), ANCHORED)
    secrets, tokens = _policies(ANCHORED)
    first, second = _admission(report)
    assert first == Finding(
        "ADMISSION",
        "WARNING",
        (
            f"Policy {secrets.name} is not in force. Whoever takes kubevend over can delete every Secret there, put "
            "another in its place, and leave long-lived tokens of ServiceAccounts (type "
            "kubernetes.io/service-account-token) for whoever reads Secrets. Apply missing_rbac, or what "
            "`kubevend-server rbac` prints."
        ),
        "ADMISSION_POLICY_MISSING",
        "apps",
        "",
        ("roles/ci",),
        {"identity": OWN, "policy": secrets.name},
    )
    assert (second.state, second.reason, second.metadata["policy"]) == (
        "WARNING",
        "ADMISSION_POLICY_MISSING",
        tokens.name,
    )
    assert report.passed
    assert report.missing_rbac == "---\n".join([*secrets.manifests, *tokens.manifests])


async def test_policies_of_other_roles_are_told_and_printed() -> None:
    """A policy that is in force with another version is not that of the roles as they are."""
    secrets, tokens = _policies(ANCHORED)
    refusals = {**_refusals((secrets,)), **_refusals((tokens,), "0123456789abcdef")}
    report = await _check(FakeApi(admission=refusals), ANCHORED)
    assert [(found.state, found.reason) for found in _admission(report)] == [
        ("PASSED", ""),
        ("WARNING", "ADMISSION_POLICY_OLD"),
    ]
    assert report.missing_rbac == "---\n".join(tokens.manifests)


async def test_what_else_refuses_is_no_policy_of_kubevends() -> None:
    """Where something else refuses what is asked, nobody knows of the policy, and nothing is printed for it."""
    policies = _policies(ANCHORED)
    refusals = dict.fromkeys(_refusals(policies), "admission webhook says no")
    report = await _check(FakeApi(admission=refusals), ANCHORED)
    assert [found.state for found in _admission(report)] == ["SKIPPED", "SKIPPED"]
    assert all("admission webhook says no" in found.message for found in _admission(report))
    assert report.missing_rbac == ""


async def test_without_the_right_the_policy_comes_with_it() -> None:
    """Where a right is missing that a policy holds, the policy is printed before what grants it, unasked."""
    report = await _check(FakeApi(lacking={"create secrets"}), ANCHORED)
    first, second = _admission(report)
    assert (first.state, "the right to create secrets" in first.message) == ("SKIPPED", True)
    assert second.reason == "ADMISSION_POLICY_MISSING"
    policy = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"]
    assert _kinds(report) == [*policy, *policy, "Role", "RoleBinding"]
    lacking = [found for found in report.findings if found.state == "FAILED"]
    assert lacking == [
        Finding(
            "PERMISSION",
            "FAILED",
            f"{OWN} may not create secrets in namespace apps, or the namespace does not exist.",
            "KUBERNETES_FORBIDDEN",
            "apps",
            "",
            ("roles/ci",),
            {"identity": OWN, "verb": "create", "resource": "secrets"},
        )
    ]


@pytest.mark.parametrize("failure", [Unavailable("KUBERNETES_TIMED_OUT", "Off.")])
async def test_what_cannot_be_asked_is_not_known(failure: Answer | KubevendError) -> None:
    """A cluster that does not answer leaves it open, and fails nothing."""
    report = await _check(
        FakeApi(instead={"secrets?dryRun=All": failure}, admission=_refusals(_policies(ANCHORED))), ANCHORED
    )
    first, second = _admission(report)
    assert (first.state, first.message.endswith("could not be found out: Off.")) == ("SKIPPED", True)
    assert second.state == "PASSED"
    assert report.missing_rbac == ""


async def test_hidden_roles_are_in_the_policy_too() -> None:
    """Where there are roles that must not be told of, a policy of another version is as good, and none is printed."""
    refusals = _refusals(_policies(ANCHORED), "0123456789abcdef")
    report = await _check(FakeApi(admission=refusals), ANCHORED, hidden=True)
    assert [found.state for found in _admission(report)] == ["PASSED", "PASSED"]
    missing = await _check(FakeApi(), ANCHORED, hidden=True)
    assert missing.missing_rbac == ""
    assert any("roles that you may not get" in found.message for found in missing.findings)


async def test_what_is_asked_does_no_harm() -> None:
    """All that is asked of admission is a dry run or cannot be done, and would be of no use if it were done."""
    asked: list[tuple[str, dict[str, Any]]] = []

    class Remembering(FakeApi):
        async def answer(self, path: str, body: Any) -> Answer:
            asked.append((path, json.loads(json.dumps(body))))
            return await super().answer(path, body)

    await _check(Remembering(), ANCHORED, GENERATED)
    core, rbac = "/api/v1/namespaces/apps", "/apis/rbac.authorization.k8s.io/v1/namespaces/apps"
    metadata = {"name": "kubevend-check"}
    bound = {"apiVersion": "v1", "kind": "Secret", "name": "kubevend-check"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "kubevend:default:kubevend:server"}
    tokens = {"audiences": ["kubevend-check"], "expirationSeconds": 7201, "boundObjectRef": bound}
    assert [each for each in asked if "dryRun" in each[0] or "boundObjectRef" in each[1].get("spec", {})] == [
        (f"{core}/secrets?dryRun=All", {"metadata": metadata, "type": "Opaque"}),
        (
            f"{core}/serviceaccounts/deployer/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": tokens},
        ),
        (f"{core}/serviceaccounts?dryRun=All", {"metadata": metadata}),
        (f"{rbac}/rolebindings?dryRun=All", {"metadata": metadata, "roleRef": reference}),
        (f"{rbac}/roles?dryRun=All", {"metadata": metadata}),
    ]


async def test_no_rule_leads_a_question_elsewhere() -> None:
    """What a generated role may name as a group is no part of the path of what is asked for."""
    paths: list[str] = []

    class Api(FakeApi):
        async def answer(self, path: str, body: Mapping[str, Any]) -> Answer:
            paths.append(path)
            return await super().answer(path, body)

    odd = "[{apiGroups: ['../api/v1/namespaces?x='], resources: [secrets], verbs: [create]}]"
    await _check(
        Api(), ANCHORED, replace(GENERATED, allowed_namespaces=("aaa",), generated_role=GeneratedRole("Role", odd))
    )

    assert "/api/v1/namespaces/apps/secrets?dryRun=All" in paths
    assert not any("x=" in path for path in paths)
