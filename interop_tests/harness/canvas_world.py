# SPDX-License-Identifier: Apache-2.0
"""A world in one process in which Celery runs canvases step by step: its real client, tracer, canvas and Redis backend
code, with the broker and the database in memory. Every step says what Celery sent, stored and counted, so that another
implementation can be given the same step and compared."""

from __future__ import annotations

import base64
import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import kombu.transport.memory
from celery import Celery, signature
from celery.app.trace import build_tracer
from celery.backends.redis import RedisBackend
from celery.canvas import maybe_signature
from celery.exceptions import ChordError
from celery.result import GroupResult, allow_join_result, result_from_tuple

Json = Any


@dataclass
class Effects:
    """What one step did, in order."""

    messages: list[tuple[str, str]] = field(default_factory=list)  # queue, envelope
    records: list[tuple[str, Json]] = field(default_factory=list)
    parts: list[tuple[str, str, str, str, Json, bool]] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)
    saved: dict[str, Json] = field(default_factory=dict)
    adds: list[str] = field(default_factory=list)


@dataclass
class Fired:
    """A chord that the step completed: what the body was given, and what followed."""

    body: Json
    results: list[Json] | None  # None: the chord failed
    member: str  # the failed part
    effects: Effects


@dataclass
class Step:
    raw: str
    task_id: str
    state: str
    result: Json  # as stored
    children: Json  # None: nothing was stored
    effects: Effects
    fired: list[Fired]
    replaced: str | None = None  # the signature that took the task's place
    joined: str | None = None  # the signature that was added to its chord


@dataclass
class Chord:
    size: int | None = None
    more: int = 0
    done: bool = False
    parts: dict[str, tuple[float, str, bool]] = field(default_factory=dict)


Base: Any = RedisBackend  # its stub knows neither the private methods nor the arguments of 5.7


class WorldBackend(Base):  # type: ignore[misc]
    """Celery's Redis backend with its commands replaced; how it encodes, walks and reports is its own."""

    world: World

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("url", None)
        super().__init__(*args, host="127.0.0.1", port=1, db=0, **kwargs)

    def on_task_call(self, producer: Any, task_id: str) -> None:
        pass

    def add_pending_result(self, result: Any, weak: bool = False, **kwargs: Any) -> Any:
        return result

    def add_pending_results(self, results: Any, weak: bool = False) -> Any:
        return results

    def remove_pending_result(self, result: Any) -> Any:
        return result

    def get(self, key: Any) -> Any:
        return self.world.values.get(key.decode() if isinstance(key, bytes) else key)

    def _set_with_state(self, key: Any, value: str, state: str) -> None:
        name = key.decode() if isinstance(key, bytes) else key
        self.world.values[name] = value
        record = json.loads(value)
        self.world.effects.records.append((record["task_id"], record))

    def _get_result_meta(
        self, result: Any, state: Any, traceback: Any, request: Any, **kwargs: Any
    ) -> Any:
        meta = super()._get_result_meta(result, state, traceback, request, **kwargs)
        if request is not None and request.id == self.world.running:
            self.world.children = meta["children"]
        return meta

    def _set_chord_key(self, key: Any, value: Any) -> None:
        group = key.decode() if isinstance(key, bytes) else key
        group = group.removeprefix("celery-taskset-meta-")
        self.world.saved[group] = self.world.effects.saved[group] = json.loads(value)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        self.world.effects.starts[group_id] = chord_size
        self.world.chord(group_id).size = chord_size

    def add_to_chord(self, group_id: str, result: Any) -> None:
        self.world.effects.adds.append(group_id)
        self.world.chord(group_id).more += 1

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        if not request.group or not request.id:
            return
        score = "+inf" if request.group_index is None else str(request.group_index)
        member = self.encode([1, request.id, state, self.encode_result(result, state)])
        failed = state in ("FAILURE", "REVOKED")
        body = json.loads(json.dumps(request.chord))
        self.world.effects.parts.append((request.group, request.id, score, member, body, failed))
        self.world.count(request.group, request.id, score, member, failed, request.chord)


class World:
    def __init__(self) -> None:
        self.queue: deque[tuple[str, str]] = deque()
        self.values: dict[str, str] = {}
        self.saved: dict[str, Json] = {}
        self.chords: dict[str, Chord] = {}
        self.effects = Effects()
        self.fired: list[Fired] = []
        self.running = ""
        self.replaced: str | None = None
        self.joined: str | None = None
        self.children: Json = None
        self.app = cast("Any", Celery("world", broker="memory://", set_as_current=True))
        self.app.conf.update(task_serializer="json", broker_connection_retry_on_startup=False)
        self.backend = WorldBackend(app=self.app)
        self.backend.world = self
        self.app.backend_cls = "disabled"
        self.app._local.backend = self.backend
        self.app._backend_cache = self.backend
        world = self

        def put(channel: Any, queue: str, message: Json, **kwargs: Any) -> None:
            raw = json.dumps(message)
            world.effects.messages.append((queue, raw))
            world.queue.append((queue, raw))

        channel: Any = kombu.transport.memory.Channel
        channel._put = put
        logging.getLogger("celery").setLevel(logging.CRITICAL + 1)
        self.tasks = self._make_tasks()

    def _make_tasks(self) -> dict[str, Any]:
        app = self.app
        world = self

        def t(*args: Json, **kwargs: Json) -> Json:
            return sum(map(total, args)) + 1

        def echo(*args: Json, **kwargs: Json) -> Json:
            return [*args, kwargs]

        def fail(*args: Json, **kwargs: Json) -> Json:
            raise ValueError("boom", len(args))

        def eb(failed_id: Json) -> Json:
            return len(failed_id)

        def swap(self: Any, *args: Json, sig: Json = None) -> Json:
            world_step = json.dumps(sig)
            world.replaced = world_step
            return self.replace(signature(json.loads(world_step), app=app))

        def join(self: Any, *args: Json, sig: Json = None) -> Json:
            if self.request.chord:
                world.joined = json.dumps(sig)
                self.add_to_chord(signature(json.loads(json.dumps(sig)), app=app))
            return 0

        made = {
            f.__name__: app.task(name=f.__name__, bind=f in (swap, join), typing=False)(f)
            for f in (t, echo, fail, eb, swap, join)
        }
        app.finalize()
        return made

    # ---- chords ----

    def chord(self, group_id: str) -> Chord:
        return self.chords.setdefault(group_id, Chord())

    def count(
        self, group: str, task_id: str, score: str, member: str, failed: bool, body: Json
    ) -> None:
        c = self.chord(group)
        if c.done:
            return
        c.parts.setdefault(f"{task_id}:{score}", (float(score), member, failed))
        if c.size is None or len(c.parts) != c.size + c.more:
            return
        c.done = True
        self._fire(group, c, body)

    def _fire(self, group: str, c: Chord, body: Json) -> None:
        parts = [(m, f) for _, m, f in sorted(c.parts.values(), key=lambda p: (p[0], p[1]))]
        wire = json.loads(json.dumps(body))
        callback: Any = maybe_signature(body, app=self.app)
        outer, self.effects = self.effects, Effects()
        bad = next((m for m, f in parts if f), None)
        results = None
        member = bad or ""
        if bad is not None:
            _, tid, _, x = json.loads(bad)
            exc = self.backend.exception_to_python(x)
            error = ChordError(f"Dependency {tid} raised {exc!r}")
            error.__cause__ = exc
            try:
                raise error
            except ChordError as raised:
                self.backend.chord_error_from_stack(callback, raised)
        else:
            if group in self.saved:
                results = self._joined(result_from_tuple(self.saved[group]["result"], app=self.app))
            else:
                results = [json.loads(m)[3] for m, _ in parts]
            with allow_join_result():
                callback.delay(results)
        self.fired.append(Fired(wire, results, member, self.effects))
        self.effects = outer

    def _joined(self, result: Any) -> Json:
        if isinstance(result, GroupResult):
            return [self._joined(r) for r in result.results or []]
        return json.loads(self.values["celery-task-meta-" + result.id])["result"]

    # ---- steps ----

    def send(self, apply: Callable[[], Any]) -> Effects:
        """What a client does; its messages are then in the queue."""
        self.effects = Effects()
        apply()
        return self.effects

    def forget(self) -> None:
        """Everything that earlier canvases left."""
        self.queue.clear()
        self.values.clear()
        self.saved.clear()
        self.chords.clear()

    def step(self) -> Step:
        """Runs the oldest message."""
        _, raw = self.queue.popleft()
        envelope = json.loads(raw)
        headers = envelope["headers"]
        args, kwargs, embed = json.loads(base64.b64decode(envelope["body"]))
        info = dict(envelope["properties"]["delivery_info"])
        info["priority"] = envelope["properties"].get("priority")
        request = {
            **headers,
            "args": args,
            "kwargs": kwargs,
            "hostname": "w@world",
            "is_eager": False,
            "delivery_info": info,
            "reply_to": envelope["properties"]["reply_to"],
            "correlation_id": headers["id"],
            **embed,
        }
        self.effects, self.fired, self.children = Effects(), [], None
        self.running = headers["id"]
        self.replaced = self.joined = None
        task = self.app.tasks[headers["task"]]
        trace: Any = build_tracer(task.name, task, app=self.app, hostname="w@world")
        value, info, _, _ = trace(headers["id"], args, kwargs, request)
        state = "SUCCESS" if info is None else info.state
        result = value if info is None else self.backend.encode_result(info.retval, state)
        self.effects.records = [r for r in self.effects.records if r[0] != headers["id"]]
        return Step(
            raw,
            headers["id"],
            state,
            json.loads(json.dumps(result, default=str)),
            json.loads(json.dumps(self.children)),
            self.effects,
            self.fired,
            self.replaced,
            self.joined,
        )


def total(v: Json) -> int:
    """A number for any value, so that every argument counts in the result."""
    if isinstance(v, bool) or v is None:
        return 1
    if isinstance(v, int | float):
        return int(v)
    if isinstance(v, str):
        return len(v)
    if isinstance(v, dict):
        return sum(map(total, v.values()))
    return sum((i + 1) * total(x) for i, x in enumerate(v)) + 7
