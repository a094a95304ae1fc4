# SPDX-License-Identifier: Apache-2.0
"""Settings of the tests; files and servers are put in by the fixtures."""

from __future__ import annotations

import os

SECRET_KEY = "tests only"
INSTALLED_APPS = ["django_scatter", "scatter_test_app"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SCATTER_TEST_SQLITE", "unset.sqlite3"),
    }
}
SCATTER = {"STORE": "file:///nonexistent/store", "BROKER": "redis://localhost:1/0"}
