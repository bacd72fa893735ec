"""The file with contexts: named servers, YAML. No secret is in it, only the paths of files.

current: prod
contexts:
  prod:
    address: kubevend.example.com:7443
    ca_file: /etc/kubevend/ca.crt
    token_file: /var/run/secrets/kubevend/token
"""

from __future__ import annotations

import difflib
import os
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
        import yaml

        content = {"current": self.current, "contexts": self.contexts}
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        new.write_text(yaml.safe_dump(content, sort_keys=False))
        new.replace(self.path)


def read(environment: Mapping[str, str]) -> Contexts:
    """Read the file, if there is one.

    Raises:
        ClientError: it is no such file (SETTINGS_INVALID).
    """
    import yaml

    path = path_of(environment)
    try:
        content = yaml.safe_load(path.read_text()) or {}
        contexts = {str(name): _checked(path, name, given) for name, given in (content.get("contexts") or {}).items()}
        return Contexts(path, str(content.get("current") or ""), contexts)
    except FileNotFoundError:
        return Contexts(path)
    except (OSError, UnicodeDecodeError, AttributeError, yaml.YAMLError) as error:
        raise ClientError(
            f"{path} cannot be used: {error}. Mend it, or set KUBEVEND_CONFIG.", reason="SETTINGS_INVALID"
        ) from error


def _checked(path: Path, name: Any, given: Mapping[str, Any]) -> dict[str, str]:
    for key in given:
        if key not in VARIABLES:
            near = difflib.get_close_matches(str(key), VARIABLES, 1)
            hint = f"did you mean {near[0]}?" if near else f"it may have {', '.join(VARIABLES)}."
            raise ClientError(f"{path}: context {name!r} has {key!r}; {hint}", reason="SETTINGS_INVALID")
    return {key: str(value) for key, value in given.items()}


def path_of(environment: Mapping[str, str]) -> Path:
    """Where the file is: KUBEVEND_CONFIG, or `~/.config/kubevend/config.yaml` ($XDG_CONFIG_HOME)."""
    if given := environment.get("KUBEVEND_CONFIG"):
        return Path(given)
    home = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".config"
    return Path(home) / "kubevend" / "config.yaml"
