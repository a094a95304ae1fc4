# SPDX-License-Identifier: Apache-2.0
"""Between two chunks: what a worker obeys, and how long it waits for its rate. celeryc/migrate/pace.c does the same.

A rate is paid for afterwards: the records of a chunk are owed, and time pays the debt at the batch's share of the rate.
Whoever waits tells the database every second that it lives and hears what has changed meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from django_scatter.orders import Orders

SLICE_S = 0.05
BEAT_S = 1.0
STANDSTILL_S = 60.0  # then the slot is given back


class Standstill(Exception):
    """Nothing may be written for a while: the message comes again later."""


class Throttle:
    """`beat` takes the milliseconds waited since the last one and gives the orders of now."""

    def __init__(
        self,
        beat: Callable[[int], Orders],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.beat = beat
        self.clock = clock
        self.sleep = sleep
        self.orders = Orders()
        self.owed = 0.0
        self.throttled = 0.0
        self.paid_at = self.beat_at = clock()

    def pay(self) -> None:
        """Time pays, at the rate that was known until now."""
        now = self.clock()
        if self.owed > 0 and self.orders.rate > 0:
            paid = (now - self.paid_at) * self.orders.rate
            self.owed = 0.0 if math.isinf(self.orders.rate) else max(0.0, self.owed - paid)
        self.paid_at = now

    def told(self, orders: Orders, n_records: int) -> None:
        """A chunk of n records went through and brought these orders."""
        self.pay()
        self.orders = orders
        self.owed = 0.0 if math.isinf(orders.rate) else self.owed + n_records
        self.beat_at = self.clock()

    def size(self, n: int) -> int:
        """At most n records for the next chunk, and about a second's worth of the rate."""
        rate = self.orders.rate
        return n if math.isinf(rate) or n <= rate else max(1, int(rate))

    def wait(self) -> None:
        """While the rate, the governor or the kill switch wants it; until the plan does not want the batch to go on."""
        began = self.clock()
        while self.orders.go_on and self.must_wait():
            now = self.clock()
            if now - began > STANDSTILL_S and self.owed <= 0:
                raise Standstill
            self.sleep(SLICE_S)
            self.throttled += self.clock() - now
            if self.clock() - self.beat_at > BEAT_S:
                self.tell()

    def must_wait(self) -> bool:
        self.pay()
        return self.orders.stopped or self.orders.rate <= 0 or self.owed > 0

    def tell(self) -> None:
        milliseconds = int(self.throttled * 1000)
        self.beat_at = self.clock()
        orders = self.beat(milliseconds)
        self.throttled -= milliseconds / 1000
        self.told(orders, 0)

    def end(self) -> None:
        """Writes down how long it waited."""
        if self.throttled > 0.001:
            self.tell()
