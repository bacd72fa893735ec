"""Pages of what is held in memory: the names in order, those that the caller may get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from kubevend_server.configs import Config
from kubevend_server.paging import DEFAULT_PAGE_SIZE, PageTokens
from kubevend_server.roles import Role

MOST_DECIDED = 1000
"""About how many resources a page asks the access policy at the most: 0.1 s, during which nobody else is served."""

Named = TypeVar("Named", Config, Role)


def page(
    listing: str,
    resources: Sequence[Named],
    asked: tuple[int, str],
    tokens: PageTokens,
    may_get: Callable[[Named], bool],
) -> tuple[list[Named], str]:
    """Cut one page out of a list.

    Args:
        listing: which list, for its page tokens.
        resources: all of it, in the order of the names.
        asked: the request's page_size and page_token.
        tokens: makes and reads page tokens.
        may_get: whether the caller may get one.

    Returns:
        The page, which may come short, and the token of the next one, empty after the last.

    Raises:
        InvalidArgument: the page token is not of this list.
    """
    size, token = asked
    after = tokens.read(listing, token)
    found: list[Named] = []
    last = after
    for decided, resource in enumerate(each for each in resources if each.name > after):
        if decided == MOST_DECIDED:
            return found, tokens.write(listing, last)
        last = resource.name
        if not may_get(resource):
            continue
        if len(found) == (size or DEFAULT_PAGE_SIZE):
            return found, tokens.write(listing, found[-1].name)
        found.append(resource)
    return found, ""
