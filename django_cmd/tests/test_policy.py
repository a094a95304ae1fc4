# SPDX-License-Identifier: Apache-2.0
"""What becomes of failures: the plan's answers, limits, breaker, canary and audit, as celeryc does them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from migrations import Plan, Renumber, execute, one
from scatter_test_app.models import Parcel

from django_scatter import bisect, limits, policy
from django_scatter.chunk import Outcome, Row
from django_scatter.migration import Change, Record
from django_scatter.policy import Answer, Breaker, Policy
from django_scatter.runtime import RetryLater

ASKED: list[tuple[str | None, str | None, Any, str, Answer]] = [
    (None, None, "UniqueViolation", "23505", Answer("quarantine")),
    (None, None, ValueError, "", Answer("quarantine")),
    (None, None, NameError, "", Answer("fail-plan")),
    (None, None, "UndefinedTable", "42P01", Answer("fail-plan")),
    (None, None, "InvalidSchemaName", "3F000", Answer("fail-plan")),
    (None, None, "InternalError", "XX000", Answer("fail-batch")),
    (None, None, "TooManyConnections", "53300", Answer("retry")),
    (None, "ValueError", UnicodeDecodeError, "", Answer("retry")),
    ('{"23505": "skip", "ValueError": "retry:5"}', None, "UniqueViolation", "23505", Answer("skip")),
    ('{"23505": "skip", "ValueError": "retry:5"}', None, ValueError, "", Answer("retry", 5)),
    ('{"23505": "skip", "23": "fail-batch"}', None, "CheckViolation", "23514", Answer("fail-batch")),
    ('{"23": "fail-batch", "23505": "skip"}', None, "UniqueViolation", "23505", Answer("fail-batch")),
    ('{"IntegrityError": "skip"}', "23505", "UniqueViolation", "23505", Answer("skip")),
    ('{"57014": "quarantine"}', None, "QueryCanceled", "57014", Answer("quarantine")),
    ('{"OperationalError": "skip"}', None, "ConnectionError", "08006", Answer("retry")),
    ('{"OperationalError": "fail-plan"}', None, "ConnectionError", "08006", Answer("fail-plan")),
    ("[]", None, "UniqueViolation", "23505", Answer("quarantine")),
    ("{", None, "UniqueViolation", "23505", Answer("quarantine")),
    ('{"23505": 1}', None, "UniqueViolation", "23505", Answer("quarantine")),
]  # fmt: skip


@pytest.mark.parametrize(("on_error", "retry_on", "error", "sqlstate", "answer"), ASKED)
def test_answers(
    on_error: str | None, retry_on: str | None, error: Any, sqlstate: str, answer: Answer
) -> None:
    assert Policy(on_error, retry_on).ask(error, sqlstate) == answer


# ---- finding refused records ----


class Trial:
    def __init__(self, n: int, bad: Iterable[int], hints: bool) -> None:
        self.rows = [Row(Outcome.CHANGED, i, [str(i)], {"v": f"value {i}"}) for i in range(n)]
        self.bad = set(bad)
        self.hints = hints
        self.written = self.calls = 0
        self.refused: int | None = None

    def write(self, rows: Sequence[Row]) -> str | None:
        self.calls += 1
        assert rows[0].position == self.written
        for row in rows:
            if row.position in self.bad and row.outcome is Outcome.CHANGED:
                self.refused = row.position
                return f'no "value {row.position}"' if self.hints else "no"
        self.written += len(rows)
        return None

    def single(self, row: Row) -> None:
        assert row.position == self.refused
        row.outcome = Outcome.QUARANTINED

    def run(self) -> int:
        bisect.write_all(self, self.rows)
        assert self.written == len(self.rows)
        assert {r.position for r in self.rows if r.outcome is Outcome.QUARANTINED} == self.bad
        return self.calls


@pytest.mark.parametrize(("n", "k"), [(1000, 1), (1000, 5), (5000, 20), (1000, 100)])
def test_bisection_costs_follow_the_bad_ones(n: int, k: int) -> None:
    source = random.Random(7)
    for hints in (False, True):
        calls = [Trial(n, source.sample(range(n), k), hints).run() for _ in range(10)]
        limit = 3.5 * k + 2 if hints else k * math.log2(n / k) + 3.2 * k + 2
        assert sum(calls) / len(calls) <= limit


def test_bisection_of_small_groups() -> None:
    for n in range(1, 20):
        for k in range(n + 1):
            Trial(n, random.Random(n * 100 + k).sample(range(n), k), k % 2 == 0).run()


# ---- batches ----


class Odd(Renumber):
    """Every tenth record fails."""

    name = "tests.odd"

    def process(self, record: Record) -> Change:
        if record.key % 10 == 7:
            raise ConnectionResetError(f"record {record.key}")
        return {"phone": str(record.key)}


def plan_of(folder: Path, n: int, *settings: str) -> Plan:
    """Known to the database, with columns of the plan set."""
    policy._breakers.clear()
    Parcel.objects.bulk_create(Parcel(id=i, phone="0901") for i in range(1, n + 1))
    plan = Plan(folder, [[i, "0901"] for i in range(1, n + 1)], Odd())
    control = plan.control()
    control.ensure_schema()
    execute(
        "INSERT INTO scatter_plan (plan, migration, table_name, key_column, store, queue, database, "
        "total, n_batches) VALUES ('plan-1', 'tests.odd', 'parcel', 'id', '', '', '', 0, 1)"
    )
    for setting in settings:
        execute(f"UPDATE scatter_plan SET {setting}")
    return plan


def plan_row() -> Any:
    return one("SELECT state, reason FROM scatter_plan")


def test_policy_skips(database: str, tmp_path: Path) -> None:
    ended = plan_of(
        tmp_path, 100, """policy = '{"OSError": "skip"}'""", "max_failure_rate = 1"
    ).run()
    assert (ended.counts["skipped"], ended.counts["quarantined"]) == (10, 0)


def test_retries_of_a_record_are_its_own(database: str, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 20, """policy = '{"OSError": "retry:2"}'""")
    positions = []
    for _ in range(2):
        with pytest.raises(RetryLater):
            plan.run()
        positions.append(one("SELECT position FROM scatter_batch"))
    ended = plan.run()
    assert positions == [6, 16]
    assert ended.counts["quarantined"] == 2
    assert one("SELECT min(attempts), max(attempts) FROM scatter_outcome") == (2, 2)


def test_policy_fails_the_plan_at_the_first_hit(database: str, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 30, """policy = '{"OSError": "fail-plan"}'""", "n_batches = 2")
    ended = plan.run()
    assert (ended.state, ended.plan_finished) == ("failed", True)
    assert plan_row() == ("failed", "ConnectionResetError: record 7")
    assert one("SELECT position FROM scatter_batch") == 6
    second = Plan(tmp_path, [[31, "0901"]], Odd(), batch=2)
    assert second.run().state == "parked"


def test_limit_pauses_and_loses_nothing(database: str, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 1000, "max_quarantined = 5", "max_failure_rate = 1")
    assert plan.run().state == "parked"
    state, reason = plan_row()
    assert state == "paused"
    assert "records were set aside, 5 are allowed" in reason
    execute("UPDATE scatter_plan SET state = 'running', max_quarantined = NULL")
    ended = plan.run()
    assert (ended.counts["ok"], ended.counts["quarantined"]) == (900, 100)
    assert limits.violations(plan.control(), "plan-1") == []


def test_breaker_pauses(database: str, tmp_path: Path) -> None:
    assert plan_of(tmp_path, 1000).run().state == "parked"
    state, reason = plan_row()
    assert state == "paused"
    assert reason.startswith("breaker: 20 of the last 200 records were set aside, more than 5 %")


def test_breaker_starts_afresh_when_the_plan_is_resumed(database: str, tmp_path: Path) -> None:
    """The one that tripped, and one that only saw the pause."""
    plan = plan_of(tmp_path, 100, "n_batches = 9", "max_failure_rate = 1")
    assert plan.run().counts["quarantined"] == 10
    execute("UPDATE scatter_plan SET state = 'paused', max_failure_rate = 0.05")
    second = Plan(tmp_path, plan.rows, Odd(), batch=2)
    assert second.run().state == "parked"
    for batch in (second, Plan(tmp_path, plan.rows, Odd(), batch=3)):
        execute("UPDATE scatter_plan SET state = 'running', reason = NULL")
        batch.run()
        assert (plan_row()[1] or "").startswith("breaker: 10 of the last 100 records")


def test_canary_pauses(database: str, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 30, "canary = 30", "n_batches = 2", "max_failure_rate = 1")
    assert plan.run().state == "done"
    assert plan_row() == ("paused", "canary")


def test_three_failed_batches_pause(database: str, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 30, """policy = '{"OSError": "fail-batch"}'""", "n_batches = 9")
    for batch in range(1, 4):
        assert plan_row()[0] != "paused"
        Plan(tmp_path, plan.rows, Odd(), batch=batch).run()
    assert plan_row()[0] == "paused"
    assert "3 batches have failed in a row" in plan_row()[1]


def test_wrong_numbers_are_never_finished(database: str, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 30, "max_failure_rate = 1", "n_batches = 2")
    assert plan.run().state == "done"
    assert limits.violations(plan.control(), "plan-1") == []
    execute("DELETE FROM scatter_outcome WHERE position = 6")
    ended = Plan(tmp_path, [[31, "0901"]], Odd(), batch=2).run()
    assert ended.plan_finished
    text = "audit: batch 1: quarantined records that are listed: 2, expected 3"
    assert plan_row() == ("failed", text)
    found = limits.violations(plan.control(), "plan-1")
    assert [(v.batch, v.found, v.expected) for v in found] == [(1, 2, 3)]


def test_breaker_window() -> None:
    b = Breaker()
    for _ in range(49):
        b.add(True)
    assert not b.trips(0.05)
    b.add(True)
    assert b.trips(0.05)
    b.add_good(5000)
    assert (b.n_bad, b.tried) == (0, 1000)
    for _ in range(50):
        b.add(True)
    assert not b.trips(0.05)
    b.add(True)
    assert b.trips(0.05)
