# SPDX-License-Identifier: Apache-2.0
"""A table to migrate, with a column of each kind that has its own text form."""

from __future__ import annotations

from django.db import models


class Parcel(models.Model):
    phone = models.CharField(max_length=20, null=True)
    weight = models.DecimalField(max_digits=8, decimal_places=2, null=True)
    sent_at = models.DateTimeField(null=True)
    fragile = models.BooleanField(default=False)
    pieces = models.IntegerField(default=1)

    class Meta:
        db_table = "parcel"


class Shipment(models.Model):
    """Its key is a text."""

    code = models.CharField(primary_key=True, max_length=40)
    phone = models.CharField(max_length=20, null=True)

    class Meta:
        db_table = "shipment"


class Line(models.Model):
    """Its key has two columns."""

    pk = models.CompositePrimaryKey("shop", "number")
    shop = models.CharField(max_length=40)
    number = models.IntegerField()
    phone = models.CharField(max_length=20, null=True)

    class Meta:
        db_table = "line"
