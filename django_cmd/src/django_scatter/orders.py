# SPDX-License-Identifier: Apache-2.0
"""The states of a plan, and what a worker has to obey. celeryc/db/plan_state.c and orders.c say the same in C."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

OPEN = ("planned", "queued", "running", "draining")
OVER = ("finished", "failed", "cancelled")

# From where each state may be reached.
SOURCES: dict[str, tuple[str, ...]] = {
    "planned": (),
    "queued": ("planned", "paused", "draining"),
    "running": (*OPEN, "paused", "finished", "failed"),
    "draining": OPEN,
    "paused": OPEN,
    "finished": (*OPEN, "paused"),
    "failed": (*OPEN, "paused"),
    "cancelled": (*OPEN, "paused", "finished", "failed"),
}

SILENT_S = 5.0  # a governor that says nothing for so long: its floor
DEAD_S = 15.0  # and for so long: nothing


@dataclass
class Orders:
    """What a worker obeys at once: it comes with every chunk, and with a heartbeat where no chunk is due."""

    state: str = "running"  # of the plan: only running and draining let a batch go on
    closed: bool = False  # its maintenance window is over
    stopped: bool = False  # everything on this database stands still
    rate: float = math.inf  # records a second for this batch, its share; 0: none just now
    chunk_ms: int = 0  # 0: the worker's own

    @property
    def go_on(self) -> bool:
        return self.state in ("running", "draining") and not self.closed


def orders_of(row: Sequence[Any]) -> Orders:
    """From the columns of Control.orders_sql. A rate is shared by the batches that are being worked on just now."""
    state, closed, rate, chunk_ms, running, stopped, g_rate, floor, silent_s, all_running = row
    limit = math.inf if g_rate is None else float(g_rate)
    if silent_s is not None and silent_s > DEAD_S:
        limit = 0.0
    elif silent_s is not None and silent_s > SILENT_S:
        limit = min(limit, float(floor))
    share = math.inf if rate is None else float(rate) / max(int(running or 1), 1)
    return Orders(
        state=str(state),
        closed=bool(closed),
        stopped=bool(stopped),
        rate=min(share, limit / max(int(all_running or 1), 1)),
        chunk_ms=int(chunk_ms or 0),
    )
