from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.encryption import Keyring
from kubevend_server.errors import InvalidArgument, Violation
from kubevend_server.paging import PageTokens
from kubevend_server.roles import Role
from kubevend_server.services.listing import MOST_DECIDED, page
from tests.unit.builders import role

TOKENS = PageTokens(Keyring({"k": b"1" * 32}))


@given(st.text(max_size=50), st.text(min_size=1, max_size=100))
def test_a_token_leads_back_to_its_position(listing: str, position: str) -> None:
    """What was written for a list is read for the same list, and goes through URLs and shells as it is."""
    token = TOKENS.write(listing, position)
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", token)
    assert TOKENS.read(listing, token) == position


def test_the_first_and_the_last_page_have_no_token() -> None:
    """No token begins at the start, and no position makes no token."""
    assert (TOKENS.write("roles", ""), TOKENS.read("roles", "")) == ("", "")


def _refusal(listing: str, token: str) -> tuple[str, tuple[Violation, ...]]:
    with pytest.raises(InvalidArgument) as refusal:
        TOKENS.read(listing, token)
    return refusal.value.reason, refusal.value.violations


INVALID = (
    "PAGE_TOKEN_INVALID",
    (Violation("page_token", "the next_page_token of the page before, unchanged"),),
)


def test_a_token_is_good_for_its_list_only() -> None:
    """The token of one list, or of one filter, is refused by another."""
    assert _refusal("configs", TOKENS.write("roles", "roles/a")) == INVALID


def test_a_token_of_another_server_is_refused() -> None:
    """A token that was sealed under other keys is refused."""
    assert _refusal("roles", PageTokens(Keyring({"k": b"2" * 32})).write("roles", "roles/a")) == INVALID


@given(st.text(min_size=1, max_size=60))
def test_whatever_is_no_token_is_refused(token: str) -> None:
    """Any text that a caller makes up, also one beyond ASCII, is refused as an invalid page token."""
    assert _refusal("roles", token) == INVALID


@pytest.mark.parametrize("token", ["é", "AAAA", "a", "k:", "####", "ažaž"])
def test_odd_tokens_are_refused(token: str) -> None:
    """Texts that are no base64, or base64 of nothing, are refused in the same way."""
    assert _refusal("roles", token) == INVALID


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)), st.integers(0, 7))
def test_pages_together_are_the_list(numbers: set[int], hidden: set[int], size: int) -> None:
    """Page after page, all that the caller may get comes once and in order, no page is larger than asked, and the
    last one has no token.
    """
    roles = [role(name=f"roles/r{number:02d}") for number in sorted(numbers)]
    visible = [r for r in roles if int(r.name[-2:]) not in hidden]
    seen, token = [], ""
    while True:
        found, token = page("roles", roles, (size, token), TOKENS, lambda r: r in visible)
        assert len(found) <= (size or 100)
        seen += found
        if not token:
            break
        assert found
    assert seen == visible


def test_a_page_asks_the_policy_a_bounded_number_of_times() -> None:
    """Among very many resources that the caller may not get, a page stops after a thousand, with a token; the one
    behind them comes in the end.
    """
    roles = [role(name=f"roles/r{number:05d}") for number in range(3 * MOST_DECIDED)]
    asked: list[int] = []
    pages, token, seen = 0, "", []
    while token or not pages:
        asked.append(0)

        def may_get(each: Role) -> bool:
            asked[-1] += 1
            return each is roles[-1]

        found, token = page("roles", roles, (10, token), TOKENS, may_get)
        seen += found
        pages += 1
    assert (asked, seen) == ([MOST_DECIDED] * 3, [roles[-1]])
