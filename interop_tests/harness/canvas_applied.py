# SPDX-License-Identifier: Apache-2.0
"""Canvases that Celery made and sends, beside the same canvases as celeryc's canvas code reads and sends them: messages,
chord sizes, saved groups and queues, value by value.

Celery links an errback twice where one copy of it came as a tuple of arguments and the other as a list, and then calls
it twice; canvas links it once, so repeated errbacks count as one here."""

from __future__ import annotations

import base64
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from celery import signature

from .canvas_compare import (
    Canvas,
    DifferenceError,
    Matcher,
    compare_messages,
    compare_starts,
)
from .canvas_random import Canvases
from .canvas_world import World

ERRBACKS = ("errbacks", "link_error")


def _once(v: Any) -> Any:
    if isinstance(v, list):
        return [_once(x) for x in v]
    if not isinstance(v, dict):
        return v
    made = {key: _once(x) for key, x in v.items()}
    for key in ERRBACKS:
        if isinstance(made.get(key), list):
            made[key] = [x for i, x in enumerate(made[key]) if x not in made[key][:i]]
    return made


def _with_errbacks_once(raw: str) -> str:
    envelope = json.loads(raw)
    body = _once(json.loads(base64.b64decode(envelope["body"])))
    envelope["body"] = base64.b64encode(json.dumps(body).encode()).decode()
    return json.dumps(envelope)


def check_canvas(world: World, canvas: Canvas, seed: int) -> bool:
    """False: Celery cannot send it."""
    world.forget()
    chances = random.Random(seed)
    failures, swaps = chances.choice([0.0, 0.05, 0.2]), chances.choice([0.0, 0.05])
    text = json.dumps(Canvases(world.tasks, seed, failures, swaps).canvas(seed % 5))
    try:
        want = world.send(signature(json.loads(text), app=world.app).apply_async)
    except AttributeError:
        return False
    got = canvas.ask(op="apply", value=json.loads(text))
    if got["code"]:
        raise DifferenceError(got["error"])
    want.messages = [(queue, _with_errbacks_once(raw)) for queue, raw in want.messages]
    got["messages"] = [[q, p, _with_errbacks_once(raw)] for q, p, raw in got["messages"]]
    m = Matcher(text)
    compare_messages(m, want, got)
    compare_starts(m, want, got)
    return True


@cache
def _world() -> World:
    """One in a process: it changes Celery's modules."""
    return World()


def check_canvases(program: Path, seeds: range) -> int:
    """How many of them Celery can send. For a process of its own."""
    world, canvas = _world(), Canvas(program)
    sent = 0
    try:
        for seed in seeds:
            try:
                sent += check_canvas(world, canvas, seed)
            except AssertionError as e:
                raise AssertionError(f"canvas {seed}: {e}") from None
    finally:
        canvas.close()
    return sent
