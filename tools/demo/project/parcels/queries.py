# SPDX-License-Identifier: Apache-2.0
"""What `scatter_plan --queryset parcels.queries:...` can name."""

from __future__ import annotations

from django.db.models import QuerySet

from parcels.models import Flight, Parcel


def all_parcels() -> QuerySet[Parcel]:
    return Parcel.objects.all()


def all_flights() -> QuerySet[Flight]:
    return Flight.objects.all()
