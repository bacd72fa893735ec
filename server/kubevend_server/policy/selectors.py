"""Labels as Kubernetes has them: whether a selector fits them, and whether keys and values are ones that it takes.

The rules are those of k8s.io/apimachinery: `LabelSelectorAsSelector` in pkg/apis/meta/v1/helpers.go, `Matches` in
pkg/labels/selector.go, and pkg/util/validation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from kubevend_server.kinds import RBAC_GROUP
from kubevend_server.policy.made import MANAGED_BY_LABEL
from kubevend_server.roles import LabelSelector, Requirement

_LONGEST_PART = 63
_LONGEST_PREFIX = 253
# All annotations of an object together may have 256 KiB, of which kubevend's own and its cluster's take some.
_MOST_ANNOTATIONS = 252 << 10
_NAME = re.compile("[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_OWN_PREFIX = "kubevend.dev"
# A ClusterRole with such a label adds its rules to what `admin`, `edit` or `view` give to everybody who has them.
_AGGREGATING_PREFIX = RBAC_GROUP


def fits(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether a selector fits labels; an empty one fits all."""
    return all(labels.get(key) == value for key, value in selector.match_labels) and all(
        _holds(requirement, labels) for requirement in selector.match_expressions
    )


def selector_faults(selector: LabelSelector) -> Iterator[str]:
    """What Kubernetes would not take in a selector, each to be read after the name of its field."""
    for key, value in selector.match_labels:
        for fault in (_key_fault(key), _value_fault(value)):
            if fault:
                yield f"match_labels: {fault}"
    for place, requirement in enumerate(selector.match_expressions):
        for fault in _requirement_faults(requirement):
            yield f"match_expressions[{place}]: {fault}"


def label_faults(labels: Iterable[tuple[str, str]]) -> Iterator[str]:
    """What is wrong with labels for the objects that are made for a lease, as pairs."""
    for key, value in labels:
        for fault in (_key_fault(key) or _reserved_fault(key), _value_fault(value)):
            if fault:
                yield fault


def annotation_faults(annotations: Iterable[tuple[str, str]]) -> Iterator[str]:
    """What is wrong with annotations for the objects that are made for a lease, as pairs."""
    size = 0
    for key, value in annotations:
        # Kubernetes takes a prefix in capitals here, unlike in labels.
        fault = _key_fault(key.lower(), key) or _reserved_fault(key.lower(), key)
        if fault:
            yield fault
        size += len(key.encode()) + len(value.encode())
    if size > _MOST_ANNOTATIONS:
        yield f"all of them together have {size} bytes; an object has room for {_MOST_ANNOTATIONS}"


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "IN":
            return value is not None and value in requirement.values
        case "NOT_IN":
            return value is None or value not in requirement.values
        case "EXISTS":
            return value is not None
        case "DOES_NOT_EXIST":
            return value is None


def _requirement_faults(requirement: Requirement) -> Iterator[str]:
    takes_values = requirement.operator in {"IN", "NOT_IN"}
    if fault := _key_fault(requirement.key):
        yield fault
    if takes_values and not requirement.values:
        yield f"{requirement.operator} needs values"
    if not takes_values and requirement.values:
        yield f"{requirement.operator} takes no values"
    for value in requirement.values:
        if fault := _value_fault(value):
            yield fault


def _key_fault(key: str, written: str = "") -> str:
    prefix, slash, name = key.rpartition("/")
    if slash and not (len(prefix) <= _LONGEST_PREFIX and _PREFIX.fullmatch(prefix)):
        return (
            f"the key {(written or key)!r} must have a DNS name before its slash, at most {_LONGEST_PREFIX} lower-case "
            "letters, digits, hyphens and dots: example.com/team"
        )
    if not (len(name) <= _LONGEST_PART and _NAME.fullmatch(name)):
        return (
            f"the key {(written or key)!r} must be 1 to {_LONGEST_PART} letters, digits, hyphens, underscores and "
            "dots, a letter or digit first and last, and may have a DNS name and a slash before that: example.com/team"
        )
    return ""


def _value_fault(value: str) -> str:
    if not value or (len(value) <= _LONGEST_PART and _NAME.fullmatch(value)):
        return ""
    return (
        f"the value {value!r} must be at most {_LONGEST_PART} letters, digits, hyphens, underscores and dots, a letter "
        "or digit first and last"
    )


def _reserved_fault(key: str, written: str = "") -> str:
    prefix = key.rpartition("/")[0]
    if key == MANAGED_BY_LABEL or prefix == _OWN_PREFIX or prefix.endswith(f".{_OWN_PREFIX}"):
        return f"the key {(written or key)!r} is kubevend's own"
    if prefix == _AGGREGATING_PREFIX:
        return f"the key {(written or key)!r} would give the made rules to others too, by aggregation"
    return ""
