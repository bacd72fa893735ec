"""`kubevend-server check` and `kubevend-server rbac`: CheckConfig on a terminal, beside the server or without it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from kubevend_server.catalog import Catalog
from kubevend_server.checks import Checker
from kubevend_server.clock import utc_now
from kubevend_server.cluster.clusters import Clusters, OwnCluster
from kubevend_server.config_rules import ConfigRules
from kubevend_server.configs import Config
from kubevend_server.encryption import Keyring, read_keys
from kubevend_server.findings import Finding, Report, State
from kubevend_server.names import DEFAULT_CONFIG
from kubevend_server.rbac.admission import admission_policies
from kubevend_server.rbac.manifests import review_manifests, role_manifests
from kubevend_server.rbac.needs import needs
from kubevend_server.roles import Role
from kubevend_server.settings import Settings
from kubevend_server.store import roles as role_store
from kubevend_server.store.configs import ConfigStore
from kubevend_server.store.database import Database
from kubevend_server.text import shown
from kubevend_server.wiring import connect_caller_clusters, make_limits, make_transport

_MARKS: dict[State, tuple[str, str]] = {
    "PASSED": ("✓", "green"),
    "WARNING": ("!", "yellow"),
    "FAILED": ("✗", "red"),
    "SKIPPED": ("-", "bright_black"),
}
_ITEM_WIDTH = 16
_LONGEST_LINE = 4000


@dataclass(frozen=True, slots=True)
class Inspected:
    """A config, and what came of looking at it."""

    config: Config
    report: Report


def read_catalog(settings: Settings) -> Catalog:
    """Read configs and roles from the store, which a running server may have open.

    Raises:
        ValueError, OSError: it cannot be read.
    """
    keyring = Keyring(read_keys(Path(settings.store.key_file), make=False))
    database = Database(settings.store.url, make=False)
    try:
        configs = database.read_now(ConfigStore(keyring).all)
        return Catalog(configs, database.read_now(role_store.all_roles))
    finally:
        database.close()


def choose(catalog: Catalog, names: Sequence[str]) -> list[Config]:
    """The configs of these names, `configs/` or not; all where none is given.

    Raises:
        ValueError: there is none of that name, or none at all.
    """
    known = catalog.configs()
    if not known:
        raise ValueError("There is no config yet: make one with CreateConfig.")
    if not names:
        return known
    wanted = [name if name.startswith("configs/") else f"configs/{name}" for name in names]
    for name in wanted:
        if catalog.config(name) is None:
            raise ValueError(f"There is no {name}. There is {', '.join(config.name for config in known)}.")
    return [config for config in known if config.name in wanted]


def inspect(settings: Settings, names: Sequence[str]) -> list[Inspected]:
    """Look at configs as the server would.

    Raises:
        ValueError, OSError: the store cannot be read, or there is no such config.
    """
    catalog = read_catalog(settings)
    return asyncio.run(_inspect(settings, catalog, choose(catalog, names)))


def choose_roles(catalog: Catalog, names: Sequence[str]) -> list[Role]:
    """The roles of these names, `roles/` or not.

    Raises:
        ValueError: there is none of that name, or they are of several configs.
    """
    wanted = [name if name.startswith("roles/") else f"roles/{name}" for name in names]
    known = {role.name: role for role in catalog.roles()}
    for name in wanted:
        if name not in known:
            raise ValueError(f"There is no {name}. There is {', '.join(sorted(known)) or 'none'}.")
    chosen = [known[name] for name in wanted]
    configs = sorted({role.config for role in chosen})
    if len(configs) > 1:
        raise ValueError(f"These roles are of {' and '.join(configs)}: give those of one config at a time.")
    return chosen


def missing_manifests(settings: Settings, name: str) -> str:
    """What a config's roles need and kubevend has not, as YAML; empty where nothing is missing.

    Args:
        settings: as the server has them.
        name: the config's.

    Raises:
        ValueError, OSError: the store cannot be read, there is no such config, or its cluster does not say as whom it
            knows kubevend.
    """
    catalog = read_catalog(settings)
    (config,) = choose(catalog, [name])
    return _inspect_one(settings, catalog, config).missing_rbac


def all_manifests(settings: Settings, name: str, identity: str, roles: Sequence[str] = ()) -> str:
    """All that a config's roles need, as YAML: the admission policies, then the RBAC.

    Args:
        settings: as the server has them.
        name: the config's; empty for that of the roles, or the default one.
        identity: for whom; empty for whom the cluster says.
        roles: the names of those alone that it is to be for; none for all.

    Raises:
        ValueError, OSError: the store cannot be read, there is no such config or role, or the cluster does not say for
            whom.
    """
    catalog = read_catalog(settings)
    chosen = choose_roles(catalog, roles)
    (config,) = choose(catalog, [name or (chosen[0].config if chosen else DEFAULT_CONFIG)])
    if any(role.config != config.name for role in chosen):
        raise ValueError(f"{chosen[0].name} is of {chosen[0].config}, not of {config.name}.")
    identity = identity or _inspect_one(settings, catalog, config).identity
    needing = chosen or _roles(catalog, config)
    policies = admission_policies(config.name, identity, needing, make_limits(settings))
    # The policies first, so that no right is there without what holds it.
    guards = [manifest for policy in policies for manifest in policy.manifests]
    reviews = review_manifests(identity) if _reviews_callers(settings, config) and not chosen else []
    return "---\n".join([*guards, *role_manifests(config.name, identity, needs(needing)), *reviews])


def _inspect_one(settings: Settings, catalog: Catalog, config: Config) -> Report:
    (inspected,) = asyncio.run(_inspect(settings, catalog, [config]))
    report = inspected.report
    if not report.identity:
        failed = next(finding for finding in report.findings if finding.state == "FAILED")
        raise ValueError(
            f"{shown(failed.message, _LONGEST_LINE)}\n"
            "Until that is mended, --identity says for whom the rights are to be: "
            "system:serviceaccount:NAMESPACE:NAME, or a user's name."
        )
    return report


async def _inspect(settings: Settings, catalog: Catalog, configs: Sequence[Config]) -> list[Inspected]:
    own = _own(settings)
    transport = make_transport(settings)
    clusters = Clusters(own, ConfigRules(own.host, settings.kubernetes.credential_folders), transport)
    caller_clusters = connect_caller_clusters(settings, own, transport)
    checker = Checker(clusters, caller_clusters, make_limits(settings), utc_now)
    try:
        return [Inspected(config, await checker.check(config, _roles(catalog, config))) for config in configs]
    finally:
        for cluster in caller_clusters:
            await cluster.connection.retire()
        await clusters.close()


def _own(settings: Settings) -> OwnCluster:
    return OwnCluster(Path(settings.kubernetes.service_account_folder))


def _reviews_callers(settings: Settings, config: Config) -> bool:
    """Whether the settings have kubevend review callers' tokens at this config's cluster."""
    own = _own(settings).host
    return any(
        (cluster.kubernetes_host or own) == (config.kubernetes_host or own)
        for cluster in settings.callers.clusters.values()
    )


def _roles(catalog: Catalog, config: Config) -> list[Role]:
    return [role for role in catalog.roles() if role.config == config.name]


def show(inspected: Inspected) -> None:
    """Print what came of looking at a config."""
    click.secho(inspected.config.name, bold=True)
    for finding in inspected.report.findings:
        _show_finding(finding)


def _show_finding(finding: Finding) -> None:
    mark, color = _MARKS[finding.state]
    item = finding.item.lower().replace("_", " ").ljust(_ITEM_WIDTH)
    reason = f" [{finding.reason}]" if finding.reason else ""
    about = "/".join(filter(None, (finding.namespace, finding.service_account)))
    where = f"{about}: " if finding.state == "SKIPPED" and about else ""
    # What a cluster says is cleaned where it comes in; a terminal would obey what was forgotten there.
    said = shown(f"{item} {where}{finding.message}{reason}", _LONGEST_LINE)
    click.echo(f"  {click.style(mark, fg=color)} {said}")
