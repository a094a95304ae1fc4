# SPDX-License-Identifier: Apache-2.0
"""Django settings for mypy's plugin: the models of the tests and of the demo are both known."""

from __future__ import annotations

SECRET_KEY = "type checks only"
INSTALLED_APPS = ["django_scatter", "scatter_test_app", "parcels"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
