"""Whom a credential is for, as far as files can tell: what changes when somebody else asks, or of somebody else."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

from kubevend.connection import Settings
from kubevend.errors import ClientError

_ROTATING = {"exp", "iat", "nbf", "jti", "auth_time", "sid", "at_hash", "nonce", "uti"}
"""The claims in which a token differs from the one before it. Any other may be what an access policy asks for."""


def identity(settings: Settings) -> dict[str, str]:
    """What identifies the server and the caller.

    Raises:
        ClientError: a file cannot be read (FILE_UNREADABLE).
    """
    token = _content(settings, "token_file")
    return {
        "ca": _digest(_content(settings, "ca_file")),
        "certificate": _digest(_content(settings, "client_cert_file")),
        "token": _digest(_bearer(token)),
    }


def _bearer(token: bytes) -> bytes:
    """Whose token it is, as it says itself, so that a rotated one counts as the same; of others the token."""
    try:
        _, payload, _ = token.strip().split(b".")
        claims: dict[str, Any] = json.loads(urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
        told = {name: value for name, value in claims.items() if name not in _ROTATING}
        if isinstance(told.get("kubernetes.io"), dict):
            told["kubernetes.io"].pop("warnafter", None)
        return json.dumps(told, sort_keys=True).encode() if {"iss", "sub"} <= told.keys() else token
    except (ValueError, AttributeError):
        return token


def _content(settings: Settings, name: str) -> bytes:
    path: Path | None = getattr(settings, name)
    if path is None:
        return b""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ClientError(
            f"{settings.called(name)}: {path} cannot be read: {error.strerror}. Name a file that can.",
            reason="FILE_UNREADABLE",
        ) from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if content else ""
