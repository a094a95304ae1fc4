# SPDX-License-Identifier: Apache-2.0
"""Python workers and celeryc on one queue, each with tasks of its own: what a worker does not know, it passes on.

One line in the Celery app:

    from django_scatter.forwarding import forward_unknown_tasks
    forward_unknown_tasks(app)

Celery drops a message whose task it does not know. With this the other workers are asked first; if one that serves the
queue has the task, the message goes back to the tail of its list, with the number of times in a property that Celery
ignores (a header would be copied to retries). celeryc does the same on its side. If nobody has the task, or the message
was passed on too often, it ends as Celery ends it: FAILURE NotRegistered.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import Celery, bootsteps

logger = logging.getLogger("django_scatter")

BOUNCES = "celeryc_bounces"
MAX_BOUNCES = 5000
FIRST_PAUSE_S = 0.02
MAX_PAUSE_S = 1.0
MAX_HELD = 1000  # messages that wait for an answer or out their pause; more go on at once
KEEP_S = (
    10.0  # that somebody has a task; that nobody has it holds for what came before the question
)
ASK_S = 1.0  # for the others to answer
POLL_S = 0.1
GIVE_UP_S = 10.0  # the others cannot be asked: the message goes to the tail

# unacked, unacked_index, tag, list, message. What is not ours any more is not pushed.
MOVE = """
if redis.call('HDEL', ARGV[1], ARGV[3]) == 0 then return 0 end
redis.call('ZREM', ARGV[2], ARGV[3])
redis.call('LPUSH', ARGV[4], ARGV[5])
return 1
"""


def forward_unknown_tasks(app: Celery) -> None:
    """Have the workers of this app pass on what other workers of the queue know."""
    app.steps["consumer"].add(ForwardStep)


class ForwardStep(bootsteps.StartStopStep):
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        parent.on_unknown_task = Forwarder(parent).on_unknown_task


def pause_s(bounces: int) -> float:
    """None the first time, then doubling; up to a quarter more, so that messages do not move in step."""
    if bounces < 2:
        return 0.0
    pause: float = min(FIRST_PAUSE_S * 2.0 ** min(bounces - 2, 16), MAX_PAUSE_S)
    return pause * random.uniform(1.0, 1.25)


class Census:
    """What tasks the other workers have, and which queues they serve; asked in a thread, so that nothing waits."""

    def __init__(self, app: Celery, own_node: str) -> None:
        self.app = app
        self.own_node = own_node
        self.tasks: dict[str, set[str]] = {}
        self.queues: dict[str, set[str]] = {}
        self.asked_at: float | None = None
        self.thread: threading.Thread | None = None

    def somebody_has(self, task: str, queue: str, since: float) -> bool | None:
        """For a message that came at `since`. None: they are being asked."""
        asked_at = self.asked_at
        if asked_at is not None and time.monotonic() - asked_at < KEEP_S:
            if any(
                task in tasks and queue in self.queues.get(node, ())
                for node, tasks in self.tasks.items()
            ):
                return True
            if asked_at >= since:
                return False
        if self.thread is None or not self.thread.is_alive():
            self.thread = threading.Thread(target=self.ask, name="census", daemon=True)
            self.thread.start()
        return None

    def ask(self) -> None:
        begun = time.monotonic()
        try:
            inspect = self.app.control.inspect(timeout=ASK_S)
            queues = inspect.active_queues() or {}
            tasks = inspect.registered() or {}
        # Whatever the connection raises: the next message asks again.
        except Exception as error:  # noqa: BLE001
            logger.warning("cannot ask the other workers what tasks they have: %s", error)
            return
        self.queues = {
            node: {str(queue["name"]) for queue in listed}
            for node, listed in queues.items()
            if node != self.own_node and isinstance(listed, list)
        }
        self.tasks = {
            node: {str(name).partition(" [")[0] for name in listed}
            for node, listed in tasks.items()
            if node != self.own_node and isinstance(listed, list)
        }
        self.asked_at = begun


class Forwarder:
    """Stands in for the consumer's on_unknown_task."""

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.drop: Callable[[Any, Any, BaseException], None] = consumer.on_unknown_task
        self.census = Census(consumer.app, consumer.hostname)
        self.held = 0

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        queue = queue_of(message)
        bounces = bounces_of(message) + 1
        if queue is None or bounces > MAX_BOUNCES:
            self.drop(body, message, exc)
            return
        self.decide(body, message, exc, queue, bounces, time.monotonic())

    def decide(
        self, body: Any, message: Any, exc: BaseException, queue: str, bounces: int, since: float
    ) -> None:
        has = self.census.somebody_has(name_of(message), queue, since)
        waits = has is None and time.monotonic() < since + GIVE_UP_S
        if waits and self.held < MAX_HELD:
            self.later(POLL_S, self.decide, body, message, exc, queue, bounces, since)
        elif has is False:
            self.drop(body, message, exc)
        else:
            pause = pause_s(bounces) if self.held < MAX_HELD else 0.0
            if pause:
                self.later(pause, self.pass_on, message, queue, bounces)
            else:
                self.pass_on(message, queue, bounces)

    def later(self, seconds: float, fn: Callable[..., None], *args: Any) -> None:
        """What waits here takes no part of the prefetch, as with an ETA."""
        self.held += 1
        self.consumer.qos.increment_eventually()

        def run() -> None:
            self.held -= 1
            self.consumer.qos.decrement_eventually()
            fn(*args)

        self.consumer.timer.call_after(seconds, run)

    def pass_on(self, message: Any, queue: str, bounces: int) -> None:
        channel, tag = message.channel, message.delivery_tag
        prefix = getattr(channel, "global_keyprefix", "") or ""
        unacked = prefix + channel.unacked_key
        try:
            with channel.conn_or_acquire() as redis:
                stored = redis.execute_command("HGET", channel.unacked_key, tag)
                if stored is not None:
                    raw = json.loads(stored)[0]
                    raw["properties"][BOUNCES] = bounces
                    index = prefix + channel.unacked_index_key
                    words = (unacked, index, tag, prefix + list_of(channel, queue, raw))
                    redis.execute_command("EVAL", MOVE, 0, *words, json.dumps(raw))
            message.ack()  # kombu's own notes of it; at the broker nothing is left to remove
        # The connection: what was not moved comes back when it is there again.
        except Exception as error:  # noqa: BLE001
            logger.warning("cannot pass on a message of task %s: %s", name_of(message), error)
            return
        logger.debug("task %s is for another worker: passed on (%d)", name_of(message), bounces)


def name_of(message: Any) -> str:
    name = (message.headers or {}).get("task")
    return str(name if name is not None else message.payload.get("task"))


def queue_of(message: Any) -> str | None:
    """The list that it came from; None when kombu cannot tell, or does not keep what is not acknowledged."""
    info = message.delivery_info or {}
    channel, key = message.channel, info.get("routing_key")
    if not hasattr(channel, "unacked_key") or not getattr(channel, "ack_emulation", True):
        return None
    if not info.get("exchange"):
        return str(key) if key else None
    queues = channel._lookup(info["exchange"], key)  # noqa: SLF001
    return str(queues[0]) if queues else None


def list_of(channel: Any, queue: str, raw: dict[str, Any]) -> str:
    """kombu's list of the queue for the message's priority."""
    priority = channel._get_message_priority(raw, reverse=False)  # noqa: SLF001  kombu has no other name for it
    return str(channel._q_for_pri(queue, priority))  # noqa: SLF001


def bounces_of(message: Any) -> int:
    n = (message.properties or {}).get(BOUNCES)
    return n if isinstance(n, int) and n > 0 else 0
