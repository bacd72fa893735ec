from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kubevend_server.policy.rbac_rules import parse_rules
from kubevend_server.roles import RoleKind

PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
METRICS = {"nonResourceURLs": ["/metrics", "/metrics/*"], "verbs": ["get"]}
YAML = """
# What a deployment needs.
- apiGroups: [""]
  resources: [pods]
  verbs:
    - get
    - list
"""

NAMES = st.lists(
    st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=1, max_size=8),
    min_size=1,
    max_size=3,
)
RULES = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"apiGroups": NAMES, "resources": NAMES, "verbs": NAMES}, optional={"resourceNames": NAMES}
        ),
        st.fixed_dictionaries({"nonResourceURLs": NAMES, "verbs": NAMES}),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize(
    "text",
    [
        YAML,
        "rules:" + YAML.replace("\n", "\n  "),
        json.dumps([PODS]),
        json.dumps({"rules": [PODS]}, indent="\t"),
        '- {verbs: [get, list], resources: ["pods"], apiGroups: [""], resourceNames: [], nonResourceURLs: []}',
    ],
)
def test_rules_have_one_form(text: str) -> None:
    """YAML or JSON, a list or an object, in any order: the same rules become the same text."""
    assert parse_rules(text, "Role") == '[{"apiGroups":[""],"resources":["pods"],"verbs":["get","list"]}]'


@given(RULES)
def test_what_is_written_as_json_comes_back(rules: list[dict[str, Any]]) -> None:
    """Rules in JSON keep all that they say, and their own form is read as the same again."""
    written = parse_rules(json.dumps(rules), "ClusterRole")
    assert json.loads(written) == rules
    assert parse_rules(written, "ClusterRole") == written


@given(st.text(max_size=200), st.sampled_from(["Role", "ClusterRole"]))
@example("[" * 60000, "Role")
@example("{a: " * 15000, "Role")
@example("- " * 30000, "Role")
@example("\ud800", "Role")
@example("!!python/object/apply:os.system ['id']", "Role")
def test_nothing_else_comes_out(text: str, kind: RoleKind) -> None:
    """Whatever is given becomes rules or a ValueError of one line."""
    try:
        assert json.loads(parse_rules(text, kind))
    except ValueError as error:
        assert str(error).isprintable()  # noqa: PT017 - both ways out are right


def rules(*changed: Any, **fields: Any) -> str:
    """Rules of one pod rule with changes, and more rules."""
    rule = {key: value for key, value in {**PODS, **fields}.items() if value is not None}
    return json.dumps([rule, *changed])


@pytest.mark.parametrize(
    ("text", "kind", "fault"),
    [
        ("", "Role", "is empty: give a list of rules"),
        ("# nothing", "Role", "is empty: give a list of rules"),
        ("[]", "Role", "has no rule: give at least one"),
        ("pods", "Role", "rules (line 1) is a text; it must be a list"),
        ("null", "Role", "rules (line 1) is nothing; it must be a list"),
        ("{}", "Role", "is an object without rules: give a list of rules, or an object whose rules is one"),
        ("{rules: yes}", "Role", "rules (line 1) is a truth value; it must be a list"),
        (
            "rules: []\nmetadata: {}",
            "Role",
            "the object has the unknown key 'metadata' in line 2: a list of rules, or an",
        ),
        ("rule: []", "Role", "the object has the unknown key 'rule' in line 1: did you mean rules?"),
        ("- get", "Role", "rules[0] (line 1) is a text; it must be an object with apiGroups, resources,"),
        (YAML + "  verb: [get]", "Role", "rules[0] has the unknown key 'verb' in line 8: did you mean verbs?"),
        (
            YAML + "  zzz: [get]",
            "Role",
            "rules[0] has the unknown key 'zzz' in line 8: a rule has apiGroups, resources,",
        ),
        (YAML + "  verbs: [get]", "Role", "rules[0] has verbs twice, the second time in line 8"),
        (YAML + "  [x]: y", "Role", "rules[0] has the unknown key 'a list' in line 8: "),
        (rules(PODS, {**PODS, "verbs": "get"}), "Role", "rules[2].verbs (line 1) is a text; it must be a list"),
        (rules(verbs=["get", 1]), "Role", "rules[0].verbs[1] (line 1) is of type int; it must be a text, maybe in"),
        ("- {verbs: [no]}", "Role", "rules[0].verbs[0] (line 1) is a truth value; it must be a text, maybe in quotes"),
        (rules(verbs=[["get"]]), "Role", "rules[0].verbs[0] (line 1) is a list; it must be a text, maybe in quotes"),
        (rules(verbs=[None]), "Role", "rules[0].verbs[0] (line 1) is nothing; it must be a text, maybe in quotes"),
        ("- {verbs: [!!binary aGk=]}", "Role", "rules[0].verbs[0] (line 1) is of type binary; it must be a text"),
        (rules(verbs=[""]), "Role", "rules[0].verbs[0] (line 1) is an empty text"),
        (rules(verbs=None), "Role", "rules[0] (line 1) has no verbs: say what it allows"),
        (rules(verbs=[]), "Role", "rules[0] (line 1) has no verbs: say what it allows"),
        ('[{"verbs": ["get"]}]', "Role", "rules[0] (line 1) is about nothing: give apiGroups and resources, or"),
        (rules(apiGroups=None), "Role", 'rules[0] (line 1) has no apiGroups: the group of pods and secrets is ""'),
        (rules(resources=[]), "Role", "rules[0] (line 1) has no resources: say on what, such as resources: [pods]"),
        (rules(METRICS), "Role", "rules[1] (line 1) has nonResourceURLs, which belong to no namespace: only a"),
        (rules({**PODS, **METRICS}), "ClusterRole", "rules[1] (line 1) has nonResourceURLs and apiGroups: make two"),
        (json.dumps([PODS] * 101), "Role", "has 101 rules; at most 100 are taken"),
        (" " * 65537, "Role", "has 65537 characters; at most 65536 are read"),
        (
            rules({key: [*"abcdefghijk"] for key in ("apiGroups", "resources", "resourceNames", "verbs")}),
            "Role",
            "gives 14643 rights, each apiGroup with each resource, name and verb counted; at most 10000 are taken: ",
        ),
        (
            "- verbs: &a [get]\n- verbs: *a",
            "Role",
            "has an anchor or an alias (&, *) in line 1: write it out, * in quotes",
        ),
        ("- verbs: *a", "Role", "has an anchor or an alias (&, *) in line 1: write it out, * in quotes"),
        (
            "- verbs: [*]",
            "Role",
            "is neither YAML nor JSON: did not find expected alphabetic or numeric character in line 1",
        ),
        ("- a\n---\n- b", "Role", "is neither YAML nor JSON: but found another document in line 2"),
        ("- [", "Role", "is neither YAML nor JSON: did not find expected node content in line 2"),
        ("\0", "Role", "is neither YAML nor JSON: unacceptable character #x0000"),
        ("[" * 60000, "Role", "nests more deeply than rules do, in line 1"),
    ],
)
def test_a_fault_of_rules_is_told(text: str, kind: RoleKind, fault: str) -> None:
    """What Kubernetes would not take is told by rule, key and line."""
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the message is compared below
        parse_rules(text, kind)
    assert str(refusal.value).startswith(fault)


def test_a_cluster_role_may_have_paths() -> None:
    """What belongs to no namespace is accepted where the role belongs to none."""
    assert json.loads(parse_rules(rules(METRICS), "ClusterRole")) == [PODS, METRICS]


def test_a_star_wants_quotes() -> None:
    """Who writes * without quotes is told what to write."""
    with pytest.raises(ValueError, match=r'write "\*" in quotes'):
        parse_rules("- verbs: [*]", "Role")
