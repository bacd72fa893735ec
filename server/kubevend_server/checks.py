"""Looking at a config's cluster item by item: what works, what does not, and what to do about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal, TypeVar

from kubevend_server import rbac
from kubevend_server.authentication import CallerCluster
from kubevend_server.clock import Clock
from kubevend_server.cluster.clusters import Clusters
from kubevend_server.cluster.connection import Connection
from kubevend_server.cluster.reviews import review_self
from kubevend_server.cluster.rights import REVIEW_TOKENS, covered_service_accounts, has_right, token_right
from kubevend_server.cluster.tokens import probe_service_account
from kubevend_server.cluster.version import read_version
from kubevend_server.configs import Config
from kubevend_server.errors import KubevendError, ResourceExhausted
from kubevend_server.rbac import Pair
from kubevend_server.roles import ANY, Role

Item = Literal[
    "REACHABLE", "TRUSTED", "KUBERNETES", "CLOCK", "CREDENTIAL", "TOKEN_REVIEW", "PERMISSION", "SERVICE_ACCOUNT"
]
State = Literal["PASSED", "WARNING", "FAILED", "SKIPPED"]

AT_ONCE = 8
"""How many questions a check asks at once, and so the most connections that it needs."""

_MOST_PAIRS = 500
_MOST_SECONDS = 60.0
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
# What missing_rbac mends; a permission that could not be asked for may be there.
_LACKING = ("KUBERNETES_FORBIDDEN", "KUBERNETES_RESOURCE_NAMES")
_NO_TIME = f"Not looked at: the check has taken {_MOST_SECONDS:.0f} s."
_NO_RIGHT = "Not known without the right to request its tokens."
_HIDDEN = (
    "What grants this is not printed: roles that you may not get use the config too, and applied for these alone it "
    "would take the rights of those away."
)
_GOT_SO_FAR: dict[Item, str] = {
    "REACHABLE": "It accepts connections.",
    "TRUSTED": "It answers, with a certificate that is trusted.",
}
_FIRST: tuple[Item, ...] = ("REACHABLE", "TRUSTED", "KUBERNETES")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of looking at one thing. The fields are those of `Check` in the protos."""

    item: Item
    state: State
    message: str
    reason: str = ""
    namespace: str = ""
    service_account: str = ""
    roles: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of looking at a config.

    Attributes:
        identity: as whom the cluster knows kubevend, or empty.
        findings: one for each thing.
        missing_rbac: YAML that would grant what is missing, or empty.
    """

    identity: str
    findings: tuple[Finding, ...]
    missing_rbac: str

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(finding.state != "FAILED" for finding in self.findings)


class Checker:
    """Looks at the clusters of configs."""

    def __init__(
        self,
        clusters: Clusters,
        caller_clusters: Sequence[CallerCluster],
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what it looks at.

        Args:
            clusters: the clusters of configs, with connections that nobody else needs.
            caller_clusters: those whose ServiceAccounts may call.
            clock: the time of day.
            monotonic: bounds how long a check takes.
        """
        self._clusters = clusters
        self._caller_clusters = caller_clusters
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
            return await self._check(config, rbac.needs(roles), hidden=hidden)
        finally:
            self._running.discard(config.name)

    async def _check(self, config: Config, needed: rbac.Needs, *, hidden: bool) -> Report:
        findings = await self._reach(config)
        failed = next((finding.item for finding in findings if finding.state == "FAILED"), None)
        if failed is not None:
            return _cut_short([*findings, _skipped("CREDENTIAL", failed)], failed, needed)
        # A connection of its own: the config's may be changing, or gone, before this is done.
        connection = self._clusters.connect(config)
        try:
            identity, credential = await self._credential(connection)
            if not identity:
                return _cut_short([*findings, credential], "CREDENTIAL", needed)
            reviews, missing_reviews = await self._token_reviews(connection)
            end = self._monotonic() + _MOST_SECONDS
            permissions = await self._permissions(connection, identity, needed, end)
            accounts = await self._service_accounts(connection, permissions, end)
        finally:
            await connection.retire()
        missing = [] if hidden else _missing(config, identity, needed, permissions)
        if hidden and any(found.reason in _LACKING for found in permissions):
            permissions.append(Finding("PERMISSION", "SKIPPED", _HIDDEN))
        return Report(
            identity,
            (*findings, credential, *reviews, *permissions, *accounts),
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
            return "", _failed("CREDENTIAL", error)
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
                findings.append(_failed("TOKEN_REVIEW", error))
                continue
            if allowed:
                findings.append(Finding("TOKEN_REVIEW", "PASSED", f"{identity} may review callers' tokens: {why}"))
                continue
            missing += rbac.review_manifests(identity)
            findings.append(
                Finding(
                    "TOKEN_REVIEW",
                    "FAILED",
                    f"{identity} may not review callers' tokens, so no ServiceAccount of {cluster.name} "
                    "can call kubevend "
                    "(create on tokenreviews.authentication.k8s.io).",
                    "KUBERNETES_FORBIDDEN",
                    metadata={"identity": identity, "cluster": cluster.name},
                )
            )
        return findings, missing

    async def _permissions(
        self, connection: Connection, identity: str, needed: rbac.Needs, end: float
    ) -> list[Finding]:
        async def look(pair: Pair) -> Finding:
            if self._monotonic() > end:
                return _of_pair("PERMISSION", pair, needed[pair], _NO_TIME)
            return await _permission(connection, identity, pair, needed[pair])

        findings = await _each(list(needed)[:_MOST_PAIRS], look)
        return [*findings, *_too_many(needed)]

    async def _service_accounts(
        self, connection: Connection, permissions: Iterable[Finding], end: float
    ) -> list[Finding]:
        """Look whether the ServiceAccounts are there whose tokens may be requested."""

        async def look(permission: Finding) -> Finding:
            pair = Pair(permission.namespace, permission.service_account)
            if permission.state != "PASSED":
                return _of_pair("SERVICE_ACCOUNT", pair, permission.roles, _NO_RIGHT)
            if self._monotonic() > end:
                return _of_pair("SERVICE_ACCOUNT", pair, permission.roles, _NO_TIME)
            return await _service_account(connection, permission)

        named = [
            found for found in permissions if found.namespace and ANY not in (found.namespace, found.service_account)
        ]
        return await _each(named, look)


async def _permission(connection: Connection, identity: str, pair: Pair, roles: tuple[str, ...]) -> Finding:
    where = "every namespace" if pair.namespace == ANY else f"namespace {pair.namespace}"
    whom = "every ServiceAccount" if pair.service_account == ANY else pair.service_account
    about = replace(
        Finding("PERMISSION", "PASSED", ""),
        namespace=pair.namespace,
        service_account=pair.service_account,
        roles=roles,
        metadata={"identity": identity},
    )
    namespace = "" if pair.namespace == ANY else pair.namespace
    name = "" if pair.service_account == ANY else pair.service_account
    try:
        allowed, why = await has_right(connection, token_right(namespace, name))
        if allowed:
            return replace(about, message=f"{identity} may request tokens of {whom} in {where}: {why}")
        covered = await covered_service_accounts(connection, namespace) if namespace else ()
    except KubevendError as error:
        return replace(about, state="FAILED", reason=error.reason, message=error.message)
    reason, because = "KUBERNETES_FORBIDDEN", ""
    if covered:
        reason = "KUBERNETES_RESOURCE_NAMES"
        because = f", only of {', '.join(covered[:20])}, which are in the resourceNames of its Role"
    elif namespace:
        because = ", or the namespace does not exist"
    message = f"{identity} may not request tokens of {whom} in {where}{because} (create on serviceaccounts/token)."
    return replace(about, state="FAILED", reason=reason, message=message)


async def _service_account(connection: Connection, permission: Finding) -> Finding:
    namespace, name = permission.namespace, permission.service_account
    about = replace(permission, item="SERVICE_ACCOUNT", metadata={})
    try:
        minted = await probe_service_account(connection, namespace, name)
    except KubevendError as error:
        return replace(about, state="FAILED", reason=error.reason, message=error.message, metadata=error.metadata)
    if not minted:
        return replace(about, message=f"ServiceAccount {namespace}/{name} exists.")
    return replace(
        about,
        state="WARNING",
        reason="TOKEN_NOT_AS_GRANTED",
        message=(
            f"ServiceAccount {namespace}/{name} exists, but the cluster minted a token for a lifetime that Kubernetes "
            "refuses: a mutating webhook changes TokenRequests. The token was dropped."
        ),
    )


def _too_many(needed: rbac.Needs) -> list[Finding]:
    left = len(needed) - _MOST_PAIRS
    if left <= 0:
        return []
    message = f"{left} more permissions were not looked at: {_MOST_PAIRS} are the most at once."
    return [Finding("PERMISSION", "SKIPPED", message)]


def _missing(config: Config, identity: str, needed: rbac.Needs, permissions: Iterable[Finding]) -> list[str]:
    # All that a namespace needs, since what is applied replaces what was there under the same name.
    lacking = {found.namespace for found in permissions if found.reason in _LACKING}
    return rbac.token_manifests(
        config.name, identity, {pair: roles for pair, roles in needed.items() if pair.namespace in lacking}
    )


def _failed(item: Item, error: KubevendError) -> Finding:
    return Finding(item, "FAILED", error.message, error.reason, metadata=error.metadata)


def _failed_at(item: Item, error: KubevendError) -> list[Finding]:
    """The first items, of which this one failed: those before it passed, those after it could not be looked at."""
    place = _FIRST.index(item)
    passed = [Finding(before, "PASSED", _GOT_SO_FAR[before]) for before in _FIRST[:place]]
    return [*passed, _failed(item, error), *(_skipped(after, item) for after in (*_FIRST[place + 1 :], "CLOCK"))]


def _cut_short(findings: Iterable[Finding], failed: Item, needed: rbac.Needs) -> Report:
    pairs = list(needed)[:_MOST_PAIRS]
    why = _after(failed)
    skipped = [_of_pair("PERMISSION", pair, needed[pair], why) for pair in pairs]
    return Report("", (*findings, *skipped, *_too_many(needed)), "")


def _skipped(item: Item, failed: Item) -> Finding:
    return Finding(item, "SKIPPED", _after(failed))


def _after(failed: Item) -> str:
    return f"Not looked at, since {failed} failed."


def _of_pair(item: Item, pair: Pair, roles: tuple[str, ...], why: str) -> Finding:
    return Finding(item, "SKIPPED", why, "", pair.namespace, pair.service_account, roles)


async def _each(things: Sequence[T], look: Callable[[T], Awaitable[R]]) -> list[R]:
    """Look at all, a few at a time, in their order."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def take_turn(thing: T) -> R:
        async with turns:
            return await look(thing)

    return list(await asyncio.gather(*(take_turn(thing) for thing in things)))
