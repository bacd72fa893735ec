"""How the objects that are made for a lease are called: by the role's template, always a name that Kubernetes takes.

That is an RFC 1123 label: at most 63 lower-case letters, digits and hyphens, no hyphen first or last. Kubernetes would
take longer names for these objects, but some of them stand in labels too. See
https://kubernetes.io/docs/concepts/overview/working-with-objects/names/.
"""

from __future__ import annotations

import re

PREFIX = "kubevend-"
"""How every name begins, by which admission policies know what is kubevend's."""

RANDOM_LENGTH = 16
"""Of the random part, in characters: those of a ULID (80 bits), in lower case."""

_LONGEST = 63
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_KNOWN = ("role", "caller", "random")
_LITERAL = re.compile("[a-z0-9-]*")
_SCHEME = re.compile("^[A-Za-z][A-Za-z0-9+.-]*://")
_NOT_IN_A_NAME = re.compile("[^a-z0-9]+")
# In place of a caller or role of which nothing fits into a name.
_NAMELESS = "x"


def template_fault(template: str) -> str:  # noqa: PLR0911 - one return for each fault
    """What is wrong with a template, to be read after the name of its field; empty where it makes names."""
    found = _PLACEHOLDER.findall(template)
    literal = _PLACEHOLDER.sub("", template)
    strange = next((name for name in found if name not in _KNOWN), None)
    twice = next((name for name in _KNOWN if found.count(name) > 1), None)
    # Each placeholder gets at least one character, and the random part all of its own.
    room = _LONGEST - RANDOM_LENGTH - len(set(found) - {"random"})
    if not template.startswith(PREFIX):
        return f"must begin with {PREFIX!r}, by which what kubevend makes is told from all else"
    if strange is not None:
        return f"has the placeholder {{{strange}}}; those that there are: {{role}}, {{caller}} and {{random}}"
    if twice is not None:
        return f"has {{{twice}}} more than once"
    if "random" not in found:
        return "must have {random}, without which two leases would have one name"
    if not _LITERAL.fullmatch(literal):
        return "must have lower-case letters, digits and hyphens alone besides its placeholders"
    if template.endswith("-"):
        return "must not end with a hyphen"
    if len(literal) > room:
        return f"has {len(literal)} characters besides its placeholders; there is room for {room}"
    return ""


def render(template: str, role_id: str, caller: str, random: str) -> str:
    """Make a name.

    Args:
        template: one in which `template_fault` finds nothing.
        role_id: the role's id.
        caller: the caller's name. Its scheme is left out, and what no name can have becomes a hyphen.
        random: 16 lower-case letters and digits, never shortened.

    Returns:
        A name of at most 63 characters. Where there is no room for all, the caller is shortened first, at its
        beginning, since its end says most, and then the role at its end.
    """
    parts = {"role": _fitting(role_id), "caller": _fitting(_SCHEME.sub("", caller)), "random": random}
    used = [name for name in _PLACEHOLDER.findall(template) if name in parts]
    excess = len(_PLACEHOLDER.sub("", template)) + sum(len(parts[name]) for name in used) - _LONGEST
    for name in ("caller", "role"):
        if name in used and excess > 0:
            whole = parts[name]
            keep = max(1, len(whole) - excess)
            parts[name] = (whole[-keep:] if name == "caller" else whole[:keep]).strip("-") or _NAMELESS
            excess -= len(whole) - len(parts[name])
    return _PLACEHOLDER.sub(lambda match: parts[match[1]], template)


def _fitting(text: str) -> str:
    return _NOT_IN_A_NAME.sub("-", text.lower()).strip("-") or _NAMELESS
