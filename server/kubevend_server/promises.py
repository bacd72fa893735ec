"""Whether a cluster would let kubevend give what a role promises, asked when the role is written."""

from __future__ import annotations

from kubevend_server.catalog import Catalog
from kubevend_server.cluster.clusters import Clusters
from kubevend_server.cluster.grantable import dry_run_rules
from kubevend_server.errors import KubevendError
from kubevend_server.policy.made import account_of
from kubevend_server.roles import ANY, Role
from kubevend_server.warning import Warning

_SOME_NAMESPACE = "default"
"""Where a role allows all namespaces, or some by their labels, kubevend's rights hold in every one."""

_REFUSALS = ("KUBERNETES_ESCALATION", "KUBERNETES_FORBIDDEN", "KUBERNETES_ROLE_NOT_FOUND", "KUBERNETES_DENIED")


class Promises:
    """Asks the clusters of roles."""

    def __init__(self, catalog: Catalog, clusters: Clusters) -> None:
        self._catalog = catalog
        self._clusters = clusters

    async def check(self, role: Role) -> tuple[Warning, ...]:
        """Have a cluster try, without effect, what an issuance through a role would make.

        Returns:
            A warning where it would be refused, or where that could not be found out.
        """
        config = self._catalog.config(role.config)
        if config is None or not role.makes_accounts:
            return ()
        namespace = next((name for name in role.allowed_namespaces if name != ANY), _SOME_NAMESPACE)
        account = account_of(role, "kubevend-dry-run", cluster_wide=role.cluster_wide_allowed)
        try:
            refusal = await dry_run_rules(self._clusters.of(config), account, namespace)
        except KubevendError as error:
            refusal = error
        return () if refusal is None else (_warning(role, refusal, namespace),)


def _warning(role: Role, refusal: KubevendError, namespace: str) -> Warning:
    facts = (("cause", refusal.reason), ("namespace", namespace))
    if refusal.reason in _REFUSALS:
        return Warning(
            "RULES_NOT_GRANTABLE",
            f"Issuing through {role.name} would be refused as things are: {refusal.message}",
            facts,
        )
    return Warning(
        "RULES_NOT_CHECKED",
        f"Whether the cluster lets kubevend give what {role.name} promises could not be found out: {refusal.message}",
        facts,
    )
