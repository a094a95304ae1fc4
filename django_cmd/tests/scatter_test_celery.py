# SPDX-License-Identifier: Apache-2.0
"""A Celery worker's application that has the bundled migration's twin in Python."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "scatter_test_settings")

import django
from celery import Celery

django.setup()

from django_scatter.migration import Change, Migration, Record, register

app = Celery("scatter_test_celery")


@register
class Renumber(Migration):
    name = "phones.vn_renumber"
    table = "parcel"
    reads = ("phone",)
    writes = ("phone",)

    def process(self, record: Record) -> Change:
        return {"phone": "033" + record["phone"][4:]}
