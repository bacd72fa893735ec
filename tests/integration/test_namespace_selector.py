"""Roles that allow namespaces by their labels, on the real API server."""

from __future__ import annotations

import secrets

import grpc
import pytest

from devcluster import DevCluster
from kubevend.v1 import issue_service_pb2
from tests.integration.conftest import Start, Vending
from tests.support.client import Refusal, take_apart
from tests.support.clusters import make_namespace
from tests.support.proxy import HoldingProxy
from tests.support.waiting import until

SELECTOR = {
    "match_labels": {"team": "payments"},
    "match_expressions": [{"key": "env", "operator": "OPERATOR_NOT_IN", "values": ["prod"]}],
}


@pytest.fixture
def watching(cluster: DevCluster) -> str:
    """A ServiceAccount of kubevend's that may watch namespaces too, and request tokens of every one."""
    name = f"watches-{secrets.token_hex(4)}"
    cluster.kubectl("create", "serviceaccount", name, "--namespace=kubevend")
    for role, verbs, resource in (
        (f"{name}-namespaces", "list,watch", "namespaces"),
        (f"{name}-tokens", "create", "serviceaccounts/token"),
    ):
        cluster.kubectl("create", "clusterrole", role, f"--verb={verbs}", f"--resource={resource}")
        subject = f"--serviceaccount=kubevend:{name}"
        cluster.kubectl("create", "clusterrolebinding", role, f"--clusterrole={role}", subject)
    return name


def label(cluster: DevCluster, namespace: str, *labels: str) -> None:
    """Set labels of a namespace; `key-` takes one away."""
    cluster.kubectl("label", "namespace", namespace, "--overwrite", *labels)


def outcome(vending: Vending, namespace: str) -> str:
    """The reason for which no token is issued in a namespace, or OK."""
    answer = ask(vending, namespace)
    return answer.reason if isinstance(answer, Refusal) else "OK"


def ask(vending: Vending, namespace: str) -> Refusal | issue_service_pb2.IssueTokenResponse:
    """Ask for a token in a namespace."""
    try:
        return vending.admin.issue("roles/labels", namespace=namespace)
    except grpc.RpcError as error:
        return take_apart(error)


def test_labels_decide(vending: Vending, cluster: DevCluster, namespace: str, watching: str) -> None:
    """Whether a namespace is allowed follows its labels; one that is not there is refused like one with others."""
    other = f"{namespace}-other"
    make_namespace(cluster, other)
    label(cluster, namespace, "team=payments", "env=dev")
    vending.add_config(cluster, "watched", service_account_jwt=cluster.token("kubevend", watching))
    vending.admin.create_role("labels", config="configs/watched", allowed_namespace_selector=SELECTOR)

    until(lambda: outcome(vending, namespace) == "OK", "the label to be known")
    refused = [ask(vending, name) for name in (other, "not-there")]
    label(cluster, other, "team=payments")
    until(lambda: outcome(vending, other) == "OK", "the new label to be known")
    label(cluster, other, "env=prod")
    until(lambda: outcome(vending, other) == "NAMESPACE_NOT_ALLOWED", "the change to be known")
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")

    assert [answer.reason for answer in refused if isinstance(answer, Refusal)] == ["NAMESPACE_NOT_ALLOWED"] * 2
    told = [answer.message for answer in refused if isinstance(answer, Refusal)]
    assert told[0].replace(other, "X") == told[1].replace("not-there", "X")
    assert "allowed_namespace_selector" in told[0]


def test_what_is_not_heard_of_is_refused(start: Start, cluster: DevCluster, namespace: str, watching: str) -> None:
    """While the cluster cannot be heard of for 30 s, what rests on labels is refused; then it is allowed again."""
    label(cluster, namespace, "team=payments")
    with HoldingProxy(cluster.server) as proxy:
        vending = start()
        jwt = cluster.token("kubevend", watching)
        vending.add_config(cluster, kubernetes_host=proxy.url, service_account_jwt=jwt)
        vending.admin.create_role("labels", allowed_namespace_selector=SELECTOR)
        until(lambda: outcome(vending, namespace) == "OK", "the label to be known")
        proxy.refuse()
        proxy.cut()

        until(lambda: outcome(vending, namespace) == "NAMESPACES_UNKNOWN", "what is known to become too old", 60)
        refusal = vending.admin.issue_refused("roles/labels", namespace=namespace)
        proxy.accept()
        until(lambda: outcome(vending, namespace) == "OK", "the namespaces to be heard of again")

    assert refusal.status == "UNAVAILABLE"
    assert refusal.metadata["cause"] == "KUBERNETES_UNREACHABLE"


def test_without_the_right_to_watch(vending: Vending, namespace: str) -> None:
    """Where kubevend may not watch namespaces, the refusal names the right and the command that grants it."""
    vending.admin.create_role("labels", allowed_namespace_selector=SELECTOR)

    refusal = vending.admin.issue_refused("roles/labels", namespace=namespace)

    assert (refusal.status, refusal.reason) == ("UNAVAILABLE", "NAMESPACES_UNKNOWN")
    assert "kubectl create clusterrole" in refusal.message
    assert "--verb=list,watch --resource=namespaces" in refusal.message
