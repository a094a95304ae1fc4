# SPDX-License-Identifier: Apache-2.0
"""What the tests name with --queryset."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from scatter_test_app.models import Line, Parcel, Shipment

not_callable = Parcel.objects.filter(fragile=True)


def all_parcels() -> QuerySet[Parcel]:
    return Parcel.objects.order_by("-phone")


def shipments() -> QuerySet[Shipment]:
    return Shipment.objects.order_by("-phone")


def lines() -> QuerySet[Line]:
    return Line.objects.order_by("-phone")


def a_list() -> list[Any]:
    return []
