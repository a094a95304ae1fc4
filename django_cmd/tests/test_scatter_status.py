# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from migrations import Plan, Renumber, execute
from scatter_test_app.models import Parcel

from django_scatter.status import Counts

PHONES = ["0901", "0902", "+84903", "skip", "raise it"]


def scatter_status(*arguments: str) -> str:
    out = io.StringIO()
    call_command("scatter_status", *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue()


@pytest.fixture
def plan(database: str, tmp_path: Path) -> str:
    Parcel.objects.bulk_create(Parcel(id=i, phone=p) for i, p in enumerate(PHONES, 1))
    Plan(tmp_path, [[i, p] for i, p in enumerate(PHONES, 1)], Renumber()).run()
    return "plan-1"


def test_text(plan: str) -> None:
    text = scatter_status(plan)
    assert "plan plan-1: tests.renumber on parcel, finished" in text
    assert (
        "5 planned = 2 ok + 1 unchanged + 0 stale + 1 skipped + 1 quarantined + 0 remaining: "
        "every record is accounted for" in text
    )
    assert "batches: 1 done of 1" in text
    assert "w1@test        5  100.0%" in text
    assert "1  quarantined  LookupError            no such operator: raise it  5" in text
    assert "1  skipped                             told to skip 4              4" in text


def test_json(plan: str) -> None:
    found = json.loads(scatter_status(plan, "--format", "json", "--failures", "1"))
    assert found["counts"] == {
        "planned": 5, "ok": 2, "unchanged": 1, "stale": 0, "skipped": 1, "quarantined": 1,
        "remaining": 0,
    }  # fmt: skip
    assert found["invariant_holds"] is True
    assert found["workers"] == {"w1@test": 5}
    assert found["batches"] == {"done": 1}
    assert found["n_failures"] == 2
    assert len(found["failures"]) == 1
    assert found["started_at"].endswith(("Z", "+00:00"))
    assert found["seconds"] >= 0


def test_failures_are_limited_and_the_rest_told(plan: str) -> None:
    assert "... and 1 more for other reasons" in scatter_status(plan, "--failures", "1")


def test_list_of_plans(plan: str) -> None:
    text = scatter_status()
    assert text.splitlines()[0].split() == [
        "plan",
        "migration",
        "state",
        "planned",
        "remaining",
        "created",
    ]
    assert text.splitlines()[1].split()[:5] == ["plan-1", "tests.renumber", "finished", "5", "0"]
    assert [p["plan"] for p in json.loads(scatter_status("--format", "json"))] == ["plan-1"]


def test_error_of_a_batch_is_shown(plan: str) -> None:
    execute("UPDATE scatter_batch SET state = 'failed', error = 'FileNotFoundError: gone'")
    assert "FileNotFoundError: gone" in scatter_status(plan)


def test_watch_ends_with_the_plan(plan: str) -> None:
    assert "finished" in scatter_status(plan, "--watch")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "has no plan 'nothing'"),
        (["--watch"], "needs the id of a plan"),
        (["--database", "other"], "DATABASES has no 'other'"),
    ],
)
def test_mistakes_are_named(database: str, arguments: list[str], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        scatter_status(*arguments)


def test_database_without_tables(database: str) -> None:
    for table in ("governor", "outbox", "event", "share", "outcome", "batch", "plan"):
        execute(f"DROP TABLE scatter_{table}")
    with pytest.raises(CommandError, match=r"has no plans: .* migrate django_scatter"):
        scatter_status()


@pytest.mark.parametrize(
    ("counts", "holds"),
    [
        ({"planned": 3, "ok": 1, "stale": 1, "remaining": 1}, True),
        ({"planned": 3, "ok": 1, "remaining": 1}, False),
        ({"planned": 3, "ok": -1, "skipped": 4}, False),
    ],
)
def test_invariant(counts: dict[str, Any], holds: bool) -> None:
    assert Counts(**counts).holds is holds
