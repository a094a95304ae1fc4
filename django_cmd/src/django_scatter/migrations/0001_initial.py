# SPDX-License-Identifier: Apache-2.0
"""Makes the control tables; scatter-plan makes the same ones when they are missing, in either order."""

from __future__ import annotations

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from django_scatter.schema import VENDORS, schema_sql

TABLES = (
    "scatter_governor",
    "scatter_outbox",
    "scatter_event",
    "scatter_share",
    "scatter_outcome",
    "scatter_batch",
    "scatter_plan",
)


def create(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    if editor.connection.vendor in VENDORS:
        for statement in editor.connection.ops.prepare_sql_script(
            schema_sql(editor.connection.vendor)
        ):
            editor.execute(statement, params=None)


def drop(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    if editor.connection.vendor in VENDORS:
        for table in TABLES:
            editor.execute(f"DROP TABLE IF EXISTS {table}", params=None)


class Migration(migrations.Migration):
    initial = True
    operations = [migrations.RunPython(create, drop)]
