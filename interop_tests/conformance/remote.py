# SPDX-License-Identifier: Apache-2.0
"""What tests that were written for a worker in their own process ask of it, asked of the real ones."""

from __future__ import annotations

import os
from typing import Any

import celery
import redis
from celery.app.control import Inspect
from harness.waiting import wait_until

REPLY_S = 5.0


class Pool:
    """The workers that run. Several answer `inspect` as if they were one node; `name` is any of theirs."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.nodes: list[str] = []
        self.name = AnyNode()
        self.pid = 0
        self.handled: dict[str, int] = {}

    def take_nodes(self, nodes: list[str]) -> None:
        self.nodes = nodes
        self.name = AnyNode(nodes[0])
        self.name.others = nodes

    def meet(self, app: Any) -> None:
        """Waits until all answer a ping. A worker that the plan does not know is an error."""

        def answering() -> list[str]:
            nodes = sorted({n for reply in app.control.ping(timeout=1.0) or [] for n in reply})
            return nodes if len(nodes) == self.size else []

        self.take_nodes(wait_until(answering, f"{self.size} workers that answer a ping", 30.0))
        self.pid = self._stats(app)[self.nodes[0]]["pid"]
        if self.size > 1:
            _let_inspect_see_one(self)

    def part(self, app: Any) -> None:
        """Notes how many tasks each of them had."""
        self.handled = {n: sum(s["total"].values()) for n, s in self._stats(app).items()}

    def ask(self, command: str, app: Any = None, **arguments: Any) -> list[dict[str, Any]]:
        control: Any = (app or celery.current_app).control
        replies: list[dict[str, Any]] = control.broadcast(
            command, arguments, reply=True, timeout=REPLY_S, limit=self.size
        )
        return replies

    def _stats(self, app: Any) -> dict[str, Any]:
        return {node: s for reply in self.ask("stats", app) for node, s in reply.items()}


class AnyNode(str):
    """Equal to the name of each node of a pool."""

    __slots__ = ("others",)
    others: list[str]

    def __eq__(self, other: object) -> bool:
        return other in self.others

    def __ne__(self, other: object) -> bool:
        return other not in self.others

    def __hash__(self) -> int:
        return str.__hash__(self)


def merged(replies: list[Any]) -> Any:
    """One reply that says what each of them says; of what they cannot both say, the first's."""
    first = replies[0]
    if all(isinstance(r, list) for r in replies):
        return [x for i, r in enumerate(replies) for x in r if not any(x in s for s in replies[:i])]
    if all(isinstance(r, dict) for r in replies):
        return {k: v for r in reversed(replies) for k, v in r.items()}
    return first


def _let_inspect_see_one(pool: Pool) -> None:
    original = Inspect._prepare

    def prepare(self: Any, reply: Any) -> Any:
        by_node = original(self, reply)
        if not by_node or not all(n in by_node for n in pool.nodes):
            return by_node
        return {pool.nodes[0]: merged([by_node[n] for n in pool.nodes])}

    Inspect._prepare = prepare  # type: ignore[method-assign]


class Overlay:
    """An object with some attributes in the place of its own."""

    def __init__(self, real: Any, **attributes: Any) -> None:
        self.__dict__.update(attributes)
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class RevokedStamps:
    """`worker_state.revoked_stamps`, which tests clear between their cases."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def clear(self) -> None:
        self.pool.ask("forget_stamps")


class Finished:
    """`task_id in worker_state.successful_requests`: no worker has the task, and no message of it is anywhere."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.redis = redis.Redis.from_url(os.environ["TEST_BROKER"])

    def __contains__(self, task_id: str) -> bool:
        # Looked at twice: a message may move while one looks.
        return not any(self._known(task_id) or self._message(task_id) for _ in range(2))

    def _known(self, task_id: str) -> bool:
        replies = self.pool.ask("query_task", ids=[task_id])
        return any(tasks for reply in replies for tasks in reply.values())

    def _message(self, task_id: str) -> bool:
        id_bytes = task_id.encode()
        for key in self.redis.scan_iter():
            kind = self.redis.type(key)
            values: Any = []
            if kind == b"list":
                values = self.redis.lrange(key, 0, -1)
            elif kind == b"hash":
                values = self.redis.hvals(key)
            elif kind == b"zset":
                values = self.redis.zrange(key, 0, -1)
            if any(id_bytes in v for v in values):
                return True
        return False
