"""Page tokens: where the next page of a list begins, sealed so that nobody can read or forge one."""

from __future__ import annotations

import base64

from kubevend_server.encryption import Keyring
from kubevend_server.errors import InvalidArgument, Violation

DEFAULT_PAGE_SIZE = 100


class PageTokens:
    """Makes and reads page tokens."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def write(self, listing: str, position: str) -> str:
        """Make the token of the page that begins after `position`.

        Args:
            listing: which list it is, its filter included; the token is good for no other.
            position: the name of the last resource that was looked at. Empty after the last page.
        """
        if not position:
            return ""
        sealed = self._keyring.seal(position.encode(), f"page token of {listing}")
        return base64.urlsafe_b64encode(sealed).decode()

    def read(self, listing: str, token: str) -> str:
        """The position in a token; empty for the first page.

        Raises:
            InvalidArgument: it is not from this server, or from another list.
        """
        if not token:
            return ""
        try:
            return self._keyring.open(
                base64.b64decode(token, altchars=b"-_", validate=True), f"page token of {listing}"
            ).decode()
        except ValueError as error:
            raise InvalidArgument(
                "PAGE_TOKEN_INVALID",
                "page_token is not one that this server gave for this list with this filter: start again without it.",
                violations=[Violation("page_token", "the next_page_token of the page before, unchanged")],
            ) from error
