"""Which of what a call shows says who makes it: exactly one thing, and never a guess."""

from __future__ import annotations

from dataclasses import dataclass

from kubevend_server.authentication.bearer import BearerTokens, bearer_token
from kubevend_server.callers import Caller
from kubevend_server.listeners import Shown


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Tells who calls.

    Attributes:
        bearer_tokens: tells whose a bearer token is.
    """

    bearer_tokens: BearerTokens

    async def authenticate(self, shown: Shown) -> Caller:
        """Tell who calls.

        Raises:
            Unauthenticated: nobody, or a credential that is not accepted; the message says what is wrong.
            Unavailable: whoever knows cannot be asked.
        """
        return await self.bearer_tokens.authenticate(bearer_token(shown))
