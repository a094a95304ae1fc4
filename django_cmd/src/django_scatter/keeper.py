# SPDX-License-Identifier: Apache-2.0
"""What a Celery worker does beside its tasks: it keeps a `scatter-plan sweep --every` running, which sends again what a
lost Redis has lost, opens and closes maintenance windows, and is the governor when it is elected; and it lets a warm
shutdown give batches back at their next chunk. celeryc does the same (celeryc/worker/keeper.c).

SCATTER_SWEEP in the environment says how often ("30s", the default; "0": never).
"""

from __future__ import annotations

import logging
import os
import subprocess
from typing import Any

from celery.signals import worker_ready, worker_shutdown, worker_shutting_down

from django_scatter import conf, planner, runtime
from django_scatter.binary import find_binary
from django_scatter.errors import ScatterError

logger = logging.getLogger("django_scatter")

_running: list[subprocess.Popen[bytes]] = []


def keeper_arguments(alias: str, seconds: int) -> list[str]:
    text = str(seconds)
    return [find_binary(), "sweep", "--database", alias, "--every", text, "--after", text,
            "--attached", *planner.prefix_arguments("sweep")]  # fmt: skip


@worker_ready.connect
def start(**_kwargs: Any) -> None:
    """One for each database that this project migrates; without the program a cron job has to sweep."""
    seconds = conf.sweep_seconds()
    if not seconds:
        return
    for alias in conf.sweep_databases():
        try:
            process = subprocess.Popen(
                keeper_arguments(alias, seconds),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=conf.planner_environment(alias),
            )
        except (ScatterError, OSError) as e:
            logger.warning("no sweep of database %s by this worker: %s", alias, e)
        else:
            _running.append(process)


@worker_shutting_down.connect
def let_go(**_kwargs: Any) -> None:
    runtime.stop_soon()


@worker_shutdown.connect
def stop(**_kwargs: Any) -> None:
    """Also without this the process ends by itself, when its parent is gone."""
    while _running:
        process = _running.pop()
        if process.poll() is None and os.getpid() != process.pid:
            process.terminate()
