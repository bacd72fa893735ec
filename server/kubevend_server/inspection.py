"""`kubevend-server check` and `kubevend-server rbac`: CheckConfig on a terminal, beside the server or without it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from kubevend_server import rbac
from kubevend_server.app import connect_caller_clusters, make_transport
from kubevend_server.catalog import Catalog
from kubevend_server.checks import Checker, Finding, Report, State
from kubevend_server.clock import utc_now
from kubevend_server.cluster.clusters import Clusters, OwnCluster
from kubevend_server.cluster.text import shown
from kubevend_server.config_rules import ConfigRules
from kubevend_server.configs import Config
from kubevend_server.encryption import Keyring, read_keys
from kubevend_server.roles import Role
from kubevend_server.settings import Settings
from kubevend_server.store import roles as role_store
from kubevend_server.store.configs import ConfigStore
from kubevend_server.store.database import Database

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


def manifests(settings: Settings, name: str, identity: str, *, everything: bool) -> str:
    """The RBAC that a config needs, as YAML.

    Args:
        settings: as the server has them.
        name: the config's.
        identity: for whom; empty for whom the cluster says.
        everything: not only what is missing.

    Raises:
        ValueError, OSError: the store cannot be read, there is no such config, or the cluster does not say for whom.
    """
    catalog = read_catalog(settings)
    (config,) = choose(catalog, [name])
    if not identity:
        (inspected,) = asyncio.run(_inspect(settings, catalog, [config]))
        identity = inspected.report.identity
        if not identity:
            failed = next(finding for finding in inspected.report.findings if finding.state == "FAILED")
            raise ValueError(
                f"{shown(failed.message, _LONGEST_LINE)}\n"
                "Until that is mended, --identity says for whom the rights are to be: "
                "system:serviceaccount:NAMESPACE:NAME, or a user's name."
            )
        if not everything:
            return inspected.report.missing_rbac
    reviews = rbac.review_manifests(identity) if _reviews_callers(settings, config) else []
    return "---\n".join([*rbac.token_manifests(config.name, identity, rbac.needs(_roles(catalog, config))), *reviews])


async def _inspect(settings: Settings, catalog: Catalog, configs: Sequence[Config]) -> list[Inspected]:
    own = _own(settings)
    transport = make_transport(settings)
    clusters = Clusters(own, ConfigRules(own.host, settings.kubernetes.credential_folders), transport)
    caller_clusters = connect_caller_clusters(settings, own, transport)
    checker = Checker(clusters, caller_clusters, utc_now)
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
    where = (
        f"{finding.namespace}/{finding.service_account}: " if finding.state == "SKIPPED" and finding.namespace else ""
    )
    # What a cluster says is cleaned where it comes in; a terminal would obey what was forgotten there.
    said = shown(f"{item} {where}{finding.message}{reason}", _LONGEST_LINE)
    click.echo(f"  {click.style(mark, fg=color)} {said}")
