"""What the first run makes in a cluster: two namespaces, two ServiceAccounts, and the least rights that do.

The rights, and the admission policies that hold kubevend to them, are those that `kubevend-server rbac` prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import yaml

from kubevend_server.authentication.service_accounts import AUDIENCE
from kubevend_server.policy.limits import Limits
from kubevend_server.rbac.admission import admission_policies
from kubevend_server.rbac.manifests import review_manifests, role_manifests
from kubevend_server.rbac.needs import needs
from kubevend_server.roles import Role
from kubevend_server.settings import IssuanceSettings

QUICKSTART_NAMESPACE = "kubevend-quickstart"
DEMO = "demo"
"""The ServiceAccount whose tokens are issued."""

KUBEVEND_NAMESPACE = "kubevend"
KUBEVEND = "kubevend"
"""The ServiceAccount that kubevend itself is."""
KUBEVEND_USER = f"system:serviceaccount:{KUBEVEND_NAMESPACE}:{KUBEVEND}"
"""Its name in the cluster."""


@dataclass(frozen=True)
class Made:
    """An object that the first run makes.

    Attributes:
        what: Its kind, and its name with the namespace.
        why: What it is for.
        manifest: As YAML.
    """

    what: str
    why: str
    manifest: str


OBJECTS = (
    Made(
        f"Namespace {QUICKSTART_NAMESPACE}",
        "where tokens are issued",
        f"""\
apiVersion: v1
kind: Namespace
metadata:
  name: {QUICKSTART_NAMESPACE}
""",
    ),
    Made(
        f"ServiceAccount {QUICKSTART_NAMESPACE}/{DEMO}",
        "whose tokens are issued; it has no rights of its own",
        f"""\
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {DEMO}
  namespace: {QUICKSTART_NAMESPACE}
""",
    ),
    Made(
        f"Namespace {KUBEVEND_NAMESPACE}",
        "where kubevend itself lives",
        f"""\
apiVersion: v1
kind: Namespace
metadata:
  name: {KUBEVEND_NAMESPACE}
""",
    ),
    Made(
        f"ServiceAccount {KUBEVEND_NAMESPACE}/{KUBEVEND}",
        "as whom kubevend calls the cluster",
        f"""\
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {KUBEVEND}
  namespace: {KUBEVEND_NAMESPACE}
""",
    ),
)
"""What comes before the rights."""


def manifests(objects: Iterable[Made]) -> str:
    """Objects as one YAML text."""
    return "---\n".join(made.manifest for made in objects)


def roles(audiences: Sequence[str]) -> tuple[Role, Role]:
    """The roles of the first run, as far as their rights go: what can be issued, and what can be ended too."""
    allowed = ((QUICKSTART_NAMESPACE,), (DEMO,), tuple(audiences))
    return (
        Role("roles/quickstart", "configs/default", *allowed),
        Role("roles/quickstart-revocable", "configs/default", *allowed, revocation="PER_LEASE"),
    )


def rights(audiences: Sequence[str]) -> Iterator[Made]:
    """What lets kubevend do what these roles need, and holds it to that.

    Args:
        audiences: Those that the roles allow.
    """
    found, settings = roles(audiences), IssuanceSettings()
    limits = Limits(
        default_ttl=timedelta(seconds=settings.default_ttl_seconds),
        max_ttl=timedelta(seconds=settings.max_ttl_seconds),
        reserved_audiences=frozenset({AUDIENCE}),
    )
    policies = admission_policies("configs/default", KUBEVEND_USER, found, limits)
    manifests = [
        *role_manifests("configs/default", KUBEVEND_USER, needs(found)),
        *review_manifests(KUBEVEND_USER),
        *(manifest for policy in policies for manifest in policy.manifests),
    ]
    for manifest in manifests:
        yield _made(manifest)


def _made(manifest: str) -> Made:
    """An object, with its comment for what it is for."""
    comment, _, rest = manifest.partition("\n")
    found = yaml.safe_load(rest)
    metadata = found["metadata"]
    where = f"{metadata['namespace']}/" if "namespace" in metadata else ""
    why = comment.removeprefix("# ").rstrip(".")
    return Made(f"{found['kind']} {where}{metadata['name']}", why[0].lower() + why[1:], manifest)
