from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from kubevend_server.authentication.fetching import FetchError
from kubevend_server.authentication.issuer_keys import IssuerKeys
from kubevend_server.authentication.json_web_keys import VerificationKey
from kubevend_server.errors import KubevendError
from kubevend_server.metrics import IssuerCollector

RS256 = frozenset({"RS256"})


class Source:
    """An issuer whose keys the test chooses, and a clock that moves when told."""

    def __init__(self, *kids: str) -> None:
        """Publish keys of these names."""
        self.kids: tuple[str, ...] = kids
        self.down = False
        self.reads = 0
        self.now = 1000.0

    async def read(self) -> tuple[VerificationKey, ...]:
        """The keys, after a moment."""
        self.reads += 1
        await asyncio.sleep(0)
        if self.down:
            raise FetchError("https://issuer/keys: no answer in time")
        return tuple(VerificationKey(kid, RS256, f"key {kid}") for kid in self.kids)

    def keys(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> IssuerKeys:
        """What is to be tested: fresh for 300 s, and good for an hour."""
        return IssuerKeys("ci", self.read, 300, 3600, lambda: self.now, sleep)


async def _found(keys: IssuerKeys, kid: str, algorithm: str = "RS256") -> Any:
    try:
        return await keys.find(kid, algorithm)
    except KubevendError as error:
        retry = error.retry_after.total_seconds() if error.retry_after else None
        return (*error.metadata.values(), error.status, error.reason, retry)


UNKNOWN, UNCHECKED = ("ci", "UNAUTHENTICATED", "TOKEN_KEY_UNKNOWN"), ("ci", "UNAVAILABLE", "CALLER_NOT_CHECKED")


async def test_keys_are_fetched_once_for_all() -> None:
    """Calls that come together before the keys are known wait for one fetch, though the first of them gives up."""
    source = Source("k1")
    keys = source.keys()
    calls = [asyncio.create_task(keys.find("k1", "RS256")) for _ in range(20)]
    await asyncio.sleep(0)
    calls[0].cancel()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert (ends[1:], source.reads) == (["key k1"] * 19, 1)


async def test_a_new_key_is_found_at_once() -> None:
    """A name that is not known makes the keys be fetched again."""
    source = Source("k1")
    keys = source.keys()
    assert await _found(keys, "k1") == "key k1"
    source.kids, source.now = ("k1", "k2"), source.now + 10
    assert (await _found(keys, "k2"), await _found(keys, "k1"), source.reads) == ("key k2", "key k1", 2)


async def test_names_that_are_made_up_are_no_flood() -> None:
    """Whatever names tokens have, the issuer is asked every 10 s at the most, and who is refused is told when."""
    source = Source("k1")
    keys = source.keys()
    assert await _found(keys, "k1") == "key k1"
    refusals = [await _found(keys, f"made-up-{number}") for number in range(50)]
    assert (set(refusals), source.reads) == ({(*UNKNOWN, 10.0)}, 1)
    source.now += 10
    await asyncio.gather(*(_found(keys, f"made-up-{number}") for number in range(50)))
    assert source.reads == 2


@pytest.mark.parametrize(
    ("kids", "kid", "algorithm", "expected"),
    [
        (("k1",), "", "RS256", "key k1"),
        (("",), "", "RS256", "key "),
        (("k1", "k2"), "", "RS256", (*UNKNOWN, None)),
        (("k1",), "k1", "ES256", (*UNKNOWN, 10.0)),
        (("k1", "k1"), "k1", "RS256", (*UNKNOWN, 10.0)),
        ((), "k1", "RS256", (*UNKNOWN, 10.0)),
        ((), "", "RS256", (*UNKNOWN, None)),
        (("",), "k1", "RS256", (*UNKNOWN, 10.0)),
    ],
)
async def test_exactly_one_key_must_fit(kids: tuple[str, ...], kid: str, algorithm: str, expected: object) -> None:
    """A key is chosen by its name and the algorithm; without a name it must be the only one."""
    assert await _found(Source(*kids).keys(), kid, algorithm) == expected


async def test_an_issuer_that_was_never_reached() -> None:
    """Without keys nobody can be told, the issuer is asked every 10 s at the most, and it works once it answers."""
    source = Source("k1")
    source.down = True
    keys = source.keys()
    assert [await _found(keys, "k1") for _ in range(5)] == [(*UNCHECKED, 10.0)] * 5
    assert (source.reads, keys.age) == (1, math.inf)
    source.down, source.now = False, source.now + 7
    assert await _found(keys, "k1") == (*UNCHECKED, 3.0)
    source.now += 3
    assert (await _found(keys, "k1"), source.reads, keys.age) == ("key k1", 2, 0)


async def test_an_issuer_that_is_down_for_a_while() -> None:
    """What was fetched counts for an hour; a name that is not among it cannot be told; after the hour nothing can."""
    source = Source("k1")
    keys = source.keys()
    await _found(keys, "k1")
    source.down, source.now = True, source.now + 3599
    assert [await _found(keys, "k2"), await _found(keys, "k1")] == [(*UNCHECKED, 10.0), "key k1"]
    source.now += 1
    assert await _found(keys, "k1") == (*UNCHECKED, 9.0)
    source.down, source.now = False, source.now + 9
    assert (await _found(keys, "k1"), source.reads) == ("key k1", 3)


async def test_a_withdrawn_key_counts_no_more() -> None:
    """Once the keys were fetched again, one that is not among them is unknown, the last one too."""
    source = Source("k1", "k2")
    keys = source.keys()
    await _found(keys, "k1")
    for left in (("k2",), ()):
        source.kids, source.now = left, source.now + 10
        await _found(keys, "any other")
        assert await _found(keys, "k1") == (*UNKNOWN, 10.0)


async def test_keys_are_kept_fresh() -> None:
    """They are fetched at the start and before they are old, without any call; a failure is tried again after 10 s."""
    source = Source("k1")
    source.down = True
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 5:
            raise asyncio.CancelledError
        source.now += seconds
        source.down = len(slept) == 3

    keys = source.keys(sleep)
    with pytest.raises(asyncio.CancelledError):
        await keys.run()
    assert (slept, keys.age) == ([10, 300, 300, 10, 300], 0)


async def test_the_age_of_keys_is_measured() -> None:
    """A metric tells how old each issuer's keys are, and which were never fetched."""
    source, never = Source("k1"), IssuerKeys("never", Source().read, 300, 3600, lambda: 0.0)
    keys = source.keys()
    await _found(keys, "k1")
    source.now += 42
    registry = CollectorRegistry()
    registry.register(IssuerCollector([keys, never]))
    ages = [registry.get_sample_value("kubevend_issuer_keys_age_seconds", {"issuer": i}) for i in ("ci", "never")]
    assert ages == [42, math.inf]
