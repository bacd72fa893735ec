"""Lists that come in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def pages(get: Callable[[str], Any], field: str) -> Iterator[Any]:
    """All that is in a list, page after page.

    Args:
        get: gets the page of a token, empty for the first one.
        field: of a page, with what is in it.
    """
    token = ""
    while True:
        page = get(token)
        yield from getattr(page, field)
        token = page.next_page_token
        if not token:
            return
