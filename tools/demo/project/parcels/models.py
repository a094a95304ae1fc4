# SPDX-License-Identifier: Apache-2.0
"""What the demo migrates. `changes` is counted up by a trigger at every update of a row: it proves that each record was
changed exactly once, whatever happened to the workers."""

from __future__ import annotations

from django.db import models


class Parcel(models.Model):
    phone = models.CharField(max_length=40, null=True)
    recipient = models.CharField(max_length=60)
    changes = models.IntegerField(default=0)

    class Meta:
        db_table = "parcel"


class Flight(models.Model):
    year = models.IntegerField()
    month = models.IntegerField()
    day = models.IntegerField()
    sched_dep_time = models.IntegerField()
    dep_time = models.IntegerField(null=True)
    carrier = models.CharField(max_length=2)
    flight = models.IntegerField()
    origin = models.CharField(max_length=3)
    time_hour = models.DateTimeField()
    departure_utc = models.DateTimeField(null=True)
    changes = models.IntegerField(default=0)

    class Meta:
        db_table = "flight"
