"""The access policies of the first run: files to read, change and learn from."""

from __future__ import annotations

from pathlib import Path

from devcluster.server import BOOTSTRAP_POLICY

CLUSTER = "dev"
"""The name under which the server's settings know the cluster; it is part of its ServiceAccounts' names as callers."""

QUICKSTART = """\
// Access policies say which caller may do what; what none permits is denied. They are Cedar
// (https://docs.cedarpolicy.com). kubevend reads them again when they change; docs/policies.md says how to try them out
// before.

// One ServiceAccount may issue tokens through one role. A caller's name says how it is known:
// kubernetes://{cluster}/{namespace}/{service account}, where the settings name the cluster (callers.clusters).
@id("demo-issues-quickstart")
permit (
  principal == ServiceAccount::"kubernetes://dev/kubevend-quickstart/demo",
  // GetRole beside IssueToken: a refusal by the role's own rules is told to those who may see the role.
  action in [Action::"IssueToken", Action::"GetRole"],
  resource == Role::"roles/quickstart"
);

// Whoever may call at all may look at the leases of their own. A list needs the right to list, and shows
// only what its caller may get.
@id("own-leases")
permit (principal is ServiceAccount, action == Action::"GetLease", resource is Lease)
when { resource.caller == principal.name };

@id("lists")
permit (principal is ServiceAccount, action in [Action::"ListLeases", Action::"ListRoles"], resource);

// A policy can look at what would be granted. Take the slashes away to hold everybody in the namespace
// `ci` to tokens of at most 15 minutes:
//
// @id("ci-short-lived")
// forbid (principal is ServiceAccount, action == Action::"IssueToken", resource)
// when { principal.namespace == "ci" && context.ttl > 900 };
"""


def write_policies(folder: Path) -> None:
    """Write the policies that are not there yet; what somebody changed stays as it is."""
    for name, text in (("bootstrap-admin.cedar", BOOTSTRAP_POLICY), ("quickstart.cedar", QUICKSTART)):
        path = folder / name
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_text(text)
            partial.replace(path)
