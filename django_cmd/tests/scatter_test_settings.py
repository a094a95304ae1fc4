# SPDX-License-Identifier: Apache-2.0
"""Settings of the tests; files and servers are put in by the fixtures, of a worker by its environment."""

from __future__ import annotations

import json
import os

SECRET_KEY = "tests only"
INSTALLED_APPS = ["django_scatter", "scatter_test_app"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "unset.sqlite3",
        **json.loads(os.environ.get("SCATTER_TEST_DATABASE", "{}")),
    }
}
SCATTER = {"STORE": "file:///nonexistent/store", "BROKER": "redis://localhost:1/0"}
