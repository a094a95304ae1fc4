# SPDX-License-Identifier: Apache-2.0
"""What people ask of plans that are there: scatter-plan pause, resume, cancel, drain, set, sweep, governor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django_scatter import planner

VERBS = ("pause", "resume", "cancel", "drain", "set")


def control(
    verb: str, plan: str, database: str, words: Sequence[str] = (), reason: str | None = None
) -> dict[str, Any]:
    argv = [verb, plan, *words, "--database", database, "--format", "json"]
    argv += ["--created-by", planner.created_by()]
    if reason:
        argv += ["--reason", reason]
    return planner.run(argv, database, None, None)


def sweep(database: str, after: int | None = None) -> dict[str, Any]:
    argv = ["sweep", "--database", database, "--format", "json"]
    if after is not None:
        argv += ["--after", str(after)]
    return planner.run(argv, database, None, None)


def governor(words: Sequence[str], database: str) -> dict[str, Any]:
    return planner.run(
        ["governor", *words, "--database", database, "--format", "json"], database, None, None
    )
