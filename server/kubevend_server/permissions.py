"""Looking at what a cluster permits kubevend: each right that roles need, and the ServiceAccounts that they name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from kubevend_server.cluster.connection import Connection
from kubevend_server.cluster.rights import covered_service_accounts, has_right
from kubevend_server.cluster.tokens import probe_service_account
from kubevend_server.errors import KubevendError
from kubevend_server.findings import Finding
from kubevend_server.rbac.needs import NOWHERE, Need, Needs, service_account
from kubevend_server.roles import ANY

AT_ONCE = 8
"""How many questions a check asks at once, and so the most connections that it needs."""

LACKING = ("KUBERNETES_FORBIDDEN", "KUBERNETES_RESOURCE_NAMES")
"""The reasons of what RBAC mends; a permission that could not be asked for may be there."""

MOST_SECONDS = 60.0
"""How long a check takes at the most."""

_MOST_NEEDS = 500
NO_TIME = f"Not looked at: the check has taken {MOST_SECONDS:.0f} s."
_NO_RIGHT = "Not known without the right to request its tokens."

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Looking:
    """How to look.

    Attributes:
        connection: the cluster.
        identity: as whom it knows kubevend.
        is_late: whether there is no time left.
    """

    connection: Connection
    identity: str
    is_late: Callable[[], bool]


async def look_at_permissions(looking: Looking, needed: Needs) -> list[Finding]:
    """Look at each right, in order."""

    async def look(need: Need) -> Finding:
        if looking.is_late():
            return _of_need(need, needed[need], NO_TIME)
        return await _permission(looking, need, needed[need])

    return [*await each(list(needed)[:_MOST_NEEDS], look), *_too_many(needed)]


def unknown_permissions(needed: Needs, why: str) -> list[Finding]:
    """What is told of rights that cannot be looked at."""
    return [*(_of_need(need, needed[need], why) for need in list(needed)[:_MOST_NEEDS]), *_too_many(needed)]


async def look_at_service_accounts(looking: Looking, permissions: Iterable[Finding]) -> list[Finding]:
    """Look whether the ServiceAccounts are there whose tokens may be requested."""

    async def look(permission: Finding) -> Finding:
        about = replace(permission, item="SERVICE_ACCOUNT", state="SKIPPED", reason="", metadata={})
        if permission.state != "PASSED":
            return replace(about, message=_NO_RIGHT)
        if looking.is_late():
            return replace(about, message=NO_TIME)
        return await _service_account(looking.connection, about)

    return await each(list(filter(names_account, permissions)), look)


async def _permission(looking: Looking, need: Need, roles: tuple[str, ...]) -> Finding:
    right, identity, account = need.right, looking.identity, service_account(need)
    told = {"identity": identity, "verb": right.verb, "resource": right.resource or right.path}
    if right.group:
        told["group"] = right.group
    if right.name and not account:
        told["name"] = right.name
    about = Finding("PERMISSION", "PASSED", "", "", need.where, account, roles, told)
    may, where = _in_words(need), _where(need)
    try:
        allowed, why = await has_right(looking.connection, right)
        if allowed:
            return replace(about, message=f"{identity} may {may}{where}: {why}")
        covered = await covered_service_accounts(looking.connection, right.namespace) if _is_named(need) else ()
    except KubevendError as error:
        return replace(about, state="FAILED", reason=error.reason, message=error.message)
    reason, because = "KUBERNETES_FORBIDDEN", ""
    if covered:
        reason = "KUBERNETES_RESOURCE_NAMES"
        because = f", only of {', '.join(covered[:20])}, which are in the resourceNames of its Role"
    elif right.namespace:
        because = ", or the namespace does not exist"
    exactly = " (create on serviceaccounts/token)" if account else ""
    message = f"{identity} may not {may}{where}{because}{exactly}."
    return replace(about, state="FAILED", reason=reason, message=message)


def _in_words(need: Need) -> str:
    match need.purpose, service_account(need):
        case "TOKENS", account:
            return f"request tokens of {'every ServiceAccount' if account == ANY else account}"
        case _:
            return f"{need.right.verb} {str(need.right).partition(' on ')[2]}"


def _where(need: Need) -> str:
    if need.where == NOWHERE:
        return ""
    return " in every namespace" if need.where == ANY else f" in namespace {need.where}"


def _is_named(need: Need) -> bool:
    return need.purpose == "TOKENS" and bool(need.right.namespace)


def names_account(permission: Finding) -> bool:
    """Whether it is about one ServiceAccount."""
    account = permission.service_account
    return bool(account) and ANY not in {account, permission.namespace}


async def _service_account(connection: Connection, about: Finding) -> Finding:
    namespace, name = about.namespace, about.service_account
    try:
        minted = await probe_service_account(connection, namespace, name)
    except KubevendError as error:
        return replace(about, state="FAILED", reason=error.reason, message=error.message, metadata=error.metadata)
    if not minted:
        return replace(about, state="PASSED", message=f"ServiceAccount {namespace}/{name} exists.")
    return replace(
        about,
        state="WARNING",
        reason="TOKEN_NOT_AS_GRANTED",
        message=(
            f"ServiceAccount {namespace}/{name} exists, but the cluster minted a token for a lifetime that Kubernetes "
            "refuses: a mutating webhook changes TokenRequests. The token was dropped."
        ),
    )


def _too_many(needed: Needs) -> list[Finding]:
    left = len(needed) - _MOST_NEEDS
    if left <= 0:
        return []
    message = f"{left} more permissions were not looked at: {_MOST_NEEDS} are the most at once."
    return [Finding("PERMISSION", "SKIPPED", message)]


def _of_need(need: Need, roles: tuple[str, ...], why: str) -> Finding:
    told = {"verb": need.right.verb, "resource": need.right.resource or need.right.path}
    return Finding("PERMISSION", "SKIPPED", why, "", need.where, service_account(need), roles, told)


async def each(things: Sequence[T], look: Callable[[T], Awaitable[R]]) -> list[R]:
    """Look at all, a few at a time.

    Returns:
        What came of each, in their order.
    """
    turns = asyncio.Semaphore(AT_ONCE)

    async def take_turn(thing: T) -> R:
        async with turns:
            return await look(thing)

    return list(await asyncio.gather(*(take_turn(thing) for thing in things)))
