# SPDX-License-Identifier: Apache-2.0
"""Waiting between two chunks, on a clock that only the waiting moves."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from django_scatter.orders import Orders
from django_scatter.throttle import BEAT_S, SLICE_S, STANDSTILL_S, Standstill, Throttle


class World:
    """Time, and a database that is told of every beat."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[int] = []
        self.answer: Callable[[], Orders] = Orders
        self.throttle = Throttle(self.beat, self.clock, self.sleep)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def beat(self, milliseconds: int) -> Orders:
        self.told.append(milliseconds)
        return self.answer()

    def chunk(self, orders: Orders, n_records: int) -> None:
        self.answer = lambda: orders
        self.throttle.told(orders, n_records)

    def wait(self) -> float:
        began = self.now
        self.throttle.wait()
        return self.now - began


@pytest.fixture
def world() -> World:
    return World()


def test_without_a_rate_nobody_waits(world: World) -> None:
    world.chunk(Orders(), 5000)
    assert world.wait() == 0
    assert world.throttle.size(5000) == 5000
    world.throttle.end()
    assert world.told == []


def test_records_are_paid_for_afterwards(world: World) -> None:
    """Half a second of debt, in slices; a chunk that took as long itself owes nothing."""
    world.chunk(Orders(rate=100), 50)
    assert world.wait() == pytest.approx(0.5, abs=SLICE_S)
    world.chunk(Orders(rate=100), 50)
    world.now += 0.5
    assert world.wait() == 0


def test_debt_is_paid_at_the_rate_of_its_time(world: World) -> None:
    world.chunk(Orders(rate=100), 100)
    world.now += 0.5
    world.chunk(Orders(rate=50), 0)
    assert world.throttle.owed == pytest.approx(50)
    assert world.wait() == pytest.approx(1.0, abs=SLICE_S)


def test_a_rate_that_is_taken_away_forgives(world: World) -> None:
    world.chunk(Orders(rate=1), 1000)
    world.answer = Orders
    assert world.wait() == pytest.approx(BEAT_S, abs=2 * SLICE_S)
    assert world.throttle.owed == 0


def test_chunks_are_a_second_of_the_rate(world: World) -> None:
    world.chunk(Orders(rate=30.5), 0)
    assert (world.throttle.size(200), world.throttle.size(20)) == (30, 20)
    world.chunk(Orders(rate=0.2), 0)
    assert world.throttle.size(200) == 1


def test_who_waits_tells_so_every_second(world: World) -> None:
    world.chunk(Orders(rate=10), 50)
    waited = world.wait()
    assert waited == pytest.approx(5.0, abs=2 * SLICE_S)
    assert 4 <= len(world.told) <= 5
    world.throttle.end()
    assert sum(world.told) == pytest.approx(waited * 1000, abs=len(world.told))
    before = len(world.told)
    world.throttle.end()
    assert len(world.told) == before


@pytest.mark.parametrize("orders", [Orders(stopped=True), Orders(rate=0)])
def test_what_stands_still_goes_on_when_it_may(world: World, orders: Orders) -> None:
    world.chunk(orders, 10)
    again = world.now + 10
    world.answer = lambda: Orders() if world.now >= again else orders
    assert world.wait() == pytest.approx(10, abs=BEAT_S + 2 * SLICE_S)


def test_a_slot_is_given_back_after_a_while(world: World) -> None:
    world.chunk(Orders(stopped=True), 0)
    began = world.now
    with pytest.raises(Standstill):
        world.wait()
    assert world.now - began == pytest.approx(STANDSTILL_S, abs=2 * SLICE_S)


def test_debt_is_no_standstill(world: World) -> None:
    world.chunk(Orders(rate=1), 90)
    assert world.wait() == pytest.approx(90, abs=1)


@pytest.mark.parametrize(
    "orders", [Orders(state="paused"), Orders(state="cancelled"), Orders(closed=True)]
)
def test_an_order_ends_the_wait(world: World, orders: Orders) -> None:
    world.chunk(Orders(rate=1), 1000)
    world.answer = lambda: orders
    assert world.wait() == pytest.approx(BEAT_S, abs=2 * SLICE_S)
    assert not world.throttle.orders.go_on
    assert not math.isinf(world.throttle.owed)


def test_what_the_beat_raises_ends_the_wait(world: World) -> None:
    class GoneError(Exception):
        pass

    def gone() -> Orders:
        raise GoneError

    world.chunk(Orders(rate=1), 1000)
    world.answer = gone
    with pytest.raises(GoneError):
        world.wait()
