# SPDX-License-Identifier: Apache-2.0
"""The Python runtime on both kinds of database: counts, guard, resume, fencing, retry, bisection."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.db.utils import OperationalError
from migrations import Chatty, Plan, Renumber, execute, one
from scatter_test_app.models import Parcel

from django_scatter import control as control_module
from django_scatter import control_postgresql, pace, runtime
from django_scatter.batchfile import BadBatch
from django_scatter.chunk import Chunk
from django_scatter.claims import BatchRow, Claim, claim_batch
from django_scatter.control import Fenced
from django_scatter.ends import finish_batch
from django_scatter.errors import ScatterError
from django_scatter.migration import Change, Migration, Record, Skip
from django_scatter.policy import MAX_ATTEMPTS
from django_scatter.runtime import RetryLater


def fill(phones: Sequence[str | None]) -> list[list[Any]]:
    Parcel.objects.bulk_create(Parcel(id=i, phone=p) for i, p in enumerate(phones, 1))
    return [[i, p] for i, p in enumerate(phones, 1)]


def phones() -> list[str | None]:
    return list(Parcel.objects.order_by("id").values_list("phone", flat=True))


def batch_row() -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM scatter_batch WHERE plan = 'plan-1' AND batch = 1")
        assert cursor.description is not None
        return dict(zip([c[0] for c in cursor.description], cursor.fetchone()))


def outcomes() -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT position, record_key, outcome, error_class, sqlstate FROM scatter_outcome "
            "ORDER BY position"
        )
        return [tuple(r) for r in cursor.fetchall()]


def test_every_record_is_counted_once(database: str, tmp_path: Path) -> None:
    rows = fill(["0901", "+84902", None, "skip", "raise it", "0903", "0904"])
    Parcel.objects.filter(id=6).update(phone="changed since")
    ended = Plan(tmp_path, rows, Renumber()).run()
    assert ended.state == "done"
    assert ended.plan_finished
    assert ended.counts == {
        "planned": 7, "ok": 2, "unchanged": 2, "stale": 1, "skipped": 1, "quarantined": 1,
        "remaining": 0,
    }  # fmt: skip
    assert phones() == ["+84901", "+84902", None, "skip", "raise it", "changed since", "+84904"]
    assert outcomes() == [
        (3, "4", "skipped", None, None),
        (4, "5", "quarantined", "LookupError", None),
        (5, "6", "stale", None, None),
    ]
    assert one("SELECT state FROM scatter_plan") == "finished"
    assert one("SELECT worker, records FROM scatter_share") == ("w1@test", 7)


class Odd(Renumber):
    """Words and values that no database stores, or not every one."""

    def process(self, record: Record) -> Change:
        if record["phone"] == "raise":
            raise ValueError("nul \0 and \udce9")
        if record["phone"] == "skip":
            return Skip("nul \0 and \udce9")
        if record["phone"] == "half":
            return {"phone": "half \udce9"}
        return {"phone": "fine"}


@pytest.mark.parametrize(
    ("phone", "outcome"),
    [
        ("raise", ("quarantined", "ValueError", "nul \ufffd and ?")),
        ("skip", ("skipped", None, "nul \ufffd and ?")),
        ("half", ("quarantined", "UnicodeEncodeError", "'utf-8' codec can't encode")),
    ],
)
def test_words_that_cannot_be_stored(
    database: str, tmp_path: Path, phone: str, outcome: tuple[Any, ...]
) -> None:
    ended = Plan(tmp_path, fill(["1", phone, "2"]), Odd()).run()
    assert ended.state == "done"
    assert phones() == ["fine", phone, "fine"]
    found = one("SELECT outcome, error_class, message FROM scatter_outcome")
    assert found[:2] == outcome[:2]
    assert found[2].startswith(outcome[2])


def test_second_delivery_of_a_done_batch_changes_nothing(database: str, tmp_path: Path) -> None:
    plan = Plan(tmp_path, fill(["0901", "0902"]), Renumber())
    plan.run()
    execute("UPDATE parcel SET phone = '0901' WHERE id = 1")
    ended = plan.run(redelivered=True)
    assert ended.state == "done"
    assert ended.plan_finished
    assert phones() == ["0901", "+84902"]


def test_resumes_at_the_very_record(database: str, tmp_path: Path) -> None:
    """A worker that dies after its first chunk (any BaseException will do) leaves a checkpoint; the next goes on
    there and never calls process for what was done."""
    seen: list[int] = []

    def die(record: Record) -> None:
        seen.append(record.key)
        if record.key == pace.CHUNK_FIRST + 5:
            raise SystemExit

    rows = fill([f"0{n:05}" for n in range(300)])
    with pytest.raises(SystemExit):
        Plan(tmp_path, rows, Chatty(die)).run()
    found = batch_row()
    assert (found["state"], found["position"], found["attempts"]) == (
        "queued",
        pace.CHUNK_FIRST,
        0,
    )
    assert phones()[pace.CHUNK_FIRST] == "000200"
    again: list[int] = []
    ended = Plan(tmp_path, rows, Chatty(lambda r: again.append(r.key))).run(worker="w2@test")
    assert again == list(range(pace.CHUNK_FIRST + 1, 301))
    assert ended.counts["ok"] == 300
    assert all(p is not None and p.startswith("+84") for p in phones())
    assert one("SELECT sum(records) FROM scatter_share") == 300
    assert one("SELECT records FROM scatter_share WHERE worker = 'w2@test'") == 100


def claim(plan: Plan, redelivered: bool = False, worker: str = "dead@test") -> Claim:
    """As a worker that claims the batch and then is no more."""
    batch = runtime.load(plan.migration, plan.request())
    control = plan.control()
    control.ensure_schema()
    row = BatchRow(1, plan.request().source, plan.sha256, batch.count)
    return claim_batch(
        control, runtime.plan_row(batch, plan.request()), row, worker, f"9@{worker}", redelivered
    )


def test_plan_of_another_migration_is_refused(database: str, tmp_path: Path) -> None:
    """As celeryc does: two commands that enqueue by hand have chosen the same id."""
    plan = Plan(tmp_path, fill(["0901"]), Renumber())
    claim(plan)
    execute("UPDATE scatter_plan SET migration = 'tests.other'")
    with pytest.raises(ScatterError, match=r"is of migration tests\.other, not of tests\.renumber"):
        claim(plan, redelivered=True)
    assert batch_row()["lease_token"] == 1


def test_transaction_that_cannot_be_set_up_is_ended(
    postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = Plan(tmp_path, fill(["0901"]), Renumber()).control()
    with monkeypatch.context() as wrong:
        wrong.setattr(control_postgresql, "SETTINGS", "SELECT 1 / 0, %s, %s, %s")
        with pytest.raises(DatabaseError), control.transaction():
            pytest.fail("never begun")
    with control.transaction():
        assert control.rows("SELECT 1") == [(1,)]


def test_live_lease_is_waited_for(database: str, tmp_path: Path) -> None:
    plan = Plan(tmp_path, fill(["0901"]), Renumber())
    claim(plan)
    with pytest.raises(RetryLater) as e:
        plan.run()
    assert 50 < e.value.seconds <= 61
    assert "9@dead@test" in str(e.value)
    assert phones() == ["0901"]


def test_redelivered_message_takes_a_live_lease_over(database: str, tmp_path: Path) -> None:
    plan = Plan(tmp_path, fill(["0901"]), Renumber())
    token = claim(plan).token
    assert plan.run(redelivered=True).state == "done"
    assert batch_row()["lease_token"] == token + 1
    assert one("SELECT event FROM scatter_event WHERE batch = 1") == "takeover"


def test_expired_lease_is_taken(database: str, tmp_path: Path) -> None:
    plan = Plan(tmp_path, fill(["0901"]), Renumber())
    plan.lease_ms = -1000
    claim(plan)
    plan.lease_ms = 60_000
    assert plan.run().state == "done"


def test_zombie_writes_nothing(database: str, tmp_path: Path) -> None:
    """A worker that comes back after its batch was taken over has every later chunk refused."""
    rows = fill(["0901", "0902"])
    plan = Plan(tmp_path, rows, Renumber())

    def steal(record: Record) -> None:
        if record.key == 2:
            execute("UPDATE scatter_batch SET lease_token = lease_token + 1")

    with pytest.raises(RetryLater) as e:
        Plan(tmp_path, rows, Chatty(steal)).run()
    assert e.value.seconds == plan.lease_ms / 1000
    assert phones() == ["0901", "0902"]
    assert batch_row()["position"] == 0
    assert outcomes() == []
    with pytest.raises(Fenced):
        finish_batch(plan.control(), "plan-1", 1, 1)


def test_lost_answer_to_a_commit_changes_nothing_twice(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit happened, its answer did not come: the stored position counts."""
    execute_really = control_module.Control.execute
    lost: list[str] = []

    def lose_commit(self: Any, sql: str, params: Any = None) -> int:
        found = execute_really(self, sql, params)
        if sql == "COMMIT" and not lost and one("SELECT sum(position) FROM scatter_batch"):
            lost.append(sql)
            self.connection.close()
            raise OperationalError("server closed the connection unexpectedly")
        return found

    monkeypatch.setattr(control_module.Control, "execute", lose_commit)
    ended = Plan(tmp_path, fill(["0901", "0902"]), Renumber()).run()
    assert lost
    assert ended.counts["ok"] == 2
    assert ended.counts["stale"] == 0
    assert phones() == ["+84901", "+84902"]


def test_bad_data_is_found_by_halves(postgresql: str, tmp_path: Path) -> None:
    """varchar(20) refuses 30 digits; the other records of the chunk are changed all the same."""
    rows = fill([f"09{n:02}" if n % 17 else "long" for n in range(100)])
    ended = Plan(tmp_path, rows, Renumber()).run()
    assert ended.counts["quarantined"] == 6
    assert ended.counts["ok"] == 94
    assert {(o[3], o[4]) for o in outcomes()} == {("StringDataRightTruncation", "22001")}
    assert [o[0] for o in outcomes()] == [n for n in range(100) if n % 17 == 0]


def test_bad_data_is_found_by_halves_in_sqlite(sqlite: str, tmp_path: Path) -> None:
    rows = fill([f"09{n:02}" for n in range(20)])
    execute("CREATE UNIQUE INDEX one_phone ON parcel (phone)")
    execute("INSERT INTO parcel (id, phone, fragile, pieces) VALUES (99, '+84907', 0, 1)")
    ended = Plan(tmp_path, rows, Renumber()).run()
    assert (ended.counts["ok"], ended.counts["quarantined"]) == (19, 1)
    assert outcomes() == [(7, "8", "quarantined", "UniqueViolation", "23505")]


def test_retry_on_gives_the_batch_back(database: str, tmp_path: Path) -> None:
    """What was done before the record is committed; the record is asked again at the next delivery."""
    rows = fill(["0901", "0902", "raise", "0904"])
    plan = Plan(tmp_path, rows, Renumber())
    claim(plan)
    execute("UPDATE scatter_plan SET retry_on = 'OSError, LookupError'")
    execute("UPDATE scatter_batch SET state = 'queued'")
    with pytest.raises(RetryLater) as e:
        plan.run(retries=2)
    assert isinstance(e.value.cause, LookupError)
    assert 0 <= e.value.seconds <= 8
    found = batch_row()
    assert (found["state"], found["position"]) == ("queued", 2)
    assert "no such operator" in found["error"]
    assert phones() == ["+84901", "+84902", "raise", "0904"]
    Parcel.objects.filter(id=3).update(phone="0903")
    rows[2][1] = "0903"
    execute("UPDATE scatter_batch SET failed_times = %s", MAX_ATTEMPTS)
    ended = plan.run()
    assert ended.counts["quarantined"] == 1
    assert ended.state == "done"


def test_paused_plan_parks_its_batch(database: str, tmp_path: Path) -> None:
    rows = fill([f"0{n:05}" for n in range(300)])

    def pause(record: Record) -> None:
        if record.key == 1:
            execute("UPDATE scatter_plan SET state = 'paused'")

    ended = Plan(tmp_path, rows, Chatty(pause)).run()
    assert ended.state == "parked"
    assert (batch_row()["state"], batch_row()["position"]) == ("parked", pace.CHUNK_FIRST)
    plan = Plan(tmp_path, rows, Chatty(lambda r: None))
    assert plan.run().state == "parked"
    execute("UPDATE scatter_plan SET state = 'running'")
    assert plan.run().counts["ok"] == 300


def test_cancelled_plan_ends_its_batch(database: str, tmp_path: Path) -> None:
    plan = Plan(tmp_path, fill(["0901"]), Renumber())
    claim(plan)
    execute("UPDATE scatter_plan SET state = 'cancelled'")
    assert plan.run(redelivered=True).state == "cancelled"
    assert phones() == ["0901"]
    assert batch_row()["state"] == "cancelled"


def test_missing_column_fails_batch_and_plan(database: str, tmp_path: Path) -> None:
    class Wrong(Renumber):
        name = "tests.wrong"
        writes = ("colour",)

    ended = Plan(tmp_path, fill(["0901"]), Wrong()).run()
    assert ended.state == "failed"
    assert ended.failure is not None
    assert "has no column colour (it has" in str(ended.failure)
    assert ended.plan_finished
    assert batch_row()["state"] == "failed"
    assert one("SELECT state FROM scatter_plan") == "failed"


def test_failed_batch_may_be_sent_again(database: str, tmp_path: Path) -> None:
    plan = Plan(tmp_path, fill(["0901"]), Renumber())
    execute("ALTER TABLE parcel RENAME TO elsewhere")
    assert plan.run().state == "failed"
    execute("ALTER TABLE elsewhere RENAME TO parcel")
    assert plan.run().state == "done"
    assert one("SELECT state FROM scatter_plan") == "finished"


def test_file_that_is_not_the_planned_one(database: str, tmp_path: Path) -> None:
    plan = Plan(tmp_path, fill(["0901"]), Renumber())
    with pytest.raises(BadBatch, match="changed after it was planned"):
        plan.run(sha256="0" * 64)
    claim(plan)
    plan.path.write_bytes(plan.path.read_bytes() + b"x")
    ended = plan.run(redelivered=True)
    assert ended.state == "failed"
    assert one("SELECT state FROM scatter_plan") == "failed"


def test_file_that_is_not_there_fails_a_planned_batch(database: str, tmp_path: Path) -> None:
    plan = Plan(tmp_path, fill(["0901"]), Renumber())
    claim(plan)
    plan.path.unlink()
    ended = plan.run(redelivered=True)
    assert ended.state == "failed"
    assert "does not exist on this machine" in batch_row()["error"]


def test_plan_ends_with_its_last_batch(database: str, tmp_path: Path) -> None:
    rows = fill(["0901", "0902"])
    first = Plan(tmp_path, rows[:1], Renumber(), header={"total_batches": 2})
    second = Plan(tmp_path, rows[1:], Renumber(), header={"total_batches": 2}, batch=2)
    assert not first.run().plan_finished
    assert one("SELECT state, total FROM scatter_plan") == ("running", 1)
    assert second.run().plan_finished
    assert one("SELECT state, total, n_batches FROM scatter_plan") == ("finished", 2, 2)


def test_inside_a_transaction_is_refused(database: str, tmp_path: Path) -> None:
    from django.db import transaction

    plan = Plan(tmp_path, fill(["0901"]), Renumber())
    with transaction.atomic(), pytest.raises(ScatterError, match=r"inside transaction.atomic"):
        plan.run()


def test_database_that_is_away_gives_the_batch_back(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_scatter.runtime.time.sleep", lambda s: None)
    plan = Plan(tmp_path, fill(["0901"]), Renumber())

    def away(self: Any, chunk: Chunk) -> str:
        raise OperationalError("the connection was lost")

    monkeypatch.setattr(control_module.Control, "apply", away)
    with pytest.raises(RetryLater, match="connection was lost"):
        plan.run()
    assert batch_row()["state"] == "queued"
    monkeypatch.undo()
    assert plan.run().state == "done"


class Everything(Migration):
    """Writes a value of each kind."""

    name = "tests.everything"
    table = "parcel"
    reads = ("weight", "sent_at", "fragile", "pieces")
    writes = ("weight", "sent_at", "fragile", "pieces", "phone")

    def process(self, record: Record) -> Change:
        import decimal

        assert record["pieces"] == 1
        assert record["fragile"] is False or record["fragile"] == 0
        moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 60, tzinfo=datetime.timezone.utc)
        change: dict[str, Any] = {
            "weight": decimal.Decimal(record["weight"]) * 2,
            "sent_at": moment,
            "fragile": True,
            "pieces": record["pieces"] + 1,
        }
        if record.key == 2:
            change["phone"] = None
        return change


def test_values_of_every_kind(database: str, tmp_path: Path) -> None:
    when = datetime.datetime(2025, 12, 31, 23, 59, 59, 120000, tzinfo=datetime.timezone.utc)
    for i in (1, 2):
        Parcel.objects.create(id=i, phone="x", weight="12.50", sent_at=when)
    weight, moment, fragile = (
        ("12.50", "2025-12-31 23:59:59.12+00", False)
        if database == "postgresql"
        else ("12.5", "2025-12-31 23:59:59.120000", False)
    )
    rows = [[i, weight, moment, fragile, 1] for i in (1, 2)]
    plan = Plan(tmp_path, rows, Everything(), columns=Everything.reads)
    ended = plan.run()
    assert ended.counts["ok"] == 2, outcomes()
    first, second = Parcel.objects.order_by("id")
    assert (str(first.weight), first.fragile, first.pieces) == ("25.00", True, 2)
    assert first.sent_at == datetime.datetime(2026, 1, 2, 3, 4, 5, 60, tzinfo=datetime.timezone.utc)
    assert first.phone == "x"
    assert second.phone is None


def test_nul_is_the_records_own_failure(postgresql: str, tmp_path: Path) -> None:
    class Nul(Renumber):
        name = "tests.nul"

        def process(self, record: Record) -> Change:
            return {"phone": "a\0b"}

    ended = Plan(tmp_path, fill(["0901"]), Nul()).run()
    assert ended.counts["quarantined"] == 1
    assert outcomes()[0][3] == "ValueError"


def test_undeclared_column_is_the_records_own_failure(database: str, tmp_path: Path) -> None:
    class Stray(Renumber):
        name = "tests.stray"

        def process(self, record: Record) -> Change:
            return {"weight": 1}

    ended = Plan(tmp_path, fill(["0901"]), Stray()).run()
    assert outcomes()[0][2:4] == ("quarantined", "KeyError")
    assert ended.counts["quarantined"] == 1


def test_lock_held_by_another_is_waited_out(
    postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that another transaction holds beyond lock_timeout makes the chunk fail; it is done again afterwards, and
    the row, changed meanwhile, is stale."""
    import psycopg

    rows = fill(["0901", "0902"])
    other = psycopg.connect(**connection.get_connection_params())
    other.execute("UPDATE parcel SET phone = 'theirs' WHERE id = 1")
    monkeypatch.setattr(control_postgresql, "LOCK_LIMIT_MS", 50)
    monkeypatch.setattr("django_scatter.runtime.time.sleep", lambda s: other.commit())
    ended = Plan(tmp_path, rows, Renumber()).run()
    other.close()
    assert (ended.counts["ok"], ended.counts["stale"]) == (1, 1)
    assert phones() == ["theirs", "+84902"]


def test_outcome_of_a_broken_chunk_is_not_kept(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Change and checkpoint are one transaction: a failure at its end leaves neither."""
    plan = Plan(tmp_path, fill(["0901", "skip"]), Renumber())
    control = plan.control()

    class Broken(DatabaseError):
        pass

    def fail(*args: Any) -> None:
        raise Broken("disk full")

    monkeypatch.setattr(control, "insert_outcomes", fail)
    ended = runtime.run_batch(plan.migration, plan.request(), control)
    assert ended.state == "failed"
    assert phones() == ["0901", "skip"]
    assert batch_row()["position"] == 0
