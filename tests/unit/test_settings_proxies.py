from __future__ import annotations

import re

import pytest

from kubevend_server.settings import ProxySettings, SettingsError, parse
from kubevend_server.settings.proxies import proxy_faults
from tests.unit.test_settings import MINIMAL

EDGE = ProxySettings(spiffe_id="spiffe://example.org/edge", trust_domains=("example.org",))
LOCAL = ProxySettings(
    socket="/run/kubevend/local.sock", by="spiffe://example.org/local", trust_domains=("example.org",)
)


def test_proxies_that_can_be() -> None:
    """A proxy with a certificate, and others each with a socket, are as they should be."""
    public = ProxySettings(socket="/run/kubevend/public.sock", socket_mode="0660", by="", trust_domains=("a.example",))

    assert list(proxy_faults({"edge": EDGE, "local": LOCAL, "public-2": public}, {"example.org"})) == []


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("Edge", {}, r"callers\.proxies\.Edge: .*use lower-case letters"),
        ("edge", {"spiffe_id": ""}, "needs either spiffe_id"),
        ("edge", {"socket": "/run/kubevend/edge.sock"}, "needs either spiffe_id"),
        ("edge", {"spiffe_id": "spiffe://example.org"}, "names a trust domain and no workload"),
        ("edge", {"spiffe_id": "spiffe://else/edge"}, r'has no listener: add \[callers\.trust_domains\."else"\]'),
        ("edge", {"trust_domains": ()}, r'needs trust_domains, .* as \["example\.org"\]'),
        ("edge", {"trust_domains": ("Example.org",)}, "lower-case letters"),
        ("edge", {"by": 'spiffe://a";'}, "must be the URI of the certificate"),
        ("edge", {"spiffe_id": "", "socket": "edge.sock"}, "must be an absolute path of 107 bytes"),
        ("edge", {"spiffe_id": "", "socket": "/" + "x" * 107}, "must be an absolute path of 107 bytes"),
        ("edge", {"spiffe_id": "", "socket": "/s"}, "needs by"),
        ("edge", {"spiffe_id": "", "socket": "/s", "by": "", "socket_mode": "0666"}, "others never may"),
        ("edge", {"spiffe_id": "", "socket": "/s", "by": "", "socket_mode": "600"}, "others never may"),
        ("other", {"spiffe_id": EDGE.spiffe_id}, "so is callers.proxies.edge"),
        ("other", {"spiffe_id": "", "socket": LOCAL.socket, "by": ""}, "so is callers.proxies.local"),
    ],
)
def test_proxies_that_cannot_be(name: str, changes: dict[str, object], words: str) -> None:
    """What cannot be is told with the setting's name and what to put there."""
    values: dict[str, object] = {"spiffe_id": EDGE.spiffe_id, "trust_domains": EDGE.trust_domains, **changes}
    found = ProxySettings(**values)  # type: ignore[arg-type]

    (fault, *_) = proxy_faults({"edge": EDGE, "local": LOCAL, name: found}, {"example.org"})

    assert re.search(words, fault), fault


def test_they_are_looked_at() -> None:
    """Settings with a proxy that cannot be are refused, and those with one that can have it."""
    text = f"""{MINIMAL}
[callers.proxies.sidecar]
socket = "/run/kubevend/sidecar.sock"
by = ""
trust_domains = ["example.org"]
"""
    sidecar = ProxySettings(socket="/run/kubevend/sidecar.sock", by="", trust_domains=("example.org",))

    assert parse(text).callers.proxies == {"sidecar": sidecar}
    with pytest.raises(SettingsError, match=r"callers\.proxies\.sidecar needs by"):
        parse(text.replace('by = ""', ""))
