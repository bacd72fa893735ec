"""Policies from their texts: parsed, named, and held against the schema, with each fault told by its file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import cedarpy

from kubevend_server.policy.nesting import TooDeepError, read_cedar

SCHEMA = resources.files(__package__).joinpath("kubevend.cedarschema").read_text()
DECIDED_AS = {"StreamTokens": "IssueToken", "WhoAmI": ""}
"""The methods without an action of their own, and the action that is decided in its place: a stream of tokens is
allowed to whom each of them is. WhoAmI tells callers of themselves alone, so nobody is kept from it."""
COMPILED_SCHEMA = cedarpy.Schema.from_str(SCHEMA)


class PolicyError(ValueError):
    """A set of policies that cannot be used; the message names each fault."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """Policies that fit the schema.

    Attributes:
        by_id: each as Cedar's JSON has it, by its `@id`.
        groups: the groups of callers that they name.
    """

    by_id: Mapping[str, Any]
    groups: frozenset[str]


def parse(files: Mapping[str, str]) -> Parsed:
    """Parse the texts of policy files, and hold them together against the schema.

    Args:
        files: Cedar text, by the file's name; the name may be empty where there is one. Every policy has an `@id`
            that is its own among all files.

    Raises:
        PolicyError: a text does not parse or does not fit the schema, or an `@id` is missing or doubled.
    """
    by_id: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, text in files.items():
        for identity, policy in _named(name, text):
            if identity in by_id:
                also = f", in {origins[identity]} and in {name}" if origins[identity] != name else ""
                raise PolicyError(f"{_of(name)}two policies have the @id {identity!r}{also}")
            by_id[identity], origins[identity] = policy, name
    # Each text parses by itself, so together they are what they are alone.
    result = cedarpy.validate_policies("\n".join(files.values()), COMPILED_SCHEMA, release_gil=True)
    if not result.validation_passed:
        ids = result.id_annotations_by_policy_id
        faults = "; ".join(_fault(ids.get(e.policy_id, e.policy_id), e.error, origins) for e in result.errors)
        raise PolicyError(f"The access policies do not fit the schema: {faults}")
    return Parsed(by_id, frozenset(_groups(list(by_id.values()))))


def actions() -> frozenset[str]:
    """The actions that the schema knows: the methods of the API, `UseConfig`, and the groups."""
    return frozenset(name for names, _ in _declared_actions() for name in names)


def _declared_actions() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    declared = re.finditer(r"^action ([\w, ]+?)(?: in \[([\w, ]+)\])?\s*(?=appliesTo|;)", SCHEMA, re.MULTILINE)
    for found in declared:
        yield _names(found.group(1)), _names(found.group(2) or "")


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


GROUPS_OF_ACTIONS: Mapping[str, tuple[str, ...]] = {
    name: groups for names, groups in _declared_actions() for name in names
}
"""The groups of actions that each action is in."""


def _named(file: str, text: str) -> Iterator[tuple[str, Any]]:
    try:
        parsed = read_cedar(text)
    except TooDeepError as error:
        raise PolicyError(f"{_of(file)}{error}") from error
    except ValueError as error:
        raise PolicyError(f"{_of(file)}it does not parse: {error}") from error
    if parsed.get("templates"):
        raise PolicyError(f"{_of(file)}a template (with ?principal or ?resource) permits nothing; write a policy")
    for position, policy in parsed["staticPolicies"].items():
        identity = policy.get("annotations", {}).get("id")
        if not identity:
            raise PolicyError(f'{_of(file)}{position} (counted from 0) has no @id; write @id("a-name") before it')
        yield identity, policy


def _of(file: str) -> str:
    return f"{file}: " if file else ""


def _fault(identity: str, told: str, origins: Mapping[str, str]) -> str:
    return f"{_of(origins.get(identity, ''))}{identity}: {told}"


def _groups(policies: Any) -> Iterator[str]:
    """The groups that policies, as Cedar's JSON has them, name."""
    if isinstance(policies, dict):
        if policies.get("type") == "Group" and isinstance(policies.get("id"), str):
            yield policies["id"]
        policies = list(policies.values())
    if isinstance(policies, list):
        for each in policies:
            yield from _groups(each)
