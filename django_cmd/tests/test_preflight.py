# SPDX-License-Identifier: Apache-2.0
"""scatter_plan --dry-run of a migration in Python, and scatter_audit, with the real scatter-plan."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import transaction
from migrations import Plan, Renumber, execute, one
from scatter_test_app.models import Parcel

from django_scatter import migration
from django_scatter.migration import Migration, Record, Skip
from servers import Redis

BUILD = Path(__file__).resolve().parent.parent.parent / "build"
SOURCES = (
    ("--query", "SELECT id, phone FROM parcel"),
    ("--queryset", "queries:all_parcels"),
)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def real_planner(
    settings_of: dict[str, Any], redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    settings_of["BROKER"] = redis.url()
    settings_of["BINARY"] = BUILD / "scatter-plan"
    monkeypatch.setitem(migration._registered, "tests.renumber", Renumber())


def dry_run(*source: str) -> str:
    out = io.StringIO()
    call_command("scatter_plan", "--migration", "tests.renumber", *source, "--dry-run",
                 stdout=out, stderr=io.StringIO())  # fmt: skip
    return out.getvalue()


def fill() -> None:
    """100 to change, 20 of them too long for their column, 10 that raise, 5 to skip, 5 as they are."""
    phones = ["raise"] * 10 + ["skip"] * 5 + ["+84901"] * 5 + ["long"] * 20
    phones += [f"09{n:05}" for n in range(80)]
    Parcel.objects.bulk_create(Parcel(id=i, phone=p) for i, p in enumerate(phones, 1))


@pytest.mark.parametrize("source", SOURCES)
def test_python_migration_is_rehearsed(database: str, source: tuple[str, str]) -> None:
    fill()
    text = dry_run(*source)
    for line in ("changed   100", "unchanged 5", "skipped   5", "failed    10"):
        assert line in text
    assert "error    LookupError: 10 records, such as: no such operator: raise" in text
    if database == "postgresql":
        assert "error    StringDataRightTruncation 22001: 20 records (at most 28, 95 %)" in text
        assert "forecast 80 rows" in text
        assert "ok       triggers: no trigger fires" in text
        assert (
            '{"key": "41", "before": {"phone": "0900000"}, "after": {"phone": "+84900000"}}' in text
        )
    else:
        assert '{"key": "21", "before": {"phone": "long"}' in text
    assert "ok       key:" in text
    assert Parcel.objects.filter(phone__startswith="+84").count() == 5
    assert one("SELECT count(*) FROM scatter_plan") == 0


def test_collisions_block(database: str) -> None:
    fill()
    Parcel.objects.filter(phone="long").delete()
    execute("UPDATE parcel SET phone = 'x' || id WHERE id <= 20")
    execute("CREATE UNIQUE INDEX one_phone ON parcel (phone)")
    execute("UPDATE parcel SET phone = '+84900007' WHERE id = 3")
    with pytest.raises(CommandError, match="would not end well: collisions") as e:
        dry_run("--query", "SELECT id, phone FROM parcel WHERE id > 20")
    assert e.value.returncode == 3


class Book(Migration):
    """Marks a parcel by a statement of its own; what a phone says decides what happens."""

    name = "tests.book"
    table = "parcel"
    reads = ("phone",)

    def process_row(self, record: Record, cursor: Any) -> Skip | None:
        cursor.execute(
            "UPDATE parcel SET phone = %s WHERE id = %s", ["+" + record["phone"], record.key]
        )
        if record["phone"] == "raise":
            raise LookupError("no such operator")
        if record["phone"] == "skip":
            return Skip("told to")
        if record["phone"] == "long":
            with transaction.atomic():
                Parcel.objects.filter(id=record.key).update(phone=None, id=1)
        return None


class Tell(Migration):
    name = "tests.tell"
    table = "parcel"
    reads = ("phone",)

    def process_external(self, record: Record) -> None:
        raise AssertionError("no call is to be made")


@pytest.mark.parametrize("source", SOURCES)
def test_statements_of_its_own_are_rehearsed(
    database: str, source: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(migration._registered, "tests.renumber", Book())
    fill()
    before = list(Parcel.objects.order_by("id").values_list("id", "phone"))
    text = dry_run(*source)
    for line in (
        "changed   about 85",
        "unchanged about 0",
        "skipped   about 5",
        "failed    about 30",
    ):
        assert line in text
    assert "error    LookupError: 10 records (at most " in text
    assert "error    UniqueViolation 23505: 20 records (at most " in text
    assert "forecast 85 rows" in text
    assert '{"key": "16", "before": {"phone": "+84901"}, "after": {"phone": "++84901"}}' in text
    if database == "postgresql":
        assert "WAL 0 B" not in text
    assert list(Parcel.objects.order_by("id").values_list("id", "phone")) == before


def test_a_statement_that_never_runs_is_told(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(Book):
        def process_row(self, record: Record, cursor: Any) -> Skip | None:
            cursor.execute("UPDATE nowhere SET x = 1")
            return None

    monkeypatch.setitem(migration._registered, "tests.renumber", Lost())
    fill()
    with pytest.raises(CommandError, match=r"fails for every record.*nowhere"):
        dry_run("--query", "SELECT id, phone FROM parcel")


def test_calls_to_the_outside_are_not_made(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(migration._registered, "tests.renumber", Tell())
    fill()
    text = dry_run("--query", "SELECT id, phone FROM parcel")
    assert "warn     calls: tests.renumber has its effect outside of the database" in text
    assert "none of its 120 calls was made" in text


def test_audit(database: str, tmp_path: Path) -> None:
    fill()
    rows = [[p.pk, p.phone] for p in Parcel.objects.order_by("id")]
    plan = Plan(tmp_path, rows, Renumber())
    plan.control().ensure_schema()
    plan.run()
    execute("UPDATE scatter_plan SET state = 'running'")
    for _ in range(2):  # the breaker has paused it
        execute("UPDATE scatter_plan SET max_failure_rate = 1, state = 'running'")
        plan.run()
    out = io.StringIO()
    call_command("scatter_audit", "plan-1", "--files", stdout=out)
    assert "it adds up" in out.getvalue()
    assert "120 planned = " in out.getvalue()
    execute("DELETE FROM scatter_outcome WHERE position = 0")
    with pytest.raises(CommandError, match="does not add up") as e:
        call_command("scatter_audit", "plan-1", stdout=out)
    assert e.value.returncode == 3
    assert "quarantined records that are listed" in out.getvalue()
