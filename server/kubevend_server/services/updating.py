"""What updates and deletes have in common: etags and field masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from kubevend.v1 import config_service_pb2, role_service_pb2
from kubevend_server.errors import InvalidArgument, Violation
from kubevend_server.field_rules import check_rules
from kubevend_server.store.configs import etag_mismatch

M = TypeVar("M", bound=Message)

_NAMING: Mapping[str, Callable[..., Message]] = {
    "configs": config_service_pb2.GetConfigRequest,
    "roles": role_service_pb2.GetRoleRequest,
}


def require_named(field: str, collection: str, name: str) -> None:
    """Refuse an update that does not say of what.

    Raises:
        InvalidArgument: `name` is not `{collection}/{id}`.
    """
    # A request that names one is where the proto has the rule; an update may leave the name of its resource empty.
    check_rules(_NAMING[collection](name=name), f"{field}.")


def check_etag(name: str, current: str, given: str) -> None:
    """Refuse a change to a version that is no longer the current one.

    Raises:
        Aborted: an etag was given, and it is another one.
    """
    if given and given != current:
        raise etag_mismatch(name)


def merge(current: M, given: M, mask: FieldMask, fields: AbstractSet[str]) -> M:
    """Put the masked fields of `given` over `current`. See https://google.aip.dev/134.

    Args:
        current: the resource as it is.
        given: the new values.
        mask: which fields; `*` for all; none for those that are set in `given`.
        fields: the fields that may be changed.

    Raises:
        InvalidArgument: the mask names a field that cannot be changed.
    """
    paths = list(mask.paths) or [f.name for f, _ in given.ListFields() if f.name in fields]
    if paths == ["*"]:
        paths = sorted(fields)
    for path in paths:
        if path not in fields:
            raise InvalidArgument(
                "UPDATE_MASK_INVALID",
                f"update_mask has {path!r}; it may have {', '.join(sorted(fields))}, or '*' alone.",
                violations=[Violation("update_mask", f"{path!r} cannot be changed")],
            )
    merged, masked = type(current)(), type(current)()
    merged.CopyFrom(current)
    masked.CopyFrom(given)
    for field in {f.name for f, _ in masked.ListFields()} - set(paths):
        masked.ClearField(field)
    for path in paths:
        merged.ClearField(path)
    merged.MergeFrom(masked)
    return merged
