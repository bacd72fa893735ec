"""The doors of the server, and what a call shows of who comes in.

Each listener is a gRPC server of its own, since gRPC's Python servers neither tell by which port a call came, nor ask
for a certificate without demanding one; and roots of several trust domains on one port could vouch for each other's
names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Listener:
    """Where calls come in.

    Attributes:
        name: for the log: `bearer`, the trust domain, or the proxy whose socket it is.
        trust_domain: the SPIFFE trust domain whose roots alone verify the client certificates that it demands; empty
            where it asks for none.
        proxy: what the settings call the proxy that alone can reach it, a Unix socket; else empty.
    """

    name: str
    trust_domain: str = ""
    proxy: str = ""


BEARER = Listener("bearer")
"""Where callers show a token."""


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The client certificate of a connection, which the listener's roots have verified.

    Attributes:
        uris: its URI SANs, all of them, as they are.
        fingerprint: the SHA-256 of its DER form, in lower-case hexadecimal.
        chain: it, and what else the client has sent to show who vouches for it, PEM.
    """

    uris: tuple[str, ...]
    fingerprint: str
    chain: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a call shows of who makes it.

    Attributes:
        listener: by which it came.
        metadata: all values of each key, in their order, keys in lower case; kept out of `repr`.
        certificate: of the connection, where the listener demands one.
    """

    listener: Listener
    metadata: Mapping[str, tuple[str, ...]] = field(repr=False)
    certificate: PeerCertificate | None = None

    def first(self, key: str) -> str:
        """The first value of a key; empty where there is none."""
        return next(iter(self.metadata.get(key, ())), "")
