"""Templates: `${token}`, in any text.

Python's own `string.Template`, since what tokens need is to be put between other words: no engine among the library's
dependencies, nothing in a template that could be run, and all that it names is known before the agent starts.
"""

from __future__ import annotations

import string
from collections.abc import Mapping

VALUES = {
    "token": "the token",
    "expiration": "until when it is good, as 2026-11-24T02:51:02Z",
    "namespace": "its ServiceAccount's namespace",
    "service_account": "its ServiceAccount",
    "audiences": "its audiences, with commas between them",
    "lease": "the name of its lease",
    "jti": "its id, by which Kubernetes' audit log knows it",
    "cluster_server": "the URL of the role's cluster",
    "cluster_ca": "the authorities that vouch for it, PEM",
    "cluster_ca_base64": "the same in Base64, as kubeconfigs have it",
}
"""What a template may name, and what that is."""

CLUSTER_VALUES = {name for name in VALUES if name.startswith("cluster_")}
"""Those for which one has to know where the cluster is."""


class TemplateFaultError(ValueError):
    """A template that cannot be filled; the message says why."""


class Template:
    """A text with `$name` or `${name}` in it; `$$` is a dollar sign."""

    def __init__(self, text: str) -> None:
        """Take the text.

        Raises:
            TemplateFaultError: it names what there is not, or has a `$` that begins nothing.
        """
        self._template = string.Template(text)
        for match in self._template.pattern.finditer(text):
            if match["invalid"] is not None:
                line = text.count("\n", 0, match.start()) + 1
                raise TemplateFaultError(f"line {line} has a $ that begins no name: write $$ for the sign itself")
        self.names = set(self._template.get_identifiers())
        if unknown := sorted(self.names - VALUES.keys()):
            raise TemplateFaultError(f"there is no value {unknown[0]!r}; there are {', '.join(VALUES)}")

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with the values in it."""
        return self._template.substitute(values)
