# SPDX-License-Identifier: Apache-2.0
"""A Celery app with one task that no C plug-in has, and without those that they have; it passes on what it does not know.

Runs under Celery 5.7 and Debian's 5.2, so it imports nothing from here.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from celery import Celery

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "django_cmd" / "src"))

from django_scatter.forwarding import forward_unknown_tasks

app = Celery("forward_app")
app.conf.update(json.loads(os.environ.get("INTEROP_SETTINGS", "{}")))
if os.environ.get("FORWARD", "1") == "1":
    forward_unknown_tasks(app)


@app.task(name="python.only")
def only(value: object) -> object:
    return value
