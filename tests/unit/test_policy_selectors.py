from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.policy.selectors import annotation_faults, fits, label_faults, selector_faults
from kubevend_server.roles import LabelSelector, Operator, Requirement

KEYS = st.sampled_from(["team", "env", "example.com/tier"])
VALUES = st.sampled_from(["", "a", "b", "c"])
LABELS = st.dictionaries(KEYS, VALUES)


@given(LABELS)
def test_an_empty_selector_fits_all(labels: Mapping[str, str]) -> None:
    """What asks for nothing holds for every namespace."""
    assert fits(LabelSelector(), labels)


@given(LABELS, KEYS, st.lists(VALUES, min_size=1, max_size=3).map(tuple))
def test_each_operator_has_its_opposite(labels: Mapping[str, str], key: str, values: tuple[str, ...]) -> None:
    """NOT_IN is what IN is not, and DOES_NOT_EXIST what EXISTS is not, also where the key is absent."""

    def holds(operator: Operator, values: tuple[str, ...] = ()) -> bool:
        return fits(LabelSelector(match_expressions=(Requirement(key, operator, values),)), labels)

    assert holds("IN", values) == (labels.get(key) in values)
    assert holds("NOT_IN", values) != holds("IN", values)
    assert holds("EXISTS") == (key in labels)
    assert holds("DOES_NOT_EXIST") != holds("EXISTS")


@given(LABELS, st.dictionaries(KEYS, VALUES, max_size=2), st.lists(st.tuples(KEYS, VALUES), max_size=2))
def test_everything_must_hold(
    labels: Mapping[str, str], wanted: Mapping[str, str], more: list[tuple[str, str]]
) -> None:
    """A selector fits where each of its parts does by itself."""
    pairs = tuple(wanted.items())
    expressions = tuple(Requirement(key, "IN", (value,)) for key, value in more)
    parts = [LabelSelector(match_labels=(pair,)) for pair in pairs]
    parts += [LabelSelector(match_expressions=(expression,)) for expression in expressions]
    assert fits(LabelSelector(pairs, expressions), labels) == all(fits(part, labels) for part in parts)


def test_an_empty_value_is_not_an_absent_key() -> None:
    """A label that is there with an empty value is there."""
    selector = LabelSelector(match_labels=(("team", ""),))
    assert fits(selector, {"team": ""})
    assert not fits(selector, {})


KEY_OF_63, PREFIX_OF_253 = "k" * 63, ".".join(["a" * 63] * 3 + ["a" * 61])


@pytest.mark.parametrize(
    "key", ["team", "a", "A_b.c-D9", KEY_OF_63, "example.com/team", "a/b", f"{PREFIX_OF_253}/{KEY_OF_63}", "a-b.c/X"]
)
@pytest.mark.parametrize("value", ["", "a", "v" * 63, "A_b.c-D9"])
def test_what_kubernetes_takes_has_no_fault(key: str, value: str) -> None:
    """Keys and values of Kubernetes' own grammar are accepted everywhere."""
    expressions = (
        Requirement(key, "IN", (value,)),
        Requirement(key, "NOT_IN", (value, "x")),
        Requirement(key, "EXISTS"),
        Requirement(key, "DOES_NOT_EXIST"),
    )
    assert list(selector_faults(LabelSelector(((key, value),), expressions))) == []
    assert list(label_faults(((key, value),))) == []
    assert list(annotation_faults(((key, value),))) == []


@pytest.mark.parametrize(
    "key",
    [
        "",
        "-a",
        "a-",
        "a b",
        "a\n",
        "k" * 64,
        "é",
        "/a",
        "a/",
        "a/b/c",
        "A.com/a",
        "a..b/c",
        "-a/b",
        f"{PREFIX_OF_253}a/b",
    ],
)
def test_a_key_that_is_none_is_told(key: str) -> None:
    """A key against the grammar is named, wherever it stands."""
    selector = LabelSelector(((key, "v"),), (Requirement(key, "EXISTS"),))
    first, second = selector_faults(selector)
    assert first.startswith(f"match_labels: the key {key!r} must")
    assert second.startswith(f"match_expressions[0]: the key {key!r} must")
    assert [fault.startswith(f"the key {key!r} must") for fault in label_faults(((key, "v"),))] == [True]
    assert bool(list(annotation_faults(((key, "v"),)))) == (key != "A.com/a")


@pytest.mark.parametrize("value", ["-a", "a-", "a b", "a\n", "v" * 64, "é", "a/b"])
def test_a_value_that_is_none_is_told(value: str) -> None:
    """A value against the grammar is named; of annotations any text is one."""
    selector = LabelSelector((("k", value),), (Requirement("k", "IN", ("ok", value)),))
    first, second = selector_faults(selector)
    assert first.startswith(f"match_labels: the value {value!r} must")
    assert second.startswith(f"match_expressions[0]: the value {value!r} must")
    assert [fault.startswith(f"the value {value!r} must") for fault in label_faults((("k", value),))] == [True]
    assert list(annotation_faults((("k", value),))) == []


@pytest.mark.parametrize(
    ("requirement", "fault"),
    [
        (Requirement("k", "IN"), "IN needs values"),
        (Requirement("k", "NOT_IN"), "NOT_IN needs values"),
        (Requirement("k", "EXISTS", ("v",)), "EXISTS takes no values"),
        (Requirement("k", "DOES_NOT_EXIST", ("v",)), "DOES_NOT_EXIST takes no values"),
    ],
)
def test_values_go_with_their_operators(requirement: Requirement, fault: str) -> None:
    """IN and NOT_IN have values, EXISTS and DOES_NOT_EXIST have none."""
    assert list(selector_faults(LabelSelector(match_expressions=(requirement,)))) == [f"match_expressions[0]: {fault}"]


@pytest.mark.parametrize(
    "key",
    ["kubevend.dev/lease", "kubevend.dev/x", "more.kubevend.dev/x", "app.kubernetes.io/managed-by"],
)
def test_kubevends_own_are_kubevends(key: str) -> None:
    """Nobody takes the labels by which kubevend knows its own."""
    assert list(label_faults(((key, "v"),))) == [f"the key {key!r} is kubevend's own"]
    assert list(annotation_faults(((key, "v"),))) == [f"the key {key!r} is kubevend's own"]


def test_capitals_do_not_pass() -> None:
    """In an annotation, Kubernetes takes a prefix in capitals, and it is reserved all the same."""
    assert list(annotation_faults((("KubeVend.dev/x", "v"),))) == ["the key 'KubeVend.dev/x' is kubevend's own"]


def test_made_rules_are_not_aggregated() -> None:
    """No label makes the rules of one lease those of everybody who may edit."""
    (fault,) = label_faults((("rbac.authorization.k8s.io/aggregate-to-edit", "true"),))
    assert fault.endswith("would give the made rules to others too, by aggregation")


def test_annotations_have_room() -> None:
    """All annotations together are no more than an object takes."""
    pairs = tuple((f"k{place}", "é" * 4096) for place in range(32))
    assert list(annotation_faults(pairs[:31])) == []
    assert list(annotation_faults(pairs)) == [
        f"all of them together have {32 * 8192 + 86} bytes; an object has room for 258048"
    ]
