"""Keeps credentials out of all that kubevend writes and tells: a note stands where something had the form of one.

People paste a token into the wrong field, and libraries put what they were given into their errors. So this is done at
the edges, where nothing gets round it: on each line of the audit log and of the process log, and in each error.
"""

from __future__ import annotations

import json
import re
from typing import Any

ADMIN_PREFIX = "kubevend-admin-"
"""How the bootstrap admin's token begins."""

TOKEN_NOTE = "[a token was left out here]"  # noqa: S105 - it stands in for one
KEY_NOTE = "[a private key was left out here]"

# What each form has somewhere in it, and little else has. JSON leaves all of these as they are. The first letters may
# have been lost where somebody copied a token.
_JWT_SIGN, _ADMIN_SIGN, _KEY_SIGN = ".eyJ", ADMIN_PREFIX[4:], "PRIVATE KEY"
_JWT_SIGN_BYTES, _ADMIN_SIGN_BYTES, _KEY_SIGN_BYTES = _JWT_SIGN.encode(), _ADMIN_SIGN.encode(), _KEY_SIGN.encode()

# Header, payload (JSON, as {"... in base64), signature, and what else hangs on them; one that was cut in the payload
# too.
# A run of base64url is looked at once, from its start: what is sought is bounded everywhere, lest a text take longer
# than its length.
_JWT = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]*+\.eyJ[A-Za-z0-9_-]*+(?:\.[A-Za-z0-9_-]++)*+")
# Of 32 random characters one is a capital or an underscore, which no name has. Of a shorter piece, too much lacks.
_ADMIN = re.compile(rf"[a-z]{{0,4}}{_ADMIN_SIGN}(?=[a-z0-9-]{{0,64}}[A-Z_])[A-Za-z0-9_-]{{32,}}")
# Our own messages name the first line alone, in brackets.
_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?!\)).*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)


def redact(text: str) -> str:
    """A text with a note in place of what has the form of a JWT, of the admin's token, or of a private key in PEM."""
    if _JWT_SIGN not in text and _ADMIN_SIGN not in text and _KEY_SIGN not in text:
        return text
    return _KEY.sub(KEY_NOTE, _ADMIN.sub(TOKEN_NOTE, _JWT.sub(TOKEN_NOTE, text)))


def redact_json(document: bytes) -> bytes:
    """A JSON document with every text in it redacted, the names of members too."""
    if not may_hold_credential(document):
        return document
    # Text by text, since an escape before a token would otherwise be torn apart.
    return json.dumps(_redacted(json.loads(document)), separators=(",", ":")).encode()


def redact_line(_logger: object, _name: str, line: Any) -> str:
    """The last step of structlog's chain, behind the renderer: a line of the process log, redacted."""
    found: str = line
    return redact_json(found.encode()).decode()


def may_hold_credential(content: bytes) -> bool:
    """Whether it is worth while to look for a credential in JSON or in a message of protobuf."""
    return _JWT_SIGN_BYTES in content or _ADMIN_SIGN_BYTES in content or _KEY_SIGN_BYTES in content


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    if isinstance(value, dict):
        return {redact(name): _redacted(item) for name, item in value.items()}
    return value
