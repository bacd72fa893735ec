"""What is told about a policy against what Cedar makes of it."""

from __future__ import annotations

from pathlib import Path

import cedarpy
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.policy.checking import read
from kubevend_server.policy.explaining import Explainer
from kubevend_server.policy.policies import PolicyFiles, load
from kubevend_server.policy.statements import split
from kubevend_server.policy_commands.cases import read as read_cases
from kubevend_server.policy_commands.inspection import inspect
from kubevend_server.policy_commands.questions import LIMITS, answer

FORBID_ALL = '\n@id("all") forbid(principal, action, resource);'
# What Cedar takes, and kubevend does not.
OURS = ("has no @id", "has this @id too", "a template")
STARTERS = sorted((Path(__file__).parents[2] / "deploy" / "policies").glob("*/tests.yaml"))
# Whatever stands between two semicolons, in pieces that make up policies often enough.
PIECES = st.sampled_from(
    [
        '@id("a")',
        '@id("b;")',
        "permit(principal, action, resource)",
        "forbid(principal is Admin,\n action, resource)",
        'when { principal.name == "x;" }',
        "unless { false }",
        'when { "// none" == "\\"" }',
        "// a comment; with one\n",
        '// and a quote "\r',
        '"',
        ";",
        "\n",
        "/",
        "@",
        "permit(principal == ?principal, action, resource)",
        "\ufeff",
        "\x00",
    ]
)


def explainer(text: str, groups: str | None) -> Explainer:
    """What explains the policies of one file."""
    policies, _ = read({"one.cedar": text})
    return Explainer(load(PolicyFiles({"one.cedar": text}, groups)), policies)


def test_a_permit_lacks_nothing_exactly_where_it_permits() -> None:
    """For each policy of the starters, as a permit, and each of their cases: no part of it is told to fail if and only
    if it permits by itself.
    """
    permitted = compared = 0
    for file in STARTERS:
        folder, cases = read_cases(file)
        groups = (folder / "groups.toml").read_text() if (folder / "groups.toml").exists() else None
        for text in (policy.text for policy in inspect(folder).policies):
            permit = text.replace("forbid(", "permit(")
            by_itself, denied = explainer(permit, groups), explainer(permit + FORBID_ALL, groups)
            for asking in (case.asking for case in cases if case.expect != "refuse"):
                explanation = answer(denied, asking, LIMITS).explanation
                assert explanation is not None
                lacks_nothing = any(not near.failed for near in explanation.near)
                assert lacks_nothing == answer(by_itself, asking, LIMITS).allowed, (text, asking)
                permitted, compared = permitted + lacks_nothing, compared + 1
    assert permitted > 30
    assert compared > 200


@given(st.lists(PIECES, max_size=12).map(" ".join))
def test_what_parses_as_a_whole_parses_in_parts(text: str) -> None:
    """A text taken apart has as many policies as Cedar finds in it, and a fault if and only if Cedar finds one."""
    _, faults = read({"a": text})
    refused = [fault for fault in faults if not any(ours in fault.message for ours in OURS)]

    try:
        count = len(cedarpy.policies_to_pst(text).static_policies) + len(cedarpy.policies_to_pst(text).templates)
    except ValueError:
        assert refused
    else:
        assert not refused
        assert len(split(text)) == count
