# SPDX-License-Identifier: Apache-2.0
"""canvas against Celery, step by step and value by value: Celery runs random canvases in memory; every message that it
runs, and every chord that it completes, is given to canvas as well, which must send, store and count the same.

The places where canvas does more than Celery are in canvas_compare.compare_ends: members of a group that will not run
are failed one by one, where Celery counts the group as one part and the chord around it waits for ever."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from harness.canvas_applied import check_canvases
from harness.canvas_compare import Canvas, compare_step
from harness.canvas_random import Canvases
from harness.canvas_world import World
from harness.workers import BUILD

PLACES = ["obj/tests/canvas/canvas_oracle", "tests/canvas/canvas_oracle"]
MAX_STEPS = 300
CHUNK = 250

pytestmark = pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning")


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def program() -> Path:
    found = next((BUILD / p for p in PLACES if (BUILD / p).exists()), None)
    assert found, f"none of {PLACES} in {BUILD}: build the tests first"
    return found


@pytest.fixture(scope="module")
def canvas(program: Path) -> Iterator[Canvas]:
    made = Canvas(program)
    yield made
    made.close()


def run(world: World, canvas: Canvas, canvases: Canvases, depth: int) -> int:
    """Sends one canvas and runs it to its end; the number of steps."""
    world.forget()
    signature = canvases.canvas(depth)
    try:
        world.send(signature.apply_async)
    except AttributeError:
        return 0  # Celery cannot send a chain of nothing but empty parts
    for n in range(MAX_STEPS):
        if not world.queue:
            return n
        compare_step(canvas, world.step())
    return MAX_STEPS


@pytest.mark.parametrize(
    ("seeds", "depth", "failures", "swaps"),
    [
        (range(200), 2, 0.0, 0.0),
        (range(1000, 1200), 3, 0.1, 0.0),
        (range(2000, 2040), 4, 0.05, 0.0),
        (range(3000, 3120), 2, 0.05, 0.15),
    ],
    ids=["successes", "failures", "deep", "replaced"],
)
def test_random_canvases(
    world: World, canvas: Canvas, seeds: range, depth: int, failures: float, swaps: float
) -> None:
    steps = 0
    for seed in seeds:
        canvases = Canvases(world.tasks, seed, failures, swaps)
        try:
            steps += run(world, canvas, canvases, depth)
        except AssertionError as e:
            e.add_note(f"canvas {seed} of depth {depth}")
            raise
    assert steps > len(seeds)


@pytest.mark.timeout(7200)
def test_applied_canvases(program: Path) -> None:
    """Whatever Celery makes is read and sent as Celery sends it; CANVASES of them (`make properties`: 100,000)."""
    n = int(os.environ.get("CANVASES", "1000"))
    chunks = [range(10_000 + i, 10_000 + min(i + CHUNK, n)) for i in range(0, n, CHUNK)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        sent = sum(pool.map(partial(check_canvases, program), chunks))
    print(f"{sent} canvases, {n - sent} that Celery cannot send")
    assert sent > 0.99 * n
