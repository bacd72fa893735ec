"""The grammar of SPIFFE IDs.

See https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md, section 2.
"""

from __future__ import annotations

import re

_SCHEME = "spiffe://"
_MOST_BYTES = 2048
_MOST_OF_A_TRUST_DOMAIN = 255
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")


def trust_domain_fault(name: str) -> str:
    """What is wrong with the name of a trust domain; empty where nothing is."""
    if not name:
        return "its trust domain is empty"
    if name.startswith(_SCHEME):
        return f"its trust domain has {_SCHEME} before it: leave that out"
    if len(name) > _MOST_OF_A_TRUST_DOMAIN:
        return f"its trust domain is longer than {_MOST_OF_A_TRUST_DOMAIN} characters"
    if not _TRUST_DOMAIN.fullmatch(name):
        return "its trust domain has other characters than lower-case letters, digits, dots, hyphens and underscores"
    return ""


def workload_id_fault(uri: str) -> str:
    """What is wrong with a URI as the SPIFFE ID of a workload; empty where nothing is.

    A SPIFFE ID without a path names a trust domain as a whole, so it is no workload's.
    """
    if len(uri.encode()) > _MOST_BYTES:
        return f"it is longer than {_MOST_BYTES} bytes"
    if not uri.startswith(_SCHEME):
        return f"it does not begin with {_SCHEME}"
    trust_domain, slash, path = uri.removeprefix(_SCHEME).partition("/")
    fault = trust_domain_fault(trust_domain)
    if fault:
        return fault
    if not slash:
        return "it has no path, so it names a trust domain and no workload"
    return next(filter(None, map(_segment_fault, path.split("/"))), "")


def trust_domain_of(spiffe_id: str) -> str:
    """The trust domain of a SPIFFE ID."""
    return spiffe_id.removeprefix(_SCHEME).partition("/")[0]


def _segment_fault(segment: str) -> str:
    if not segment:
        return "its path has an empty segment or ends in a slash"
    if segment in (".", ".."):
        return f"its path has the segment {segment!r}"
    if not _SEGMENT.fullmatch(segment):
        return "its path has other characters than letters, digits, dots, hyphens and underscores"
    return ""
