"""The real API server, called by anybody, one request at a time, with what it answers."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devcluster import DevCluster


@dataclass(frozen=True)
class Request:
    """A request, before anybody makes it."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """What the API server answers: a Status, or an object."""

    status: int
    body: Mapping[str, Any]

    @property
    def done(self) -> bool:
        """Whether it did what it was asked for."""
        return self.status < 300

    @property
    def message(self) -> str:
        """Why it did not."""
        return str(self.body.get("message", ""))


def send(cluster: DevCluster, token: str, request: Request) -> Answer:
    """Make a request as the bearer of a token."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    if request.method == "PATCH":
        headers["Content-Type"] = "application/merge-patch+json"
    made = urllib.request.Request(  # noqa: S310 - the devcluster's https URL
        cluster.server + request.path,
        None if request.body is None else json.dumps(request.body).encode(),
        headers,
        method=request.method,
    )
    trust = ssl.create_default_context(cafile=str(cluster.ca_file))
    try:
        with urllib.request.urlopen(made, context=trust) as answer:  # noqa: S310
            return Answer(answer.status, _first(answer.read()))
    except urllib.error.HTTPError as refusal:
        with refusal:
            return Answer(refusal.code, _first(refusal.read()))


def _first(content: bytes) -> Mapping[str, Any]:
    """The object, or the first event of a watch."""
    found: Mapping[str, Any] = json.loads(content.partition(b"\n")[0] or b"{}")
    return found
