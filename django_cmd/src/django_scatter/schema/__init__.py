# SPDX-License-Identifier: Apache-2.0
"""The control tables' SQL, one file per dialect, and what else the planner and the workers share: copies of
planner/schema (a test holds them equal)."""

from __future__ import annotations

from importlib.resources import files

VENDORS = ("postgresql", "sqlite")


def schema_sql(vendor: str) -> str:
    """The file for a Django connection's vendor."""
    return schema_text(f"{vendor}.sql")


def schema_text(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
