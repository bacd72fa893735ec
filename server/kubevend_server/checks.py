"""Looking at a config's cluster item by item: what works, what does not, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from kubevend_server.authentication.service_accounts import CallerCluster
from kubevend_server.clock import Clock
from kubevend_server.cluster.clusters import Clusters
from kubevend_server.cluster.connection import Connection
from kubevend_server.cluster.reviews import review_self
from kubevend_server.cluster.rights import REVIEW_TOKENS, has_right
from kubevend_server.cluster.version import read_version
from kubevend_server.configs import Config
from kubevend_server.errors import KubevendError, ResourceExhausted
from kubevend_server.findings import Finding, Item, Report, failed
from kubevend_server.guards import Guard, look_at_policies
from kubevend_server.permissions import (
    LACKING,
    MOST_SECONDS,
    Looking,
    look_at_permissions,
    look_at_service_accounts,
    unknown_permissions,
)
from kubevend_server.policy.limits import Limits
from kubevend_server.rbac.admission import admission_policies
from kubevend_server.rbac.manifests import own_name, review_manifests, role_manifests
from kubevend_server.rbac.needs import NOWHERE, Needs, needs
from kubevend_server.roles import ANY, Role

_SKEW = timedelta(seconds=5)
_SOON = timedelta(days=30)
_STALE = timedelta(minutes=5)

# At which item a failure of the first request shows; what is not here shows at KUBERNETES.
_FAILS_AT: dict[str, Item] = {
    "KUBERNETES_UNREACHABLE": "REACHABLE",
    "CLUSTER_BUSY": "REACHABLE",
    "KUBERNETES_UNTRUSTED": "TRUSTED",
    "KUBERNETES_TLS_FAILED": "TRUSTED",
    "CREDENTIAL_UNUSABLE": "TRUSTED",
}
_HIDDEN = (
    "What grants this is not printed: roles that you may not get use the config too, and applied for these alone it "
    "would take the rights of those away."
)
_GOT_SO_FAR: dict[Item, str] = {
    "REACHABLE": "It accepts connections.",
    "TRUSTED": "It answers, with a certificate that is trusted.",
}
_FIRST: tuple[Item, ...] = ("REACHABLE", "TRUSTED", "KUBERNETES")


class Checker:
    """Looks at the clusters of configs."""

    def __init__(
        self,
        clusters: Clusters,
        caller_clusters: Sequence[CallerCluster],
        limits: Limits,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what it looks at.

        Args:
            clusters: the clusters of configs, with connections that nobody else needs.
            caller_clusters: those whose ServiceAccounts may call.
            limits: the server's own.
            clock: the time of day.
            monotonic: bounds how long a check takes.
        """
        self._clusters = clusters
        self._caller_clusters = caller_clusters
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._running: set[str] = set()

    async def check(self, config: Config, roles: Sequence[Role], *, hidden: bool = False) -> Report:
        """Look at a config and what its roles need.

        Args:
            config: the config.
            roles: its roles, those that the answer may tell of.
            hidden: whether there are others. What would be printed for these alone would take rights from those.

        Returns:
            What was found. It never raises for what a cluster does.

        Raises:
            ResourceExhausted: the config is being looked at already.
        """
        if config.name in self._running:
            raise ResourceExhausted(
                "CHECK_RUNNING",
                f"{config.name} is being looked at for somebody else just now. Try again in a moment.",
                metadata={"config": config.name},
                retry_after=timedelta(seconds=2),
            )
        self._running.add(config.name)
        try:
            return await self._check(config, roles, hidden=hidden)
        finally:
            self._running.discard(config.name)

    async def _check(self, config: Config, roles: Sequence[Role], *, hidden: bool) -> Report:
        needed = needs(roles)
        findings = await self._reach(config)
        failing = next((finding.item for finding in findings if finding.state == "FAILED"), None)
        if failing is not None:
            return _cut_short([*findings, _skipped("CREDENTIAL", failing)], failing, needed)
        # A connection of its own: the config's may be changing, or gone, before this is done.
        connection = self._clusters.connect(config)
        try:
            identity, credential = await self._credential(connection)
            if not identity:
                return _cut_short([*findings, credential], "CREDENTIAL", needed)
            reviews, missing_reviews = await self._token_reviews(connection)
            end = self._monotonic() + MOST_SECONDS
            looking = Looking(connection, identity, lambda: self._monotonic() > end)
            permissions = await look_at_permissions(looking, needed)
            accounts = await look_at_service_accounts(looking, permissions)
            policies = admission_policies(config.name, identity, roles, self._limits)
            own_role = own_name(config.name, identity)
            guards = await look_at_policies(looking, policies, permissions, own_role, known=not hidden)
        finally:
            await connection.retire()
        missing = [] if hidden else [*_missing_policies(guards), *_missing(config, identity, needed, permissions)]
        if hidden and (any(found.reason in LACKING for found in permissions) or any(guard.mends for guard in guards)):
            permissions.append(Finding("PERMISSION", "SKIPPED", _HIDDEN))
        admission = [guard.finding for guard in guards]
        return Report(
            identity,
            (*findings, credential, *reviews, *permissions, *accounts, *admission),
            "---\n".join([*missing, *missing_reviews]),
        )

    async def _reach(self, config: Config) -> list[Finding]:
        """Reach the cluster without a credential, so that what is found is not the credential's fault."""
        try:
            connection = self._clusters.connect(config, anonymous=True)
        except KubevendError as error:
            return _failed_at("REACHABLE", error)
        try:
            said = await read_version(connection)
        except KubevendError as error:
            return _failed_at(_FAILS_AT.get(error.reason, "KUBERNETES"), error)
        finally:
            await connection.retire()
        host, trusts = connection.endpoint.host, connection.endpoint.trusts
        version = said.version or "of a version that it does not tell strangers"
        return [
            Finding("REACHABLE", "PASSED", f"{host} answers."),
            Finding("TRUSTED", "PASSED", f"Its certificate is for that name, and vouched for by {trusts}."),
            Finding("KUBERNETES", "PASSED", f"It is Kubernetes {version}."),
            self._clock_skew(said.time),
        ]

    def _clock_skew(self, theirs: datetime | None) -> Finding:
        if theirs is None:
            return Finding("CLOCK", "SKIPPED", "The API server does not tell the time.")
        skew = theirs - self._clock()
        told = {"skew": f"{abs(skew.total_seconds()):.0f}"}
        if abs(skew) <= _SKEW:
            return Finding("CLOCK", "PASSED", "Its clock and kubevend's agree to within seconds.", metadata=told)
        way = "ahead of" if skew > timedelta() else "behind"
        message = (
            f"Its clock is {told['skew']} s {way} kubevend's: leases and tokens end earlier or later than they say. "
            "Set both by NTP."
        )
        return Finding("CLOCK", "WARNING", message, "CLOCK_SKEW", metadata=told)

    async def _credential(self, connection: Connection) -> tuple[str, Finding]:
        try:
            identity = await review_self(connection)
            expiry = connection.credential.read().expiry()
        except KubevendError as error:
            return "", failed("CREDENTIAL", error)
        said = f"The cluster accepts {connection.credential.what} as {identity}."
        metadata = {"identity": identity}
        if expiry is None:
            return identity, Finding("CREDENTIAL", "PASSED", f"{said} It does not expire.", metadata=metadata)
        until, left = expiry.isoformat(timespec="seconds"), expiry - self._clock()
        metadata["expire_time"] = until
        if left > (_STALE if connection.credential.renewed else _SOON):
            return identity, Finding("CREDENTIAL", "PASSED", f"{said} It is valid until {until}.", metadata=metadata)
        todo = (
            "Whatever keeps its file fresh seems to have stopped."
            if connection.credential.renewed
            else "Nothing renews it: give the config a new one before that (UpdateConfig), or a credential in files."
        )
        message = f"{said} It expires at {until}. {todo}"
        return identity, Finding("CREDENTIAL", "WARNING", message, "CREDENTIAL_EXPIRES", metadata=metadata)

    async def _token_reviews(self, connection: Connection) -> tuple[list[Finding], list[str]]:
        """Look whether the settings' caller clusters at this host may be asked whose tokens are shown."""
        findings, missing = [], []
        for cluster in self._caller_clusters:
            if cluster.connection.endpoint.host != connection.endpoint.host:
                continue
            try:
                allowed, why = await has_right(cluster.connection, REVIEW_TOKENS)
                identity = await review_self(cluster.connection)
            except KubevendError as error:
                findings.append(failed("TOKEN_REVIEW", error))
                continue
            if allowed:
                findings.append(Finding("TOKEN_REVIEW", "PASSED", f"{identity} may review callers' tokens: {why}"))
                continue
            missing += review_manifests(identity)
            findings.append(
                Finding(
                    "TOKEN_REVIEW",
                    "FAILED",
                    f"{identity} may not review callers' tokens, so no ServiceAccount of {cluster.name} can call "
                    "kubevend (create on tokenreviews.authentication.k8s.io).",
                    "KUBERNETES_FORBIDDEN",
                    metadata={"identity": identity, "cluster": cluster.name},
                )
            )
        return findings, missing


def _missing(config: Config, identity: str, needed: Needs, permissions: Iterable[Finding]) -> list[str]:
    # All that a namespace needs, since what is applied replaces what was there under the same name.
    lacking = {_object(found.namespace) for found in permissions if found.reason in LACKING}
    return role_manifests(
        config.name, identity, {need: roles for need, roles in needed.items() if _object(need.where) in lacking}
    )


def _object(where: str) -> str:
    """What is in one ClusterRole, or in one Role."""
    return ANY if where == NOWHERE else where


def _missing_policies(guards: Iterable[Guard]) -> list[str]:
    # Before the rights, so that these are never there without what holds them.
    return [manifest for guard in guards if guard.mends for manifest in guard.policy.manifests]


def _failed_at(item: Item, error: KubevendError) -> list[Finding]:
    """The first items, of which this one failed: those before it passed, those after it could not be looked at."""
    place = _FIRST.index(item)
    passed = [Finding(before, "PASSED", _GOT_SO_FAR[before]) for before in _FIRST[:place]]
    return [*passed, failed(item, error), *(_skipped(after, item) for after in (*_FIRST[place + 1 :], "CLOCK"))]


def _cut_short(findings: Iterable[Finding], failing: Item, needed: Needs) -> Report:
    return Report("", (*findings, *unknown_permissions(needed, _after(failing))), "")


def _skipped(item: Item, failing: Item) -> Finding:
    return Finding(item, "SKIPPED", _after(failing))


def _after(failing: Item) -> str:
    return f"Not looked at, since {failing} failed."
