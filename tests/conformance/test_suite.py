"""The suite itself."""

from __future__ import annotations

import pytest

from tests.conformance.cases import differences as listed_differences
from tests.conformance.cases import load_cases
from tests.conformance.conftest import table
from tests.conformance.expectations import differences, resolve
from tests.conformance.languages import LANGUAGES


def test_listed_differences_are_of_cases_that_are_there() -> None:
    """The list of differences names cases and languages that there are, and has a reason for each."""
    listed = listed_differences()
    assert listed.keys() <= {case.name for case in load_cases()}
    assert all(of.keys() <= set(LANGUAGES) and all(of.values()) for of in listed.values())


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {}),
        ({"a": {"not": 1}}, {"a": 1}),
        ({"a": {"contains": "x"}}, {"a": "y"}),
        ({"a": {"contains": "x"}}, {}),
        ({"a": {"matches": "^x"}}, {"a": "yx"}),
        ({"a": {"at_least": 2}}, {"a": 1}),
        ({"a": {"at_most": 2}}, {"a": 3}),
        ({"error": {"absent": True}}, {"error": {}}),
        ({"error": {"code": "X"}}, {"ok": True}),
        ({"a": []}, {"a": ["x"]}),
    ],
)
def test_what_is_not_as_expected_is_told(expected: object, found: object) -> None:
    """An answer that is not as a case expects it makes a difference."""
    assert differences(expected, found) != []


def test_what_is_as_expected_is_no_difference() -> None:
    """An answer may have more than a case expects."""
    expected = {"a": {"not": 2}, "b": {"at_least": 1}, "error": {"absent": True}}
    assert differences(expected, {"a": 1, "b": 1, "c": 5}) == []


def test_names_stand_for_what_was_answered() -> None:
    """A name alone stands for the value as it is, one within text for its text; one that nobody knows is an error."""
    known = {"first": {"lease": "leases/x", "count": 3}}
    assert resolve({"a": "$first.count", "b": ["x $first.lease"]}, known) == {"a": 3, "b": ["x leases/x"]}
    with pytest.raises(KeyError):
        resolve("$second", known)


def test_the_table_has_a_line_for_each_case() -> None:
    """The table shows what each language made of each case."""
    lines = table({("issue", "python"): "passed", ("load", "python-aio"): "failed"}).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["issue", "load"]
    assert "passed" in lines[1]
    assert "failed" in lines[2]
