"""Settings from a TOML file. What is not known there stops the start."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from kubevend_server.settings.checks import SettingsError, check
from kubevend_server.settings.sections import Settings


def load(path: Path) -> Settings:
    """Read settings from a TOML file.

    Raises:
        SettingsError: the file cannot be read, has a key that is not known, or a value that cannot be.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise SettingsError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    try:
        return parse(text)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def parse(text: str) -> Settings:
    """Read settings from TOML.

    Raises:
        SettingsError: it is no TOML, has a key that is not known, or a value that cannot be.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"It is not TOML: {error}.") from error
    _check_keys(found, Settings, "")
    try:
        settings = msgspec.convert(found, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{error}.") from error
    check(settings)
    return settings


def _check_keys(found: dict[str, Any], expected: Any, path: str) -> None:
    hints = get_type_hints(expected)
    known = [f.name for f in fields(expected)]
    for key, value in found.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {path}{near[0]}?" if near else f"known here: {', '.join(known)}."
            if isinstance(value, dict) and not near and path.count(".") > 1:
                hint = 'a name with dots in it stands in quotes, as in [callers.trust_domains."example.org"].'
            raise SettingsError(f"{path}{key} is not a setting; {hint}")
        if is_dataclass(hints[key]) and isinstance(value, dict):
            _check_keys(value, hints[key], f"{path}{key}.")
        elif get_origin(hints[key]) is dict and is_dataclass(get_args(hints[key])[1]) and isinstance(value, dict):
            for name, section in value.items():
                if isinstance(section, dict):
                    _check_keys(section, get_args(hints[key])[1], f"{path}{key}.{name}.")
