"""The access policies as they are in force: a folder's policies and groups, as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubevend_server.callers import Caller
from kubevend_server.policy.access import AccessPolicy, Decision
from kubevend_server.policy.entities import Circumstances, Labels, Resource
from kubevend_server.policy.groups import Groups, Membership, parse_groups
from kubevend_server.policy.parsing import Parsed, PolicyError, parse
from kubevend_server.policy.visible import Kind

GROUPS_FILE = "groups.toml"


@dataclass(frozen=True, slots=True)
class PolicyFiles:
    """The files of a policy folder, as they were read together.

    Attributes:
        policies: the texts of the `*.cedar` files, by their names.
        groups: the text of groups.toml; None where there is no such file.
    """

    policies: Mapping[str, str]
    groups: str | None = None

    @property
    def sha256(self) -> str:
        """Tells one set from another: the SHA-256 of all names and texts, in hexadecimal."""
        digest = hashlib.sha256()
        named = dict(self.policies) if self.groups is None else {**self.policies, GROUPS_FILE: self.groups}
        for name, text in sorted(named.items()):
            for part in (name.encode(), text.encode()):
                digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()


class Policies:
    """One set of policies and groups. Whatever is decided is decided by both."""

    def __init__(self, access: AccessPolicy, groups: Groups | None = None, sha256: str = "") -> None:
        """Take the policies, the groups, and what tells this set from another."""
        self.access = access
        self.groups = groups or Groups()
        self.sha256 = sha256
        self._membership = Membership(self.groups)

    def __len__(self) -> int:
        return len(self.access)

    def enroll(self, caller: Caller) -> Caller:
        """The caller with the groups that it is in here."""
        return self._membership.enroll(caller)

    def authorize(self, caller: Caller, action: str, resource: Resource, circumstances: Circumstances) -> Decision:
        """Decide as `AccessPolicy.authorize` does, whatever groups another set had given to the caller."""
        return self.access.authorize(self.enroll(caller), action, resource, circumstances)

    def gettable(self, caller: Caller, circumstances: Circumstances, roles: Mapping[str, Labels]) -> Sequence[Kind]:
        """The kinds of leases that a caller may get, as `AccessPolicy.gettable` tells them."""
        return self.access.gettable(self.enroll(caller), circumstances, roles)


def load(files: PolicyFiles) -> Policies:
    """Parse and check a folder's files as a whole.

    Raises:
        PolicyError: they cannot be used; the message names the file and the fault.
    """
    groups = Groups()
    if files.groups is not None:
        try:
            groups = parse_groups(files.groups)
        except PolicyError as error:
            raise PolicyError(f"{GROUPS_FILE}: {error}") from error
    parsed = parse(files.policies)
    _check_groups(parsed, groups)
    return Policies(AccessPolicy(parsed), groups, files.sha256)


def _check_groups(parsed: Parsed, groups: Groups) -> None:
    """Refuse policies that name groups that no file has: a forbid for a name that is mistyped would hold for nobody."""
    unknown = sorted(name for name in parsed.groups if ":" not in name and name not in groups.names)
    if unknown:
        known = ", ".join(sorted(groups.names)) or "none"
        raise PolicyError(
            f"The access policies name groups that {GROUPS_FILE} does not have: {', '.join(unknown)}. It has: {known}. "
            "(A group of an OIDC token is called {issuer}:{group}.)"
        )
