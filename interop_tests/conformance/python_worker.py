# SPDX-License-Identifier: Apache-2.0
"""The Python worker of the suite: its own tasks, with the few settings that it gives a worker in its own process."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from celery import Celery
from celery.worker import state as worker_state
from celery.worker.control import control_command

app = Celery("conformance", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(
    result_extended=True,
    accept_content=["json"],
    enable_utc=True,  # as is the default; `inspect conf` shows what was set
    timezone="UTC",
    worker_hijack_root_logger=False,
    worker_log_color=False,
    broker_heartbeat=0,
    broker_connection_retry_on_startup=True,
    include=["t.integration.tasks"],
)
app.set_default()
app.set_current()


@control_command(visible=False)
def forget_stamps(state: Any, **kwargs: Any) -> dict[str, str]:
    """celeryc's command; Celery has none, its tests reach into the worker."""
    worker_state.revoked_stamps.clear()
    return {"ok": "revoked stamps forgotten"}


if __name__ == "__main__":
    tasks = importlib.import_module("t.integration.tasks")
    app.register_task(tasks.ClassBasedAutoRetryTask())
    app.worker_main(["worker", *sys.argv[1:]])
