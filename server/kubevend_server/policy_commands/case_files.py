"""Files of test cases for access policies, in YAML: what one may hold, and what is wrong with one that may not.

docs/policies.md has the form. Roles and configs have that of the API, as grpcurl prints them; they are read later.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import yaml

from kubevend_server.policy_commands.questions import nearest


class CasesError(ValueError):
    """A file of cases that cannot be used; the message says where and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerEntry:
    """A caller: its name, and what its credential says besides."""

    name: str
    claims: dict[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    pod: str = ""
    node: str = ""
    proxy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseEntry:
    """A lease. `role` is one of the file's; `caller` too."""

    role: str
    caller: str
    namespace: str
    service_account: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseEntry:
    """A case: a question, and the answer that it must have."""

    name: str
    caller: str
    expect: Literal["allow", "deny", "refuse"]
    action: str = "IssueToken"
    role: str = ""
    config: str = ""
    lease: str = ""
    proposed: str = ""
    namespace: str = ""
    service_account: str = ""
    audiences: tuple[str, ...] = ()
    ttl: str = ""
    cluster_wide: bool = False
    time: str = ""
    source: str = ""
    by: tuple[str, ...] | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CasesFile:
    """A whole file. `policies` is the policies' folder, from the file's own."""

    cases: tuple[CaseEntry, ...]
    callers: dict[str, CallerEntry]
    policies: str = "."
    roles: dict[str, dict[str, Any]] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    leases: dict[str, LeaseEntry] = field(default_factory=dict)
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)


def parse(content: bytes) -> CasesFile:
    """Parse a file of cases.

    Raises:
        CasesError: it cannot be used.
    """
    try:
        return _convert(yaml.load(content, _Loader))  # noqa: S506 - a SafeLoader, but for keys that are there twice
    except yaml.YAMLError as error:
        raise CasesError(f"it is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise CasesError("it is nested too deep") from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, and leaves times as they are written."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise CasesError(f"line {key.start_mark.line + 1}: a key is no name")
            if key.value in seen:
                raise CasesError(f"line {key.start_mark.line + 1}: {key.value!r} is there twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _convert(loaded: Any) -> CasesFile:
    for fault in _strange_keys(loaded, CasesFile, ""):
        raise CasesError(fault)
    try:
        found = msgspec.convert(loaded, CasesFile)
    except msgspec.ValidationError as error:
        raise CasesError(_in_words(str(error), loaded)) from error
    if not found.cases:
        raise CasesError("it has no cases: a test that tests nothing would pass")
    return found


def _in_words(fault: str, loaded: Any) -> str:
    """A fault of msgspec's, with the name of the case."""
    what, _, place = fault.partition(" - at `$")
    path = place.rstrip("`").removeprefix(".")
    if what == "Object missing required field `expect`":
        what = "it has no expect: say allow, deny, or refuse"
    if path.endswith(".expect"):
        what += ": say allow, deny, or refuse"
    if path.endswith(".ttl"):
        what += ": write 600s, 10m, 1h or 1d"
    if path.startswith("cases["):
        name = loaded["cases"][int(path[6 : path.index("]")])].get("name")
        path = f"{path} ({name})" if name else path
    return f"{path}: {what}" if path else what


def _strange_keys(found: Any, expected: Any, path: str) -> Iterator[str]:
    if not isinstance(found, dict):
        return
    hints = get_type_hints(expected)
    known = [f.name for f in fields(expected)]
    for key, value in found.items():
        if key not in known:
            yield f"{path}{key} is nothing that it can have; {nearest(str(key), known)}"
        else:
            yield from _strange_keys_within(value, hints[key], f"{path}{key}")


def _strange_keys_within(value: Any, hint: Any, path: str) -> Iterator[str]:
    inner = next((part for part in get_args(hint) if is_dataclass(part)), None)
    if inner is None:
        return
    if get_origin(hint) is dict and isinstance(value, dict):
        for name, entry in value.items():
            yield from _strange_keys(entry, inner, f"{path}.{name}.")
    elif isinstance(value, list):
        for place, entry in enumerate(value):
            yield from _strange_keys(entry, inner, f"{path}[{place}].")
