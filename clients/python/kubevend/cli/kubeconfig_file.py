"""Kubeconfigs as files: https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/."""

from __future__ import annotations

import os
import tempfile
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

_LISTS = ("clusters", "users", "contexts")
_OF_A_CLUSTER = ("server", "certificate-authority", "certificate-authority-data", "tls-server-name", "proxy-url")


@dataclass(frozen=True)
class Entry:
    """A cluster, a user by a plugin, and a context of both, under one name."""

    name: str
    cluster: dict[str, Any]
    plugin: dict[str, Any]
    namespace: str

    def alone(self) -> dict[str, Any]:
        """A kubeconfig with nothing else in it."""
        context = {"cluster": self.name, "user": self.name}
        if self.namespace:
            context["namespace"] = self.namespace
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": self.name, "cluster": self.cluster}],
            "users": [{"name": self.name, "user": {"exec": self.plugin}}],
            "contexts": [{"name": self.name, "context": context}],
            "current-context": self.name,
        }

    def merged_into(self, other: dict[str, Any]) -> dict[str, Any]:
        """The kubeconfig with this one in it, in place of what had its name. Its current context stays."""
        own = self.alone()
        lists = {each: [*_without(self.name, other.get(each) or []), *own[each]] for each in _LISTS}
        return {**own, **other, **lists, "current-context": other.get("current-context") or self.name}


def _without(name: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in items if item.get("name") != name]


def cluster(server: str, authority: bytes) -> dict[str, Any]:
    """The entry of a cluster; `authority` is PEM, or empty for the system's."""
    data = {"certificate-authority-data": b64encode(authority).decode()} if authority else {}
    return {"server": server, **data}


def dump(content: dict[str, Any]) -> str:
    """The text of a kubeconfig."""
    return str(yaml.safe_dump(content, sort_keys=False))


def read(path: Path) -> dict[str, Any]:
    """What is in a kubeconfig; nothing where there is none.

    Raises:
        click.ClickException: it is no kubeconfig. What is in it is not quoted, since keys can be.
    """
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} cannot be read as a kubeconfig ({type(error).__name__}).") from error
    if not isinstance(content, dict):
        raise click.ClickException(f"{path} is no kubeconfig.")
    return content


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a kubeconfig, its owner's alone, whole or not at all."""
    target = path.resolve()  # what a link leads to, not the link
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    new = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(dump(content))
        new.replace(target)
    except BaseException:
        new.unlink()
        raise


def current_cluster(paths: list[Path]) -> dict[str, Any] | None:
    """The entry of the current context's cluster in kubeconfigs, of which earlier ones go before later ones, as for
    kubectl; None where there is none. Paths in it become absolute.
    """  # noqa: D205 - what kubectl does takes two lines
    found = [(path, read(path)) for path in paths]
    current = next((content["current-context"] for _, content in found if content.get("current-context")), "")
    contexts = [item for _, content in found for item in content.get("contexts") or []]
    named = next((item["context"]["cluster"] for item in contexts if item.get("name") == current), None)
    for path, content in found:
        for item in content.get("clusters") or []:
            if item.get("name") == named:
                return _absolute(item["cluster"], path.parent)
    return None


def _absolute(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What of an entry says where the cluster is, and who vouches for it: not that nobody has to."""
    kept = {name: entry[name] for name in _OF_A_CLUSTER if name in entry}
    authority = entry.get("certificate-authority")
    return {**kept, "certificate-authority": str((folder / authority).absolute())} if authority else kept
