# SPDX-License-Identifier: Apache-2.0
"""Settings of the demo project. Where its servers are comes from the environment (tools/demo/run.py sets it)."""

from __future__ import annotations

import os
from urllib.parse import parse_qs, unquote, urlsplit

SECRET_KEY = "only for the demo"
INSTALLED_APPS = ["django_scatter", "parcels"]
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

_database = urlsplit(os.environ.get("DEMO_DATABASE", "sqlite:///demo.sqlite3"))
if _database.scheme == "sqlite":
    DATABASES = {
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": unquote(_database.path)}
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _database.path.lstrip("/"),
            "USER": _database.username or "",
            "PASSWORD": _database.password or "",
            "HOST": _database.hostname or parse_qs(_database.query).get("host", [""])[0],
            "PORT": str(_database.port or ""),
        }
    }

CELERY_BROKER_URL = os.environ.get("DEMO_BROKER", "redis://localhost/0")
CELERY_TASK_DEFAULT_QUEUE = "parcels"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True

SCATTER = {
    "STORE": os.environ.get("DEMO_STORE", "file:///var/tmp/scatter-demo"),
    "QUEUE": CELERY_TASK_DEFAULT_QUEUE,
    "PLUGINS": [p for p in os.environ.get("DEMO_PLUGINS", "").split(":") if p],
}
if os.environ.get("DEMO_PLANNER"):
    SCATTER["BINARY"] = os.environ["DEMO_PLANNER"]
