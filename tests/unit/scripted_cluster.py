"""A cluster that answers what the test has put in, by the way that a real one's answers take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from multidict import CIMultiDict

from kubevend_server.cluster.connection import Answer, Connection, Request, Transport
from kubevend_server.cluster.credentials import Presented, Stored
from kubevend_server.cluster.failures import Attempt
from kubevend_server.cluster.trust import Endpoint
from kubevend_server.errors import KubevendError

HOST = "https://10.0.0.1:6443"


def said(status: int, body: Mapping[str, Any] | bytes) -> Answer:
    """An answer with this body."""
    return Answer(status, CIMultiDict(), body if isinstance(body, bytes) else json.dumps(body).encode())


def refused(status: int, message: str = "no", reason: str = "", **details: Any) -> Answer:
    """A refusal, as Kubernetes gives it."""
    return said(
        status, {"kind": "Status", "status": "Failure", "message": message, "reason": reason, "details": details}
    )


def partial(name: str, uid: str = "u1", **metadata: Any) -> dict[str, Any]:
    """An object, of which only the metadata are told."""
    return {"kind": "PartialObjectMetadata", "metadata": {"name": name, "uid": uid, **metadata}}


class ScriptedCluster(Connection):
    """Answers in their order; the last one is given again and again."""

    def __init__(self, *answers: Answer | KubevendError) -> None:
        """Take the answers."""
        credential = Stored("the stored token", Presented("token"))
        super().__init__(Endpoint("configs/default", HOST), credential, Transport(1, 1, 1, trust_env=False))
        self.answers = list(answers)
        self.asked: list[Request] = []

    async def _send(self, request: Request, attempt: Attempt, presented: Presented) -> Answer:
        del attempt, presented
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, KubevendError):
            raise answer
        return answer
