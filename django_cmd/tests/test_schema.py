# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection

from django_scatter.schema import VENDORS, schema_text
from django_scatter.status import require_tables

SOURCE = Path(__file__).resolve().parent.parent.parent / "planner" / "schema"


@pytest.mark.parametrize(
    "name", [*(f"{v}.sql" for v in VENDORS), "audit.sql", "pieces.sql", "errors.txt"]
)
def test_copies_are_the_planners_files(name: str) -> None:
    """One source of truth: cp planner/schema/*.{sql,txt} django_cmd/src/django_scatter/schema/ when this fails."""
    assert schema_text(name) == (SOURCE / name).read_text(encoding="utf-8")


def test_migration_goes_back_and_forth(database: str) -> None:
    call_command("migrate", "django_scatter", "zero", verbosity=0)
    assert "scatter_plan" not in connection.introspection.table_names()
    call_command("migrate", "django_scatter", verbosity=0)
    require_tables("default")


def test_migration_accepts_the_planners_tables(database: str) -> None:
    """Whoever comes first makes them."""
    call_command("migrate", "django_scatter", "zero", "--fake", verbosity=0)
    call_command("migrate", "django_scatter", verbosity=0)
    require_tables("default")


def test_nothing_is_left_to_migrate(database: str) -> None:
    call_command("makemigrations", "django_scatter", "--check", "--dry-run", verbosity=0)
