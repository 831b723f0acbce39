"""How long one operation goes on trying, and how long it waits in between."""

import random
import time

import pytest

from nydusify.errors import RetryLater, TransportError
from nydusify.registry.options import RegistryOptions, Stats
from nydusify.registry.retry import PROGRESS, Interrupted, Patience

CUT = Interrupted("cut")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were asked for, in seconds; none of them is waited."""
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance gives the longest wait that it may."""
    monkeypatch.setattr(random, "uniform", lambda low, high: high)


def patience(stats: Stats | None = None, **options: float) -> Patience:
    return Patience(RegistryOptions(**{"retry_count": 20, **options}), stats or Stats())  # type: ignore[arg-type]


def fail(operation: Patience, times: int, error: TransportError = CUT) -> None:
    for _ in range(times):
        operation.pause(error)


@pytest.mark.usefixtures("longest")
def test_waits_double_up_to_a_limit(waits: list[float]) -> None:
    fail(patience(retry_delay=0.5, retry_limit=6), 6)
    assert waits == [0.5, 1, 2, 4, 6, 6]


def test_waits_are_random_below_that(waits: list[float]) -> None:
    for _ in range(200):
        fail(patience(retry_delay=1), 1)
    assert all(0 <= wait <= 1 for wait in waits)
    assert min(waits) < 0.25
    assert max(waits) > 0.75


def test_a_server_is_not_asked_before_the_time_that_it_named(waits: list[float]) -> None:
    for _ in range(100):
        fail(patience(retry_delay=0.5), 3, RetryLater("busy", after=7))
    assert all(7 <= wait <= 7.5 for wait in waits)
    assert len(set(waits)) > 1  # those who were sent away together do not come back together


@pytest.mark.usefixtures("longest")
def test_a_wish_is_bounded_and_may_be_absent(waits: list[float]) -> None:
    operation = patience(retry_delay=2, retry_limit=9)
    fail(operation, 1, RetryLater("busy", after=86400))
    fail(operation, 1, RetryLater("busy"))
    assert waits == [11, 4]


def test_failures_are_counted_and_the_last_one_is_raised(waits: list[float]) -> None:
    stats = Stats()
    operation = patience(stats, retry_count=3)
    fail(operation, 3)
    last = Interrupted("the last one")
    with pytest.raises(Interrupted) as caught:
        operation.pause(last)
    assert caught.value is last
    assert (stats.retries, len(waits)) == (3, 3)


@pytest.mark.parametrize(("progress", "goes_on"), [(PROGRESS, True), (PROGRESS - 1, False)])
@pytest.mark.usefixtures("longest")
def test_enough_progress_forgives_failures(waits: list[float], progress: int, goes_on: bool) -> None:
    operation = patience(retry_count=2, retry_delay=1)
    fail(operation, 2)
    operation.progressed(progress)
    if not goes_on:
        with pytest.raises(Interrupted):
            operation.pause(CUT)
        return
    fail(operation, 2)
    assert waits == [1, 2, 1, 2]
    with pytest.raises(Interrupted):
        operation.pause(CUT)


@pytest.mark.usefixtures("longest")
def test_many_failures_do_not_overflow(waits: list[float]) -> None:
    fail(patience(retry_count=3000, retry_delay=1, retry_limit=60), 3000)
    assert waits[-1] == 60
