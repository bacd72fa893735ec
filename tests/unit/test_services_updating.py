from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from kubevend.v1 import role_service_pb2 as rs
from kubevend_server.errors import Aborted, InvalidArgument, Violation
from kubevend_server.services.updating import check_etag, merge, require_named

FIELDS = frozenset({"config", "allowed_namespaces", "ttl", "labels"})
CURRENT = rs.Role(
    name="roles/ci",
    config="configs/a",
    allowed_namespaces=["a", "b"],
    ttl=Duration(seconds=600, nanos=1),
    labels={"team": "x", "tier": "1"},
    etag="e1",
)


def _merge(given: rs.Role, *paths: str) -> rs.Role:
    return merge(CURRENT, given, FieldMask(paths=paths), FIELDS)


def _current(**changes: object) -> rs.Role:
    made = rs.Role()
    made.CopyFrom(CURRENT)
    for name in changes:
        made.ClearField(name)  # type: ignore[arg-type]
    made.MergeFrom(rs.Role(**changes))  # type: ignore[arg-type]
    return made


def test_without_a_mask_what_is_set_changes() -> None:
    """No mask means the fields that are set, lists and maps replaced as a whole; what is not the caller's to write is
    left alone.
    """
    given = rs.Role(name="roles/other", allowed_namespaces=["c"], labels={"new": "y"}, etag="e9")
    assert _merge(given) == _current(allowed_namespaces=["c"], labels={"new": "y"})


def test_a_mask_narrows_what_changes() -> None:
    """With a mask only its fields change, whatever else is set."""
    given = rs.Role(config="configs/b", allowed_namespaces=["c"], ttl=Duration(seconds=700))
    assert _merge(given, "config") == _current(config="configs/b")


def test_a_masked_field_that_is_not_set_is_cleared() -> None:
    """A field that stands in the mask and not in the resource goes back to its default."""
    got = _merge(rs.Role(), "ttl", "labels")
    expected = _current()
    expected.ClearField("ttl")
    expected.ClearField("labels")
    assert got == expected


def test_a_message_is_replaced_and_not_mixed() -> None:
    """A duration becomes the given one, without the old one's fraction."""
    assert _merge(rs.Role(ttl=Duration(seconds=700)), "ttl").ttl == Duration(seconds=700)


def test_an_asterisk_replaces_all() -> None:
    """`*` means every field that may change; the others stay."""
    assert _merge(rs.Role(config="configs/b", etag="e9"), "*") == rs.Role(
        name="roles/ci", config="configs/b", etag="e1"
    )


@pytest.mark.parametrize(
    "path", ["name", "etag", "create_time", "nothing", "ttl.seconds", "labels.team", "", "maxTtl", "*, ttl"]
)
def test_a_mask_of_anything_else_is_refused(path: str) -> None:
    """A path that is no field that may change is refused, and the refusal lists those that may."""
    with pytest.raises(InvalidArgument) as refusal:
        _merge(rs.Role(config="configs/b"), "config", path)
    assert (refusal.value.reason, refusal.value.violations) == (
        "UPDATE_MASK_INVALID",
        (Violation("update_mask", f"{path!r} cannot be changed"),),
    )
    assert "allowed_namespaces, config, labels, ttl" in refusal.value.message


def test_an_asterisk_stands_alone() -> None:
    """`*` beside another path is refused."""
    with pytest.raises(InvalidArgument):
        _merge(rs.Role(), "*", "config")


def test_a_merge_changes_neither_of_its_parts() -> None:
    """What goes in stays as it is."""
    current, given = _current(), rs.Role(config="configs/b", name="x")
    merge(current, given, FieldMask(paths=["config"]), FIELDS)
    assert (current, given) == (CURRENT, rs.Role(config="configs/b", name="x"))


def test_an_etag_must_hold_if_it_is_given() -> None:
    """Without an etag anything goes, with the current one too, with another one nothing."""
    check_etag("roles/ci", "e1", "")
    check_etag("roles/ci", "e1", "e1")
    with pytest.raises(Aborted) as refusal:
        check_etag("roles/ci", "e1", "e0")
    assert (refusal.value.reason, refusal.value.metadata) == ("ETAG_MISMATCH", {"name": "roles/ci"})


@pytest.mark.parametrize("name", ["roles/a", "roles/a-1", "roles/" + "a" * 63])
def test_an_update_names_its_resource(name: str) -> None:
    """A full resource name passes."""
    require_named("role", "roles", name)


@pytest.mark.parametrize(
    "name", ["", "a", "roles/", "configs/a", "roles/A", "roles/-a", "roles/a-", "roles/a\n", "roles/" + "a" * 64]
)
def test_an_update_without_a_name_is_refused(name: str) -> None:
    """Anything else is refused by its field."""
    with pytest.raises(InvalidArgument) as refusal:
        require_named("role", "roles", name)
    assert [v.field for v in refusal.value.violations] == ["role.name"]


@pytest.mark.parametrize(("field", "collection", "example"), [("role", "roles", "ci"), ("config", "configs", "prod")])
def test_an_update_is_told_how_to_name_its_resource(field: str, collection: str, example: str) -> None:
    """The refusal has the form of a name, with an example."""
    with pytest.raises(InvalidArgument) as refusal:
        require_named(field, collection, "")
    id_ = "1 to 63 lower-case letters, digits and hyphens, a letter first and no hyphen last"
    assert refusal.value.message == (
        f"The request breaks rules of its fields: {field}.name is empty: must be the name of a {field}, "
        f"{collection}/ID, where ID is {id_}: {collection}/{example}."
    )
