"""Groups of callers, by their names: the file groups.toml of a policy folder."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from urllib.parse import quote, unquote

from kubevend_server.callers import Caller
from kubevend_server.policy.parsing import PolicyError

_NAME = re.compile(r"[a-z0-9-]+")
_ENTRY = re.compile(r"(?P<scheme>\w+)://(?P<authority>[^/*\s]+)/(?P<path>[^*\s]*)(?P<any>\*?)")
_SCHEMES = ("spiffe", "kubernetes", "oidc", "admin")
_CUT = re.compile(r"(?:[/.:_@-]|%[0-9A-F]{2})\Z")
"""What stands before a `*`: else `team-a*` would take in `team-app`, whose name goes on in the middle of a word."""
_SERVICE_ACCOUNT = re.compile(r"[^/]+/[^/]+")
_PART = re.compile(r"[^/]*(/[^/]*)?")
_MOST_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Groups:
    """Which callers are in which groups.

    Attributes:
        exact: the groups of a caller's whole name.
        prefixes: the groups of the names that begin with something.
    """

    exact: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prefixes: tuple[tuple[str, str], ...] = ()
    names: frozenset[str] = frozenset()

    def of(self, caller: str) -> tuple[str, ...]:
        """The groups that the caller of this name is in, sorted."""
        found = {*self.exact.get(caller, ()), *(group for prefix, group in self.prefixes if caller.startswith(prefix))}
        return tuple(sorted(found))

    def members(self, group: str) -> tuple[str, ...]:
        """The entries of a group, sorted."""
        whole = [name for name, groups in self.exact.items() if group in groups]
        return tuple(sorted([*whole, *(f"{prefix}*" for prefix, other in self.prefixes if other == group)]))


class Membership:
    """Adds to callers the groups that they are in."""

    def __init__(self, groups: Groups) -> None:
        """Take the groups."""
        self._of = lru_cache(_MOST_REMEMBERED)(groups.of)

    def enroll(self, caller: Caller) -> Caller:
        """The caller with its groups; those that its token names stay, those of another file go."""
        # The groups of a token have the issuer's name before a colon, which no group of a file has in its name.
        groups = (*(group for group in caller.groups if ":" in group), *self._of(caller.name))
        return caller if groups == caller.groups else replace(caller, groups=groups)


def parse_groups(text: str) -> Groups:
    """Read the text of groups.toml: a table `groups`, of names with the callers that are in them.

    An entry is a caller's whole name, or its beginning with a `*` after it. What the `*` stands for begins after the
    authority and after a whole word: `spiffe://example.org/ns/payments/*`, `kubernetes://prod/ci/runner-*`.

    Raises:
        PolicyError: it is no such file; the message names the entry, and what it should be.
    """
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"it is no TOML: {error}") from error
    except RecursionError as error:
        raise PolicyError("it is no TOML that can be read: it is nested too deep") from error
    table = parsed.pop("groups", {})
    if parsed:
        raise PolicyError(f"it has {', '.join(map(repr, parsed))}; all that it can have is a table [groups]")
    exact: dict[str, tuple[str, ...]] = {}
    prefixes: list[tuple[str, str]] = []
    for group, entry in _entries(table):
        fault = _fault(entry)
        if fault:
            raise PolicyError(f"group {group!r}: {entry!r} {fault}")
        if entry.endswith("*"):
            prefixes.append((entry.removesuffix("*"), group))
        else:
            exact[entry] = (*exact.get(entry, ()), group)
    return Groups(exact, tuple(prefixes), frozenset(table))


def _entries(table: object) -> Iterator[tuple[str, str]]:
    if not isinstance(table, dict):
        raise PolicyError('groups is no table; write [groups], and below it lines such as team = ["…", "…"]')
    for group, members in table.items():
        if not _NAME.fullmatch(group):
            raise PolicyError(f"{group!r} is no name of a group: lower-case letters, digits and dashes")
        if not isinstance(members, list) or not all(isinstance(entry, str) for entry in members):
            raise PolicyError(f'group {group!r} is no list of callers\' names; write {group} = ["…", "…"]')
        for entry in members:
            yield group, entry


def _fault(entry: str) -> str:
    """What is wrong with an entry, after its name in a sentence; empty where nothing is."""
    match = _ENTRY.fullmatch(entry)
    if match is None or not (match["path"] or match["any"]):
        return (
            "is no caller's name, and no beginning of one with a * at its end, after the authority and its slash, "
            "such as spiffe://example.org/ns/payments/*"
        )
    if match["scheme"] not in _SCHEMES:
        return f"is no caller's name, which begins with {', '.join(f'{each}://' for each in _SCHEMES)}"
    if match["authority"] != match["authority"].lower():
        return f"has capital letters in {match['authority']!r}, which no caller's name has there"
    if match["any"] and match["path"] and not _CUT.search(match["path"]):
        return "has its * in the middle of a word; let it follow a slash, or what else ends a word, such as a dash"
    return _path_fault(match)


def _path_fault(match: re.Match[str]) -> str:
    scheme, path = match["scheme"], match["path"]
    if scheme == "oidc" and (encoded := quote(unquote(path), safe="")) != path:
        return f"has a subject that is not percent-encoded; write oidc://{match['authority']}/{encoded}{match['any']}"
    if scheme == "kubernetes" and not (_PART if match["any"] else _SERVICE_ACCOUNT).fullmatch(path):
        return "is no ServiceAccount; write kubernetes://{cluster}/{namespace}/{name}, as the settings call the cluster"
    return ""
