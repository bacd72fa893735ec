"""What is wrong with policies, all of it and each fault with its place; and what is allowed but hardly meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cedarpy

from kubevend_server.policy import wording
from kubevend_server.policy.breadth import too_broad
from kubevend_server.policy.nesting import TooDeepError, read_cedar
from kubevend_server.policy.parsing import SCHEMA, actions
from kubevend_server.policy.statements import Statement, line_of_fault, split

_BOM = "\ufeff"
_ENTITY_TYPES = tuple(re.findall(r"^entity (\w+)", SCHEMA, re.MULTILINE))
_NAMES = {
    "Admin": (r"admin://local/bootstrap", "admin://local/bootstrap"),
    "ServiceAccount": (r"kubernetes://[^/]+/[^/]+/[^/]+", "kubernetes://{cluster}/{namespace}/{name}"),
    "Workload": (r"spiffe://[^/]+/.+", "spiffe://{trust domain}/{path}"),
    "OidcSubject": (r"oidc://[^/]+/[^/]+", "oidc://{issuer}/{subject, percent-encoded}"),
    "Config": (r"configs/[^/]+", "configs/{config}"),
    "Role": (r"roles/[^/]+", "roles/{role}"),
    "Lease": (r"leases/[^/]+", "leases/{lease}"),
    "Server": (r"kubevend", "kubevend"),
}
# Before the first wildcard there must be a slash after the authority, or it may go on: spiffe://example.org.evil.com/.
_OPEN_AUTHORITY = re.compile(r"(spiffe|oidc|kubernetes)://[^/]*")
_NO_ACTION = (
    ": no action is for such a principal and such a resource, so the policy could never apply. Roles and leases are in "
    "no other entity: compare resource.config, or a label"
)
_ACTION_GROUPS = ("view", "administer")
_STRANGE_CHARACTER = ": texts stand in double quotes, and patterns are written with like and *"
_TO_WRITE = (
    ("invalid policy effect", ": write permit or forbid"),
    ("token `and`", ": write &&"),
    ("token `or`", ": write ||"),
    ("token `not`", ": write !"),
    ("expected an entity uid", ': write its type and, in quotes, its name: ServiceAccount::"kubernetes://…"'),
)
_OF_TYPE = re.compile(r"(.* on entity type )`(\w+)`(.*)")
_POLICY = re.compile(r"^for policy `[^`]*`, ")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something about a policy.

    Attributes:
        file: in which file.
        line: on which line, counted from 1; 0 where it is about the whole file.
        policy: the `@id`, or empty.
        message: what, and what to do.
        severity: an error makes the server refuse the whole set.
    """

    file: str
    line: int
    policy: str
    message: str
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that parses, with its place. `parsed` is as Cedar's JSON has it."""

    id: str
    file: str
    line: int
    text: str
    parsed: wording.Json


def decode(file: str, content: bytes) -> str | Finding:
    """A file's text, or why it has none."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Finding(file, line, "", f"byte {error.start} is no UTF-8: save the file as UTF-8")
    if text.startswith(_BOM):
        return Finding(file, 1, "", "it begins with a byte order mark: save the file as UTF-8 without one")
    return text


def read(files: Mapping[str, str]) -> tuple[list[Policy], list[Finding]]:
    """Take files apart.

    Args:
        files: their texts, by name.

    Returns:
        The policies that parse and have an `@id`, in the order of the files; and what is wrong with the others, and
        with those whose `@id` is another one's too.
    """
    found: list[Policy] = []
    faults: list[Finding] = []
    first: dict[str, Policy] = {}
    for file, text in files.items():
        for statement in split(text):
            policy = _parse(file, statement)
            if isinstance(policy, Finding):
                faults.append(policy)
                continue
            found.append(policy)
            other = first.setdefault(policy.id, policy)
            if other is not policy:
                where = f"{other.file}:{other.line}"
                faults.append(_finding(policy, f"the policy at {where} has this @id too: give one of them another"))
    return found, faults


def check(policies: Iterable[Policy], groups: Collection[str] | None = ()) -> list[Finding]:
    """Hold policies against the schema, and against what is hardly meant.

    Args:
        policies: those of `read`.
        groups: the names of the groups that groups.toml has; None where that cannot be told.
    """
    schema = cedarpy.Schema.from_str(SCHEMA)
    looked_at = list(policies)
    found = [
        finding
        for policy in looked_at
        for finding in (*_unfit(policy, schema), *_unknown_groups(policy, groups), *_doubtful(policy))
    ]
    first = {policy.id: policy for policy in looked_at}
    broad = too_broad({identity: policy.parsed for identity, policy in first.items()})
    return [*found, *(_finding(first[identity], message, "warning") for identity, message in broad)]


def _parse(file: str, statement: Statement) -> Policy | Finding:
    try:
        parsed = read_cedar(statement.text)
    except TooDeepError as error:
        return Finding(file, statement.line, "", str(error))
    except ValueError as error:
        line = line_of_fault(statement, str(error))
        return Finding(file, line, "", f"{error}{_what_to_write(str(error), statement)}")
    if parsed["templates"]:
        fault = "a template (with ?principal or ?resource) permits nothing: write a policy"
        return Finding(file, statement.line, "", fault)
    (policy,) = parsed["staticPolicies"].values()
    name = policy.get("annotations", {}).get("id") or ""
    if not name:
        return Finding(file, statement.line, "", 'the policy has no @id: write @id("a-name") before it')
    return Policy(name, file, statement.line, statement.text, policy)


def _what_to_write(fault: str, statement: Statement) -> str:
    if "invalid token" in fault:
        return ': is a " missing?' if statement.text.count('"') % 2 else _STRANGE_CHARACTER
    if not statement.text.endswith(";") or re.search("`(@|permit|forbid)`", fault):
        return ": is the ; missing that ends a policy?"
    if "'=' is not a valid operator" in fault:
        return ": write =="
    return next((what for part, what in _TO_WRITE if part in fault), "")


def _finding(policy: Policy, message: str, severity: Literal["error", "warning"] = "error") -> Finding:
    return Finding(policy.file, policy.line, policy.id, message, severity)


# What the schema refuses.


def _unfit(policy: Policy, schema: cedarpy.Schema) -> Iterator[Finding]:
    result = cedarpy.validate_policies(policy.text, schema)
    faults = [_POLICY.sub("", error.error) for error in result.errors]
    if any(fault.startswith("unrecognized") for fault in faults):
        # That follows from it.
        faults = [fault for fault in faults if not fault.startswith("unable to find an applicable action")]
    for fault in _joined(faults):
        line = line_of_fault(Statement(policy.text, policy.line), fault)
        yield Finding(policy.file, line, policy.id, f"{fault}{_of_a_group(policy, fault) or _what_to_do(fault)}")


def _of_a_group(policy: Policy, fault: str) -> str:
    """What to do where `==` compares with a group, which no caller and no call is."""
    if "applicable action" not in fault:
        return ""
    for part in ("principal", "action"):
        scope = policy.parsed[part]
        entity = scope.get("entity", {})
        if scope["op"] == "==" and (entity["type"] == "Group" or (part == "action" and entity["id"] in _ACTION_GROUPS)):
            return f': for what is in a group write {part} in {entity["type"]}::"{entity["id"]}"'
    return ""


def _joined(faults: Iterable[str]) -> list[str]:
    """Faults that differ in the type of an entity alone, as one."""
    types: dict[tuple[str, str], list[str]] = {}
    for fault in faults:
        found = _OF_TYPE.fullmatch(fault)
        shared, kind, rest = found.groups() if found else (fault, "", "")
        types.setdefault((shared, rest), []).append(kind)
    return [
        f"{shared}{', '.join(f'`{kind}`' for kind in sorted(set(kinds)) if kind)}{rest}"
        for (shared, rest), kinds in types.items()
    ]


def _what_to_do(fault: str) -> str:
    quoted = re.findall(r'`"?(.+?)"?`', fault)
    named = quoted[0] if quoted else ""
    for part, what in (
        ("access to tag", f': ask for it first, as in resource.hasTag("{named}") && …'),
        ("access to optional attribute", f": ask for it first, as in principal has {named} && …"),
        ("on entity type `OidcSubject` not found", f': claims are tags: principal.hasTag("{named}") && …'),
        ("on entity type", ": where only some callers have it, begin with principal is …"),
        ("applicable action", _NO_ACTION),
        ("expected Long but saw String", ": numbers have no quotes, and context.ttl is in seconds"),
    ):
        if part in fault:
            return what
    if "unrecognized action" in fault:
        return _nearest(named.partition('::"')[2], actions(), "actions")
    return _nearest(named, _ENTITY_TYPES, "types") if "unrecognized entity type" in fault else ""


def _nearest(word: str, known: Iterable[str], what: str) -> str:
    near = difflib.get_close_matches(word, sorted(known), 1)
    return f": did you mean {near[0]}?" if near else f": there are the {what} {', '.join(sorted(known))}"


def _unknown_groups(policy: Policy, groups: Collection[str] | None) -> Iterator[Finding]:
    if groups is None:
        return
    for name in sorted({name for kind, name in wording.entities(policy.parsed) if kind == "Group"}):
        if ":" not in name and name not in groups:
            near = _nearest(name, groups, "groups") if groups else ""
            yield _finding(
                policy, f'groups.toml has no group "{name}"{near} (a group of a token is called {{issuer}}:{{group}})'
            )


# What it takes, and nobody can have meant.


def _doubtful(policy: Policy) -> Iterator[Finding]:
    found = wording.parts(policy.parsed)
    conditions = [part for part in found if not part.in_scope]
    everyone = not any(part.asks_for("principal") for part in found)
    if policy.parsed["effect"] == "permit" and everyone:
        message = "it permits every caller that can authenticate: is that meant? If not, say who in its scope"
        yield _finding(policy, message, "warning")
    if policy.parsed["effect"] == "forbid" and not conditions and not any(map(_narrows, found)):
        message = "it forbids everything to everybody, so no other policy counts: say what, or when"
        yield _finding(policy, message, "warning")
    if any(part.body == {"Value": part.kind == "unless"} for part in conditions):
        yield _finding(policy, "its condition never holds, so it never applies: delete it", "warning")
    for message in (*_strange_names(policy), *_open_patterns(policy.parsed["conditions"])):
        yield _finding(policy, message, "warning")


def _narrows(part: wording.Part) -> bool:
    return part.body.get("op") != "All"


def _strange_names(policy: Policy) -> Iterator[str]:
    for kind, name in sorted(set(wording.entities(policy.parsed))):
        form, written = _NAMES.get(kind, ("", ""))
        if form and not re.fullmatch(form, name):
            yield f'{kind}::"{name}" is nobody and nothing: a name of that type is {written}'


def _open_patterns(expression: Any) -> Iterator[str]:
    for pattern in _patterns(expression):
        literal = "".join(piece["Literal"] for piece in _before_wildcard(pattern))
        if "Wildcard" in pattern and _OPEN_AUTHORITY.fullmatch(literal):
            yield f'like "{literal}*" fits other authorities that begin so: end it with a slash, as in "{literal}/*"'


def _before_wildcard(pattern: list[Any]) -> Iterator[dict[str, str]]:
    for piece in pattern:
        if piece == "Wildcard":
            return
        yield piece


def _patterns(expression: Any) -> Iterator[list[Any]]:
    if isinstance(expression, dict):
        if isinstance(expression.get("pattern"), list):
            yield expression["pattern"]
        for value in expression.values():
            yield from _patterns(value)
    elif isinstance(expression, list):
        for value in expression:
            yield from _patterns(value)
