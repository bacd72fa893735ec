"""A cluster that answers by simple rules, for tests that ask it about itself."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from multidict import CIMultiDict

from kubevend_server.cluster.clusters import Clusters, OwnCluster
from kubevend_server.cluster.connection import Answer, Connection, Request, Transport
from kubevend_server.cluster.credentials import Anonymous, Credential, Presented, Stored
from kubevend_server.cluster.failures import Attempt
from kubevend_server.cluster.trust import Endpoint
from kubevend_server.config_rules import ConfigRules
from kubevend_server.configs import Config
from kubevend_server.errors import KubevendError

HOST = "https://10.0.0.1:6443"
OWN = "system:serviceaccount:kubevend:server"
_TOKEN = re.compile("/api/v1/namespaces/(.+)/serviceaccounts/(.+)/token")
_TRANSPORT = Transport(1, 1, 1, trust_env=False)


def status(code: int, message: str = "no", **details: Any) -> Answer:
    """A refusal as Kubernetes gives it."""
    body = {"kind": "Status", "message": message, "details": details}
    return Answer(code, CIMultiDict(), json.dumps(body).encode())


@dataclass
class FakeApi:
    """What a cluster says.

    Attributes:
        identity: as whom it knows kubevend.
        rights: the pairs whose tokens kubevend may request, `*` for all, as namespace and name.
        lacking: what kubevend may not do besides, as `create secrets`.
        admission: the words in which admission refuses to make something, by its resource: `secrets`, `token`.
        reviews: whether kubevend may review tokens.
        accounts: the ServiceAccounts that are there, as namespace and name; None for every one.
        webhook: whether a webhook lengthens the lifetime of what is requested.
        date: what its clock says.
        instead: what is answered instead, by what is asked for: its path's last part.
        asked: what was asked for, with the spec.
        most_at_once: how many requests there were at once.
    """

    identity: str = OWN
    rights: set[tuple[str, str]] = field(default_factory=lambda: {("*", "*")})
    lacking: set[str] = field(default_factory=set)
    admission: dict[str, str] = field(default_factory=dict)
    reviews: bool = True
    accounts: set[tuple[str, str]] | None = None
    webhook: bool = False
    date: str = "Mon, 04 May 2026 12:00:00 GMT"
    instead: dict[str, Answer | KubevendError] = field(default_factory=dict)
    asked: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0

    async def answer(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Answer a request."""
        kind, spec = path.rpartition("/")[2], body.get("spec", {})
        self.asked.append((kind, spec))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0)
        self._at_once -= 1
        instead = self.instead.get(kind)
        if isinstance(instead, KubevendError):
            raise instead
        return instead or self._answer(kind, path, spec)

    def _answer(self, kind: str, path: str, spec: Mapping[str, Any]) -> Answer:
        if kind == "version":
            return self._good({"gitVersion": "v1.37.0"})
        if kind == "selfsubjectreviews":
            return self._good({"status": {"userInfo": {"username": self.identity}}})
        if kind == "selfsubjectaccessreviews":
            return self._good({"status": self._access(spec["resourceAttributes"])})
        if kind == "selfsubjectrulesreviews":
            names = sorted(name for namespace, name in self.rights if namespace == spec["namespace"])
            rule = {"verbs": ["create"], "apiGroups": [""], "resources": ["serviceaccounts/token"]}
            return self._good({"status": {"resourceRules": [{**rule, "resourceNames": names}]}})
        if "?dryRun=All" in kind:
            return self._admitted(kind.partition("?")[0]) or self._good({})
        return self._token(path, spec)

    def _admitted(self, resource: str) -> Answer | None:
        words = self.admission.get(resource)
        return status(403, f'{resource} "kubevend-check" is forbidden: {words}') if words else None

    def _access(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        if wanted["resource"] == "tokenreviews":
            assert wanted == {"verb": "create", "group": "authentication.k8s.io", "resource": "tokenreviews"}
            return {"allowed": self.reviews, "reason": "a binding" if self.reviews else ""}
        about = f"{wanted['verb']} {wanted['resource']}"
        if "subresource" not in wanted:
            allowed = about not in self.lacking
            return {"allowed": allowed, "reason": "a binding" if allowed else ""}
        assert (about, wanted["subresource"]) == ("create serviceaccounts", "token")
        namespace, name = wanted.get("namespace", "*"), wanted.get("name", "*")
        allowed = any(n in {"*", namespace} and s in {"*", name} for n, s in self.rights)
        return {"allowed": allowed, "reason": "a binding" if allowed else ""}

    def _token(self, path: str, spec: Mapping[str, Any]) -> Answer:
        found = _TOKEN.fullmatch(path)
        assert found, path
        if self.accounts is not None and found.groups() not in self.accounts:
            return status(404, f'serviceaccounts "{found[2]}" not found', kind="serviceaccounts")
        if spec["expirationSeconds"] < 600 and not self.webhook:
            return status(422, "may not specify a duration less than 10 minutes")
        if "boundObjectRef" in spec:
            # As Kubernetes: admission first, then the Secret, which is not there.
            return self._admitted("token") or status(404, 'secrets "kubevend-check" not found', kind="secrets")
        return self._good({"spec": spec, "status": {"token": "a token"}})

    def _good(self, body: Mapping[str, Any]) -> Answer:
        return Answer(200, CIMultiDict({"Date": self.date}), json.dumps(body).encode())


class FakeCluster(Connection):
    """The way to a fake API, whose refusals become errors as those of a real one do."""

    def __init__(self, api: FakeApi, credential: Credential | None = None, host: str = HOST) -> None:
        """Take the API, and with what it is called."""
        credential = credential or Stored("the stored token", Presented("token"))
        super().__init__(Endpoint("configs/default", host), credential, _TRANSPORT)
        self.api = api
        self.retired = False

    async def retire(self) -> None:
        """Remember it."""
        self.retired = True

    async def _send(self, request: Request, attempt: Attempt, presented: Presented) -> Answer:
        del attempt
        # Whoever comes without a credential is let see the version and nothing else.
        assert (request.verb == "GET") == (request.path == "/version") == (presented == Presented())
        return await self.api.answer(request.path, request.body or {})


class ApiClusters(Clusters):
    """Clusters that are all the same fake API."""

    def __init__(self, api: FakeApi, credential: Credential | None = None) -> None:
        """Take it, and with what it is called."""
        super().__init__(OwnCluster(environ={}), ConfigRules("", {}), _TRANSPORT)
        self.api = api
        self.credential = credential
        self.strangers: list[FakeCluster] = []
        self.made: list[FakeCluster] = []
        self.unusable: KubevendError | None = None

    def connect(self, config: Config, *, anonymous: bool = False) -> Connection:
        """The fake."""
        del config
        if self.unusable is not None:
            raise self.unusable
        made = FakeCluster(self.api, Anonymous() if anonymous else self.credential)
        (self.strangers if anonymous else self.made).append(made)
        return made
