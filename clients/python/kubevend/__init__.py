"""kubevend: short-lived Kubernetes ServiceAccount tokens over gRPC.

    import kubevend

    with kubevend.Client(kubevend.Settings.from_environment()) as client:
        token = client.issue("quickstart")

`kubevend.TokenSource` keeps a token that is always good; `kubevend.kubernetes` plugs it into the Kubernetes client, and
`kubevend.aio` has the same for asyncio. What is named here is loaded when it is first used: gRPC alone takes longer to
load than many a command takes to run.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # typing's own takes longer to load than all else that a kept credential needs

if TYPE_CHECKING:
    from typing import Any

    from kubevend.client import Client
    from kubevend.connection import Settings
    from kubevend.errors import (
        ClientError,
        DeadlineExceeded,
        Denied,
        KubevendError,
        NotFound,
        Unauthenticated,
        Unavailable,
        Violation,
    )
    from kubevend.source import TokenSource
    from kubevend.tokens import Token, TokenWarning

__version__ = "0.1.0"

__all__ = [
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "Denied",
    "KubevendError",
    "NotFound",
    "Settings",
    "Token",
    "TokenSource",
    "TokenWarning",
    "Unauthenticated",
    "Unavailable",
    "Violation",
]

_HOMES = {
    "Client": "client",
    "Settings": "connection",
    "Token": "tokens",
    "TokenSource": "source",
    "TokenWarning": "tokens",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'kubevend' has no attribute {name!r}")
    return getattr(import_module(f"kubevend.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
