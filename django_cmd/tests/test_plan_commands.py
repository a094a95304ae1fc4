# SPDX-License-Identifier: Apache-2.0
"""The commands on a plan that is there, with the real scatter-plan and a celeryc."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from migrations import Plan, Renumber, execute, one
from scatter_test_app.models import Parcel
from test_end_to_end import (
    BUILD,
    QUEUE,
    StartCeleryc,
    broker,
    celeryc,
    fill,
    redis,
    scatter_plan,
    until,
)

from django_scatter import migration
from django_scatter.migration import Inverse, Migration, Record, Skip
from django_scatter.runtime import run_batch
from django_scatter.status import query, read_status
from servers import Redis

__all__ = ["broker", "celeryc", "redis"]  # fixtures


def run(command: str, *words: str) -> str:
    out = io.StringIO()
    call_command(command, *words, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def over(plan: str) -> None:
    until(f"the end of {plan}", lambda: read_status("default", plan).state == "finished")


def test_a_migration_in_python_is_undone_by_celeryc(
    database: str, celeryc: StartCeleryc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phones = ["0901", "0902", "+84", "raise", "skip", "0903"]
    Parcel.objects.bulk_create(Parcel(id=i, phone=p) for i, p in enumerate(phones, 1))
    Plan(tmp_path, [[i, p] for i, p in enumerate(phones, 1)], Renumber()).run()
    monkeypatch.setitem(migration._registered, "tests.renumber", Renumber())
    Parcel.objects.filter(id=2).update(phone="by the application")
    celeryc()
    out = run("scatter_undo", "plan-1", "--as", "undo-1", "--queue", QUEUE)
    assert "plan undo-1: 3 records, 1 batches, 1 messages sent" in out
    over("undo-1")
    now = list(Parcel.objects.order_by("id").values_list("phone", flat=True))
    assert now == ["0901", "by the application", "+84", "raise", "skip", "0903"]
    found = read_status("default", "undo-1")
    assert (found.kind, found.parent, found.counts.ok, found.counts.stale) == (
        "undo", "plan-1", 2, 1,
    )  # fmt: skip
    assert ("undo-1", "undo", "finished") in read_status("default", "plan-1").children


class Checked(Renumber):
    """Renumber, with an opinion on what it has done."""

    def check(self, record: Record, now: Record) -> str | None:
        phone = now["phone"]
        if phone is None:
            raise LookupError("no phone")
        old = record["phone"]
        good = phone == ("+84" + old[1:] if old.startswith("0") else old)
        return None if good else f"{old} became {phone}"


def test_a_check_function_in_python(
    database: str, celeryc: StartCeleryc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phones = ["0901", "0902", "+84", "raise", "skip", "0903"]
    Parcel.objects.bulk_create(Parcel(id=i, phone=p) for i, p in enumerate(phones, 1))
    Plan(tmp_path, [[i, p] for i, p in enumerate(phones, 1)], Renumber()).run()
    monkeypatch.setitem(migration._registered, "tests.renumber", Checked())
    text = run("scatter_verify", "plan-1")
    assert "0 of 4 records checked by the migration are not as they should be, 0 are gone" in text
    assert "plan plan-1 holds" in text
    Parcel.objects.filter(id=1).update(phone="by hand")
    Parcel.objects.filter(id=2).update(phone=None)
    Parcel.objects.filter(id=3).delete()
    # What still matches the query is no residue where the function judges.
    execute("UPDATE scatter_plan SET query = 'SELECT id, phone FROM parcel'")
    Parcel.objects.create(id=9, phone="0909")
    out = io.StringIO()
    with pytest.raises(CommandError, match="does not hold") as raised:
        call_command("scatter_verify", "plan-1", stdout=out, stderr=io.StringIO())
    assert raised.value.returncode == 3
    text = out.getvalue()
    assert "2 of 4 records checked by the migration are not as they should be, 1 are gone" in text
    assert "  1: 0901 became by hand" in text
    assert "  2: LookupError: no phone" in text
    assert "1 records match that were not there when the plan was made: 9" in text
    kept = json.loads(one("SELECT verification FROM scatter_plan"))
    assert (kept["ok"], kept["function"]["failed_keys"]) == (False, ["1", "2"])
    assert kept["residue"]["judged_by"] == "check"
    Parcel.objects.filter(id__in=(1, 2)).update(phone="+84901")
    Parcel.objects.filter(id=2).update(phone="+84902")
    assert "plan plan-1 holds" in run("scatter_verify", "plan-1", "--sample", "2")


class Mark(Renumber):
    """Marks a phone by a statement of its own, and takes the mark away again."""

    name = "tests.mark"
    process = Migration.process

    def process_row(self, record: Record, cursor: Any) -> Skip | None:
        marked = [f"*{record['phone']}", record.key]
        cursor.execute("UPDATE parcel SET phone = %s WHERE id = %s", marked)
        return None

    def undo_row(self, record: Record, cursor: Any) -> Skip | None:
        found = [record["phone"], record.key, f"*{record['phone']}"]
        cursor.execute("UPDATE parcel SET phone = %s WHERE id = %s AND phone = %s", found)
        return None if cursor.rowcount else Skip("changed since")


def test_an_inverse_in_python(
    database: str, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    settings_of: dict[str, Any],
) -> None:  # fmt: skip
    (tmp_path / "store").mkdir()
    settings_of["BROKER"] = redis.url()
    settings_of["BINARY"] = BUILD / "scatter-plan"
    mark = Mark()
    phones = ["0901", "0902", "0903"]
    Parcel.objects.bulk_create(Parcel(id=i, phone=p) for i, p in enumerate(phones, 1))
    Plan(tmp_path, [[i, p] for i, p in enumerate(phones, 1)], mark).run()
    assert Parcel.objects.get(id=1).phone == "*0901"
    Parcel.objects.filter(id=2).update(phone="by hand")
    monkeypatch.setitem(migration._registered, "tests.mark", mark)
    monkeypatch.setitem(migration._registered, "tests.mark.undo", Inverse(mark))
    out = run("scatter_undo", "plan-1", "--as", "undo-1")
    assert "plan undo-1: 3 records, 1 batches, 1 messages sent" in out
    assert one("SELECT migration FROM scatter_plan WHERE plan = 'undo-1'") == "tests.mark.undo"
    [(source, sha256)] = query(
        "default", "SELECT source, sha256 FROM scatter_batch WHERE plan = 'undo-1'"
    )
    undo = Plan(tmp_path, [], mark)
    request = undo.request(plan="undo-1", source=source, sha256=sha256)
    run_batch(Inverse(mark), request, undo.control())
    now = list(Parcel.objects.order_by("id").values_list("phone", flat=True))
    assert now == ["0901", "by hand", "0903"]
    found = read_status("default", "undo-1")
    assert (found.counts.ok, found.counts.skipped, found.counts.stale) == (2, 1, 0)
    with pytest.raises(CommandError, match="undo by the migration's own inverse"):
        run("scatter_undo", "undo-1")


def test_redrive_verify_and_report(database: str, celeryc: StartCeleryc, tmp_path: Path) -> None:
    fill(200)
    celeryc()
    scatter_plan("--query", "SELECT id, phone FROM parcel", "--plan", "p1", "--watch")
    manifest = tmp_path / "store/p1/report/manifest.json"
    assert manifest.exists(), "whoever watches a plan to its end writes its report"
    execute(
        "INSERT INTO scatter_outcome (plan, batch, position, record_key, outcome, error_class) "
        "VALUES ('p1', 1, 4, '5', 'quarantined', 'ValueError')"
    )
    execute("UPDATE scatter_batch SET quarantined = 1 WHERE plan = 'p1'")
    Parcel.objects.filter(id=5).update(phone="01630000005")
    assert "1 records" in run("scatter_redrive", "p1", "--class", "ValueError", "--dry-run")
    run("scatter_redrive", "p1", "--class", "ValueError", "--as", "p2")
    over("p2")
    assert one("SELECT resolved_by FROM scatter_outcome") == "p2"
    assert "set aside: 1, resolved: 1, open: 0" in run("scatter_status", "p1")
    assert "0 records" in run("scatter_redrive", "p1")

    assert "plan p1 holds" in run("scatter_verify", "p1", "--check", "phone LIKE '033%'")
    Parcel.objects.filter(id=7).update(phone="0163 0000007")
    with pytest.raises(CommandError, match="does not hold") as raised:
        run("scatter_verify", "p1", "--check", "phone LIKE '033%'")
    assert raised.value.returncode == 3
    assert "verified: IT DOES NOT HOLD" in run("scatter_status", "p1")
    assert "report.html" in run("scatter_report", "p1")
    with pytest.raises(CommandError, match="there is no plan p9"):
        run("scatter_report", "p9")
