"""The rules of a Role or ClusterRole to make, as an operator writes them.

What Kubernetes' own API server would refuse is refused here, in words for a person who writes a role; see
https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/role-v1/ and `ValidatePolicyRule` in
pkg/apis/rbac/validation/validation.go.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
from collections.abc import Mapping

import yaml

from kubevend_server.roles import RoleKind

_LONGEST = 65536
_MOST_RULES = 100
# Each apiGroup with each resource, name and verb of a rule is a right of its own, to us and to Kubernetes' check
# against escalation: what is short to write can be more than either can count.
_MOST_RIGHTS = 10_000
# The deepest that rules can be: an object, its rules, a rule, one of its lists.
_DEEPEST = 8
_KEYS = ("apiGroups", "resources", "resourceNames", "nonResourceURLs", "verbs")
_TAG = "tag:yaml.org,2002:"
_TYPES = {"seq": "a list", "map": "an object", "str": "a text", "null": "nothing", "bool": "a truth value"}

_Rule = Mapping[str, list[str]]


# Each issuance asks for the rules of its role, before anybody knows whether the caller may have it.
@functools.lru_cache(256)
def parse_rules(text: str, kind: RoleKind) -> str:
    """Read rules.

    Args:
        text: YAML or JSON: a list of PolicyRules, or an object whose `rules` is one.
        kind: of what they are to be the rules.

    Returns:
        The list as JSON, always in the same form: keys in one order, empty lists left out.

    Raises:
        ValueError: they cannot be read, or Kubernetes would not take them. The message is to be read after the name
            of the field.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"has {len(text)} characters; at most {_LONGEST} are read")
    try:
        _check_shape(text)
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"is neither YAML nor JSON: {_told(error)}") from None
    except UnicodeError:
        raise ValueError("is neither YAML nor JSON: it has half of a surrogate pair") from None
    rules = [_rule(item, f"rules[{place}]", kind) for place, item in enumerate(_items(_list_of_rules(node), "rules"))]
    if not rules:
        raise ValueError("has no rule: give at least one")
    if len(rules) > _MOST_RULES:
        raise ValueError(f"has {len(rules)} rules; at most {_MOST_RULES} are taken")
    rights = sum(math.prod(map(len, rule.values())) for rule in rules)
    if rights > _MOST_RIGHTS:
        raise ValueError(
            f"gives {rights} rights, each apiGroup with each resource, name and verb counted; at most {_MOST_RIGHTS} "
            'are taken: "*" stands for all'
        )
    return json.dumps(rules, ensure_ascii=False, separators=(",", ":"))


def _check_shape(text: str) -> None:
    """Refuse what grows when it is read, before it is: references, which can stand for any amount, and depth."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError(f"has an anchor or an alias (&, *) in line {_line(event)}: write it out, * in quotes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"nests more deeply than rules do, in line {_line(event)}")


def _list_of_rules(node: yaml.Node | None) -> yaml.Node:
    if node is None:
        raise ValueError("is empty: give a list of rules")
    if not isinstance(node, yaml.MappingNode):
        return node
    fields = _fields(node, "the object", ("rules",), "a list of rules, or an object with rules alone")
    if "rules" not in fields:
        raise ValueError("is an object without rules: give a list of rules, or an object whose rules is one")
    return fields["rules"]


def _rule(node: yaml.Node, where: str, kind: RoleKind) -> _Rule:
    if not isinstance(node, yaml.MappingNode):
        raise _other_type(node, where, f"an object with {', '.join(_KEYS)}")
    fields = _fields(node, where, _KEYS, f"a rule has {', '.join(_KEYS)}")
    read = {key: _texts(fields[key], f"{where}.{key}") for key in _KEYS if key in fields}
    rule = {key: texts for key, texts in read.items() if texts}
    fault = _rule_fault(rule, kind)
    if fault:
        raise ValueError(f"{where} (line {_line(node)}) {fault}")
    return rule


def _rule_fault(rule: _Rule, kind: RoleKind) -> str:  # noqa: PLR0911 - one return for each fault
    """What Kubernetes would not take in a rule."""
    about_resources = [key for key in ("apiGroups", "resources", "resourceNames") if key in rule]
    if "verbs" not in rule:
        return "has no verbs: say what it allows, such as verbs: [get, list]"
    if "nonResourceURLs" in rule:
        if kind == "Role":
            return "has nonResourceURLs, which belong to no namespace: only a ClusterRole can have them"
        if about_resources:
            return f"has nonResourceURLs and {about_resources[0]}: make two rules of it"
        return ""
    if not about_resources:
        return "is about nothing: give apiGroups and resources, or nonResourceURLs"
    if "apiGroups" not in rule:
        return 'has no apiGroups: the group of pods and secrets is "", that of deployments is apps'
    if "resources" not in rule:
        return "has no resources: say on what, such as resources: [pods]"
    return ""


def _fields(node: yaml.MappingNode, where: str, known: tuple[str, ...], hint: str) -> dict[str, yaml.Node]:
    found: dict[str, yaml.Node] = {}
    for key_node, value in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else _what(key_node)
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            meant = f"did you mean {near[0]}?" if near else hint
            raise ValueError(f"{where} has the unknown key {key!r} in line {_line(key_node)}: {meant}")
        if key in found:
            raise ValueError(f"{where} has {key} twice, the second time in line {_line(key_node)}")
        found[key] = value
    return found


def _texts(node: yaml.Node, where: str) -> list[str]:
    texts = []
    for place, item in enumerate(_items(node, where)):
        if not isinstance(item, yaml.ScalarNode) or item.tag != f"{_TAG}str":
            raise _other_type(item, f"{where}[{place}]", "a text, maybe in quotes")
        if not item.value and not where.endswith(".apiGroups"):
            raise ValueError(f"{where}[{place}] (line {_line(item)}) is an empty text")
        texts.append(item.value)
    return texts


def _items(node: yaml.Node, where: str) -> list[yaml.Node]:
    if not isinstance(node, yaml.SequenceNode):
        raise _other_type(node, where, "a list")
    items: list[yaml.Node] = node.value
    return items


def _other_type(node: yaml.Node, where: str, wanted: str) -> ValueError:
    return ValueError(f"{where} (line {_line(node)}) is {_what(node)}; it must be {wanted}")


def _what(node: yaml.Node) -> str:
    kind = str(node.tag).removeprefix(_TAG)
    return _TYPES.get(kind, f"of type {kind}")


def _line(marked: yaml.Node | yaml.Event) -> int:
    mark = marked.start_mark
    return mark.line + 1 if mark else 0


def _told(error: yaml.YAMLError) -> str:
    """What YAML says, in one line, without the text around."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error).partition("\n")[0]
    mark = error.problem_mark or error.context_mark
    hint = ' (write "*" in quotes)' if "alias" in f"{error.context} {error.problem}" else ""
    return f"{error.problem or error.context}{f' in line {mark.line + 1}' if mark else ''}{hint}"
