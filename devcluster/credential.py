"""kubevend's own token, kept fresh in a file as the kubelet would do in a pod."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from devcluster.cluster import DevClusterError
from devcluster.rbac import KUBEVEND, KUBEVEND_NAMESPACE
from devcluster.state import State
from devcluster.target import Target

_LIFE = "1h"
_RETRY_SECONDS = 30


class Credential:
    """The token of kubevend's ServiceAccount, made by its cluster's admin.

    Attributes:
        audiences: Those of the API server itself, which a token has that asks for none.
        issuer: The `iss` of the cluster's ServiceAccount tokens.
    """

    def __init__(self, target: Target, state: State) -> None:
        """Make the first token.

        Raises:
            DevClusterError: The cluster did not give one.
        """
        self._target = target
        self._state = state
        self.audiences: tuple[str, ...] = ()
        self.issuer = ""
        self._due = 0.0
        self._renew()

    def refresh(self) -> str | None:
        """Make the next token once the present one has lived half its life.

        Wall-clock time, so that a machine that slept gets a new one at once.

        Returns:
            Why it failed, to be told; it is tried again in a while. None where all is well.
        """
        if time.time() < self._due:
            return None
        try:
            self._renew()
        except DevClusterError as error:
            self._due = time.time() + _RETRY_SECONDS
            return str(error)
        return None

    def _renew(self) -> None:
        token = self._target.kubectl(
            "create", "token", KUBEVEND, f"--namespace={KUBEVEND_NAMESPACE}", f"--duration={_LIFE}"
        ).strip()
        claims = _claims(token)
        self.audiences, self.issuer = tuple(claims["aud"]), claims["iss"]
        self._state.write(self._state.credential, token)
        self._due = time.time() + (claims["exp"] - time.time()) / 2


def _claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims
