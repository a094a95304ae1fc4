# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from django.apps import AppConfig


class ParcelsConfig(AppConfig):
    name = "parcels"

    def ready(self) -> None:
        # Registers the migrations that are written in Python, for scatter_plan and for Celery workers alike.
        from parcels import tasks  # noqa: F401
