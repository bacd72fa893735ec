"""The file with contexts: named servers, TOML.

current = "prod"

[contexts.prod]
address = "kubevend.example.com:7443"
ca_file = "/etc/kubevend/ca.crt"
token_file = "/var/run/secrets/kubevend/token"
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubevend.connection import VARIABLES
from kubevend.errors import ClientError


@dataclass
class Contexts:
    """What is in the file.

    Attributes:
        path: where it is, or would be.
        current: the context that is used where none is named; empty for none.
        contexts: their settings, by name.
    """

    path: Path
    current: str = ""
    contexts: dict[str, dict[str, str]] = field(default_factory=dict)

    def settings(self, named: str | None) -> Mapping[str, Any]:
        """The settings of a context, or of the current one; none where there is none.

        Raises:
            ClientError: there is no context of that name.
        """
        name = named or self.current
        if not name:
            return {}
        if name not in self.contexts:
            there = ", ".join(sorted(self.contexts)) or "none"
            raise ClientError(
                f"There is no context {name!r} in {self.path}; there are: {there}.", reason="SETTINGS_INVALID"
            )
        return self.contexts[name]

    def write(self) -> None:
        """Write the file, whole or not at all."""
        lines = [f"current = {json.dumps(self.current)}"] if self.current else []
        for name, settings in sorted(self.contexts.items()):
            lines += ["", f"[contexts.{json.dumps(name)}]"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in sorted(settings.items())]
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        new.write_text("\n".join([*lines, ""]).lstrip("\n"))
        new.replace(self.path)


def read(environment: Mapping[str, str]) -> Contexts:
    """Read the file, if there is one.

    Raises:
        ClientError: it is no such file.
    """
    path = _path(environment)
    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return Contexts(path)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ClientError(f"{path} cannot be used: {error}. Mend it, or set KUBEVEND_CONFIG.") from error
    contexts = content.get("contexts", {})
    for name, settings in contexts.items():
        unknown = settings.keys() - VARIABLES.keys()
        if unknown:
            raise ClientError(
                f"{path}: context {name!r} has {', '.join(sorted(unknown))}; a context may have {', '.join(VARIABLES)}."
            )
    return Contexts(path, content.get("current", ""), contexts)


def _path(environment: Mapping[str, str]) -> Path:
    if given := environment.get("KUBEVEND_CONFIG"):
        return Path(given)
    home = Path(environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".config")
    return home / "kubevend" / "config.toml"
