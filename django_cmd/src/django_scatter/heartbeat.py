# SPDX-License-Identifier: Apache-2.0
"""The heartbeat of a batch beside a call that takes long. celeryc/migrate/beat.c does the same.

    process, process_batch, process_external, SQL files
        no transaction is open while they run: a connection of the thread's own, made when the last renewal is a third of
        the lease old, renews and listens
    process_row on PostgreSQL
        the chunk's transaction holds the batch's row, so nobody can take it over and nobody can renew it; but the server
        ends a transaction that is idle for a third of the lease. The thread listens over that very connection, which
        keeps it awake
    process_row on SQLite
        the transaction shuts everybody else out: nothing to renew, nothing to hear

A process that is stopped stops its thread with it, and so loses the batch as it should; when it goes on, the token says
whether the batch is still its own. What must never happen: the thread waits for the batch's row, or uses the worker's
connection while that does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from django_scatter.control import Control, Fenced, open_control
from django_scatter.orders import Orders

logger = logging.getLogger("django_scatter")

TURN_MIN_S, TURN_MAX_S = 0.02, 1.0
TURNS = 12  # of a lease
END_S = 5.0


class Heartbeat:
    """Of one claim; the thread lives inside of the `with`."""

    def __init__(
        self,
        control: Control,
        plan: str,
        batch: int,
        token: int,
        inside: bool,
        stopping: Callable[[], bool],
    ) -> None:
        self.control = control
        self.claim = (plan, batch, token)
        self.inside = inside  # process_row: only over the connection that is lent
        self.stopping = stopping
        self.lease_s = control.lease_ms / 1000
        self.told = False  # the function of this chunk, that it should come to an end
        self.lost = False  # the batch is another worker's
        self.fresh = False  # orders were heard that nobody has asked for yet
        self.orders: Orders | None = None
        self.trouble = ""  # of the last beat, when it failed
        self.renewed_at = time.monotonic()
        self.ending = threading.Event()
        self.lock = threading.Lock()  # guards what was heard
        self.lending = threading.Lock()  # held by whoever uses the lent connection
        self.lent: Any = None
        self.own: Control | None = None
        self.thread: threading.Thread | None = None

    def __enter__(self) -> Heartbeat:
        self.renewed()
        if self.inside and self.control.connection.vendor == "sqlite":
            return self
        self.thread = threading.Thread(target=self.run, name="scatter-heartbeat", daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        if self.thread is not None:
            # One that waits for a server that is away is left to end by itself: its token is worth nothing by then.
            self.thread.join(END_S)
        if self.trouble:
            plan, batch, _token = self.claim
            logger.warning(
                "batch %s of %s: its lease was not renewed during a long call: %s",
                batch, plan, self.trouble,
            )  # fmt: skip

    # ---- the thread ----

    def run(self) -> None:
        turn = min(max(self.lease_s / TURNS, TURN_MIN_S), TURN_MAX_S)
        try:
            while not self.ending.wait(turn) and not self.lost:
                self.turn()
        finally:
            if self.own is not None:
                self.own.connection.close()

    def turn(self) -> None:
        try:
            if self.inside:
                self.listen_inside()
            else:
                self.listen_beside()
        except Fenced:
            self.lost = True
        except Exception as e:  # noqa: BLE001  the next turn tries again; the work does not depend on it
            self.trouble = str(e)

    def listen_beside(self) -> None:
        began = time.monotonic()
        due = began - self.renewed_at >= self.lease_s / 3
        if self.own is None:
            if not due:
                return
            self.own = open_control(self.control.connection.copy(), self.control.lease_ms)
            self.own.patience_s = self.lease_s / 3
        orders, renewed = self.own.watch(*self.claim, due)
        self.hear(orders)
        if renewed:
            with self.lock:
                self.renewed_at = max(self.renewed_at, began)

    def listen_inside(self) -> None:
        if not self.lending.acquire(blocking=False):
            return
        try:
            if self.lent is not None:
                self.hear(self.control.look(*self.claim, self.lent))
        finally:
            self.lending.release()

    def hear(self, orders: Orders) -> None:
        with self.lock:
            self.orders, self.fresh, self.trouble = orders, True, ""

    # ---- what the worker asks ----

    def renewed(self) -> None:
        """A chunk, or a wait between two, has just renewed the lease and brought orders: what was heard before is old."""
        with self.lock:
            self.renewed_at = time.monotonic()
            self.orders, self.fresh = None, False

    def heard(self) -> Orders | None:
        """What was heard since, once; Fenced when the batch is another's."""
        if self.lost:
            raise Fenced
        with self.lock:
            fresh, self.fresh = self.fresh, False
            return self.orders if fresh else None

    def stop_wanted(self) -> str:
        """Why a function that takes long should come to an end; "": it need not."""
        why = "lost" if self.lost else self.order()
        if not why and self.stopping():
            why = "worker"
        self.told = self.told or bool(why)
        return why

    def order(self) -> str:
        orders = self.orders
        if orders is None:
            return ""
        if orders.state not in ("running", "draining"):
            return orders.state
        if orders.closed:
            return "window"
        return "stopped" if orders.stopped else ""

    # ---- inside of a transaction ----

    def lend(self) -> None:
        """The function runs no statement just now: the thread may use the connection, so that the server sees that this
        worker lives, and does not cut it off as one that was frozen."""
        if self.thread is not None:
            with self.lending:
                self.lent = self.control.connection.connection

    def take_back(self) -> None:
        if self.thread is not None:
            with self.lending:
                self.lent = None
