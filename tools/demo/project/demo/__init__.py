# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from demo.celery import app

__all__ = ["app"]
