"""The bootstrap admin, by a token that the first start makes."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from kubevend_server.encryption import read_or_make
from kubevend_server.redaction import ADMIN_PREFIX, TOKEN_NOTE, redact


def read_admin_digest(path: Path) -> bytes:
    """Read the bootstrap admin's token, made on the first start for its owner only, and digest it.

    Returns:
        Its SHA-256; the token itself is not kept.

    Raises:
        ValueError: the file holds no token.
    """
    token = read_or_make(path, lambda: ADMIN_PREFIX + secrets.token_urlsafe(32) + "\n").strip()
    if redact(token) != TOKEN_NOTE:
        raise ValueError(
            f"{path} holds no token: delete it, and the next start makes a new one. Its form ({ADMIN_PREFIX} and at "
            "least 32 random letters, digits, - and _) is what keeps it out of logs where somebody shows it by mistake."
        )
    return hashlib.sha256(token.encode()).digest()
