# SPDX-License-Identifier: Apache-2.0
"""One or two idle workers on one queue, and the clients that talk to them."""

from __future__ import annotations

import json
from typing import Any

from .client import Client
from .redis_server import SEP, RedisServer
from .waiting import DeadlineError, wait_until
from .workers import Worker, WorkerFactory

FLEETS: dict[str, tuple[str, ...]] = {
    "python": ("python",),
    "debian": ("debian",),
    "celeryc": ("celeryc",),
    "both": ("python", "celeryc"),
    "both-debian": ("debian", "celeryc"),
}


class Fleet:
    """Lives for the whole session in a Redis database of its own; tests must leave it settled."""

    def __init__(self, kind: str, redis: RedisServer, db: int, factory: WorkerFactory) -> None:
        self.kind = kind
        self.redis = redis
        self.db = db
        self.url = redis.socket_url(db)
        self.workers: list[Worker] = [
            factory.start(member, self.url, concurrency=2, wait=False) for member in FLEETS[kind]
        ]
        for worker in self.workers:
            worker.wait_ready()
        self.clients: dict[str, Client] = {}

    @property
    def rounds(self) -> int:
        """How often a behaviour is shown, so that with two workers both get to show it."""
        if len(self.workers) == 1:
            return 1
        return 3 if "debian" in self.kind else 6  # a 5.2 worker takes a second for each ETA

    def client(self, version: str, **settings: Any) -> Client:
        key = json.dumps([version, settings], sort_keys=True)
        if key not in self.clients:
            self.clients[key] = Client(version, self.url, self.url, settings)
        return self.clients[key]

    def record(self, task_id: str) -> dict[str, Any] | None:
        """The stored result record, as it lies in Redis."""
        text = self.redis.client(self.db).get(f"celery-task-meta-{task_id}")
        if text is None:
            return None
        record = json.loads(text)
        assert isinstance(record, dict)
        return record

    def result_of(self, task_id: str) -> Any:
        """From the store: the get() of 5.2 may miss a result that is stored in the moment in which it begins."""

        def there() -> bool:
            record = self.record(task_id)
            return record is not None and record["status"] == "SUCCESS"

        wait_until(there, f"the result of {task_id}")
        record = self.record(task_id)
        assert record is not None
        return record["result"]

    def settle(self) -> None:
        nothing_left(self.redis, self.db)
        for worker in self.workers:
            assert worker.process.alive, f"{worker.node} ended:\n{worker.process.log_tail()}"

    def close(self) -> None:
        for client in self.clients.values():
            client.close()


def leftovers(redis: RedisServer, db: int, queue: str = "celery") -> dict[str, int]:
    """Where messages still are: lists of the queue, unacked, and celeryc's own keys (dead letters excepted)."""
    r = redis.client(db)
    found: dict[str, int] = {}
    for key in [queue.encode(), *r.keys(f"{queue}{SEP}*")]:
        found[key.decode("latin-1")] = r.llen(key)
    for pattern in (
        "celeryc:waiting:*",
        "celeryc:running:*",
        "celeryc:claims:*",
        "celeryc:delayed",
    ):
        for key in r.keys(pattern):
            kind = r.type(key)
            count = {b"list": r.llen, b"hash": r.hlen, b"zset": r.zcard}.get(kind)
            found[key.decode("latin-1")] = count(key) if count else -1
    found |= {"unacked": r.hlen("unacked"), "unacked_index": r.zcard("unacked_index")}
    return {key: size for key, size in found.items() if size}


def nothing_left(
    redis: RedisServer, db: int = 0, deadline_s: float = 15.0, queue: str = "celery"
) -> None:
    """Wait until no message is anywhere."""
    try:
        wait_until(lambda: not leftovers(redis, db, queue), "no message left anywhere", deadline_s)
    except DeadlineError as e:
        raise AssertionError(f"{e}: {leftovers(redis, db, queue)}") from None
