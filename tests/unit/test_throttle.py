from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.throttle import Rate, Throttle
from tests.unit.builders import Stopwatch

PAUSES = st.lists(st.floats(0, 5), max_size=200)


@given(st.floats(0.1, 100), st.integers(1, 20), PAUSES)
def test_never_more_than_the_burst_and_the_rate(per_second: float, burst: int, pauses: list[float]) -> None:
    """Whatever comes when, no stretch of time has more than the burst and what the rate lets through in it."""
    clock = Stopwatch()
    throttle = Throttle(Rate(per_second, burst), clock)
    taken = []
    for pause in pauses:
        clock.now += pause
        if not throttle.admit("a"):
            taken.append(clock.now)
    for first, began in enumerate(taken):
        for last, ended in enumerate(taken[first:], first):
            assert last - first + 1 <= burst + per_second * (ended - began) + 1e-3


@given(st.floats(0.1, 100), st.integers(1, 20), PAUSES)
def test_who_waits_as_told_is_let_in(per_second: float, burst: int, pauses: list[float]) -> None:
    """A refusal takes nothing, and after the seconds that it names, and not before, the next one is let in."""
    clock = Stopwatch()
    throttle = Throttle(Rate(per_second, burst), clock)
    for pause in pauses:
        clock.now += pause
        wait = throttle.admit("a")
        if wait:
            clock.now += wait * 0.99
            assert throttle.wait("a")
            clock.now += wait * 0.02
            assert not throttle.admit("a")


def test_the_burst_is_there_at_once_and_no_more() -> None:
    """Somebody of whom nothing was heard has the burst, then one for each interval; another has a burst of its own."""
    clock = Stopwatch()
    throttle = Throttle(Rate(2, 3), clock)
    assert [throttle.admit("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert [throttle.admit("b") for _ in range(3)] == [0, 0, 0]
    clock.now += 0.5
    assert [throttle.admit("a") for _ in range(2)] == [0, 0.5]


def test_a_rate_of_nothing_is_no_limit() -> None:
    """With 0 per second nobody waits, and nobody is remembered."""
    throttle = Throttle(Rate(0, 1), Stopwatch())
    assert not any(throttle.admit("a") for _ in range(100))
    throttle.take("a")
    assert not throttle.wait("a")


def test_debts_stay_however_many_come() -> None:
    """However many keys come, the memory is bounded, and who owes much is not forgotten for those who owe little."""
    clock = Stopwatch()
    throttle = Throttle(Rate(0.1, 5), clock, most_keys=100)
    for _ in range(9):
        throttle.take("flooding")
    for number in range(10_000):
        throttle.take(number)
        clock.now += 0.001
        assert len(throttle._paid_off) <= 100  # the bound itself is what is tested

    assert round(throttle.wait("flooding")) == 40
    assert not throttle.wait("new")


def test_a_debt_is_bounded() -> None:
    """Whoever failed very often at once, as calls under way can, is let in again once twice the burst is paid off."""
    throttle = Throttle(Rate(1, 5), Stopwatch())
    for _ in range(1000):
        throttle.take("a")
    assert throttle.wait("a") == 6
