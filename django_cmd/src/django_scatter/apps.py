# SPDX-License-Identifier: Apache-2.0
"""The Django app: add "django_scatter" to INSTALLED_APPS."""

from __future__ import annotations

from django.apps import AppConfig


class ScatterConfig(AppConfig):
    name = "django_scatter"
    verbose_name = "Scatter"
    default_auto_field = "django.db.models.BigAutoField"
