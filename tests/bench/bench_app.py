# SPDX-License-Identifier: Apache-2.0
"""The task of the benchmark for Celery; its C twin is examples.add of the example plug-in."""

from __future__ import annotations

from celery import Celery

app = Celery("bench_app")


@app.task(name="examples.add")
def add(a: int, b: int) -> int:
    return a + b
