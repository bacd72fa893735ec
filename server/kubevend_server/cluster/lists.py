"""Lists of what is in a cluster: of each object only its metadata, in pages.

See https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from urllib.parse import urlencode

import msgspec

from kubevend_server.cluster.answers import decode
from kubevend_server.cluster.connection import JSON, Connection, Request
from kubevend_server.cluster.failures import Attempt, from_status, unreadable

METADATA = f"{JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""The form of an answer that has an object's metadata alone, and so no data of a Secret."""

_METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_PAGE = 100
# In bytes. An object may have 256 KiB of annotations.
_LONGEST_PAGE = 32 << 20
# All pages together: a cluster that always has one more would fill our memory.
_MOST_BYTES = 256 << 20
_TRIES = 2


class Metadata(msgspec.Struct):
    """What an object says of itself; the parts that kubevend reads."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815 - Kubernetes' name
    labels: dict[str, str] = {}
    creationTimestamp: datetime | None = None  # noqa: N815 - Kubernetes' name
    deletionTimestamp: datetime | None = None  # noqa: N815 - Kubernetes' name


class Partial(msgspec.Struct):
    """An object, as far as its metadata go."""

    metadata: Metadata


class _ListMetadata(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815 - Kubernetes' name
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    metadata: _ListMetadata
    # Null where there is none.
    items: list[Partial] | None


async def list_all(
    connection: Connection, path: str, attempt: Attempt, query: Mapping[str, str]
) -> tuple[list[Metadata], str]:
    """List objects.

    Args:
        connection: the cluster.
        path: of the collection.
        attempt: what it is, for the words of its errors.
        query: what narrows the list, such as a `labelSelector`.

    Returns:
        Their metadata, and the resource version of the list, from which a watch goes on.

    Raises:
        KubevendError: it could not be read to its end.
    """
    for left in reversed(range(_TRIES)):
        found: list[Metadata] = []
        token, size = "", 0
        while True:
            asked = {**query, "limit": str(_PAGE), **({"continue": token} if token else {})}
            request = Request("GET", f"{path}?{urlencode(asked)}", accept=_METADATA_LIST, longest=_LONGEST_PAGE)
            answer = await connection.call(request, attempt, (HTTPStatus.GONE,))
            if answer.status == HTTPStatus.GONE:
                break  # the cluster has forgotten the state from which the first pages came
            size += len(answer.body)
            if size > _MOST_BYTES:
                raise unreadable(attempt)
            page = decode(answer.body, _Page, attempt)
            found += [item.metadata for item in page.items or ()]
            token = page.metadata.continue_
            if not token:
                return found, page.metadata.resourceVersion
        if not left:
            break
    raise from_status(answer.status, answer.headers, answer.body, attempt)
