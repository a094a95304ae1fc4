# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

POSTGRESQL = """
CREATE FUNCTION count_change() RETURNS trigger LANGUAGE plpgsql
AS 'BEGIN NEW.changes := OLD.changes + 1; RETURN NEW; END';
CREATE TRIGGER parcel_changes BEFORE UPDATE ON parcel FOR EACH ROW EXECUTE FUNCTION count_change();
CREATE TRIGGER flight_changes BEFORE UPDATE ON flight FOR EACH ROW EXECUTE FUNCTION count_change();
"""
SQLITE = (
    "CREATE TRIGGER parcel_changes AFTER UPDATE OF phone ON parcel "
    "BEGIN UPDATE parcel SET changes = changes + 1 WHERE id = NEW.id; END",
    "CREATE TRIGGER flight_changes AFTER UPDATE OF departure_utc ON flight "
    "BEGIN UPDATE flight SET changes = changes + 1 WHERE id = NEW.id; END",
)


def add_triggers(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    statements = [POSTGRESQL] if editor.connection.vendor == "postgresql" else SQLITE
    for statement in statements:
        editor.execute(statement, params=None)


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Parcel",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("phone", models.CharField(max_length=40, null=True)),
                ("recipient", models.CharField(max_length=60)),
                ("changes", models.IntegerField(default=0)),
            ],
            {"db_table": "parcel"},
        ),
        migrations.CreateModel(
            "Flight",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("year", models.IntegerField()),
                ("month", models.IntegerField()),
                ("day", models.IntegerField()),
                ("sched_dep_time", models.IntegerField()),
                ("dep_time", models.IntegerField(null=True)),
                ("carrier", models.CharField(max_length=2)),
                ("flight", models.IntegerField()),
                ("origin", models.CharField(max_length=3)),
                ("time_hour", models.DateTimeField()),
                ("departure_utc", models.DateTimeField(null=True)),
                ("changes", models.IntegerField(default=0)),
            ],
            {"db_table": "flight"},
        ),
        migrations.RunPython(add_triggers, migrations.RunPython.noop),
    ]
