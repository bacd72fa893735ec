"""kubevend for asyncio: what `kubevend` has, to be awaited."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubevend.aio.client import Client
    from kubevend.aio.source import TokenSource

__all__ = ["Client", "TokenSource"]

_HOMES = {"Client": "client", "TokenSource": "source"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'kubevend.aio' has no attribute {name!r}")
    return getattr(import_module(f"kubevend.aio.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
