"""Texts and identities as they are written into YAML, and into CEL within it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

from kubevend_server.kinds import RBAC_GROUP

_SERVICE_ACCOUNT = re.compile("system:serviceaccount:([a-z0-9.-]{1,63}):([a-z0-9.-]{1,253})")


def quoted(text: str) -> str:
    """A text as YAML takes it for one, and CEL, whatever is in it."""
    # JSON's strings are YAML's, but for pairs of surrogates, and for what YAML does not find printable.
    written = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in written)


def listed(texts: Iterable[str]) -> str:
    """Texts as a list, for YAML and for CEL."""
    return f"[{', '.join(map(quoted, texts))}]"


def subject(identity: str) -> str:
    """An identity as a subject of a binding, in YAML."""
    found = _SERVICE_ACCOUNT.fullmatch(identity)
    if found:
        namespace, name = found.groups()
        return f"  - kind: ServiceAccount\n    name: {quoted(name)}\n    namespace: {quoted(namespace)}\n"
    return f"  - apiGroup: {RBAC_GROUP}\n    kind: User\n    name: {quoted(identity)}\n"


def short(identity: str, between: str = ":") -> str:
    """An identity as part of an object's name: a ServiceAccount's as it is, a user's as its digest.

    A name may hold neither `/` nor `%`, and users' names may hold anything.
    """
    found = _SERVICE_ACCOUNT.fullmatch(identity)
    return between.join(found.groups()) if found else f"user-{digest(identity)}"


def digest(text: str) -> str:
    """What tells this text from others, in 16 characters."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
