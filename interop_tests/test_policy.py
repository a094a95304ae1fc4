# SPDX-License-Identifier: Apache-2.0
"""Records that the database refuses: exactly they are set aside, whoever works; limits pause and lose nothing; the dry
run has told of it before."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import planted
from harness.parcels import Database, create_options, postgres_database, scatter_plan
from harness.plans import open_records, run_child
from harness.postgres_server import PostgresServer
from harness.redis_server import RedisServer
from harness.reports import cells, report, truth
from harness.site import Site
from harness.waiting import wait_until
from harness.workers import WorkerFactory


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture
def site(
    redis_server: RedisServer, workers: WorkerFactory, server: PostgresServer, tmp_path: Path
) -> Site:
    database = postgres_database(server, f"policy_{uuid.uuid4().hex[:8]}")
    return Site(redis_server, workers, database, tmp_path)


def create(site: Site, n: int, batch_size: int, *more: str) -> tuple[int, dict[str, Any]]:
    query = planted.QUERY_TO.format(n=n)
    options = create_options(site.database, site.store, site.url, "p1", batch_size, query)
    done = scatter_plan(*options, "--format", "json", *more, env=os.environ | site.env)
    assert done.returncode in {0, 3}, done.stderr
    return done.returncode, json.loads(done.stdout)


def state(database: Database) -> tuple[str, str | None]:
    row = database.query("SELECT state, reason FROM scatter_plan WHERE plan = 'p1'")[0]
    return str(row[0]), row[1]


def audit(site: Site, plan: str = "p1") -> dict[str, Any]:
    done = scatter_plan(
        "audit", plan, "--database-url", site.database.url, "--files", "--format", "json"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def wait_for(site: Site, wanted: Sequence[str], timeout: float) -> float:
    """Seconds until the plan's state is one of these."""
    began = time.monotonic()
    wait_until(lambda: state(site.database)[0] in wanted, f"plan is {wanted}", timeout)
    return time.monotonic() - began


def set_aside(site: Site, kind: str, n: int, bad: int, batch: int, timeout: float) -> float:
    """Exactly the planted records are set aside, with class and SQLSTATE; everything else is changed."""
    planted.fill(site.database, n, bad)
    create(site, n, batch)
    site.start(kind)
    seconds = wait_for(site, ("finished", "failed", "paused"), timeout)
    assert state(site.database) == ("finished", None)
    wanted = dict.fromkeys(planted.CLASSES.values(), bad) if bad else {}
    assert planted.outcomes(site.database, "p1") == wanted
    for beginning, name in planted.CLASSES.items():
        wrong = site.database.query(
            "SELECT count(*) FROM scatter_outcome o JOIN parcel p ON p.id = o.record_key::bigint "
            f"WHERE p.phone LIKE '{beginning}%' AND o.error_class <> '{name[0]}'"
        )
        assert wrong == [(0,)]
    left = site.database.query(f"SELECT count(*) FROM parcel WHERE id <= {n} AND phone LIKE '01%'")
    assert left == [(3 * bad,)]
    found = audit(site)
    assert (found["ok"], found["quarantined"]) == (n - 3 * bad, 3 * bad)
    assert found["files_checked"] == -(-n // batch)
    return seconds


def drive_again(site: Site, folder: Path, n: int, bad: int) -> None:
    """First without a fix, some of one class: they are set aside once more (fewer than the breaker judges by). After the
    fix nothing is open, in any plan."""
    name, code = planted.CLASSES["0163 6"]
    some = min(bad, 40)
    run_child(site, "redrive", "p1", "p2", "--class", name, "--limit", str(some), wait_s=60)
    assert planted.outcomes(site.database, "p2") == {(name, code): some}
    assert (open_records(site, "p1"), open_records(site, "p2")) == (3 * bad, some)
    planted.mend(site.database)
    assert run_child(site, "redrive", "p1", "p3", wait_s=60)["total"] == 3 * bad
    assert (open_records(site, "p1"), open_records(site, "p2")) == (0, 0)
    changed = site.database.query(
        f"SELECT count(*), count(*) FILTER (WHERE phone LIKE '03%') FROM parcel WHERE id <= {n}"
    )
    assert changed == [(n, n)]
    found = audit(site)
    assert (found["planned"], found["remaining"]) == (n, 0)
    assert (audit(site, "p3")["ok"], audit(site, "p3")["planned"]) == (3 * bad, 3 * bad)
    told = report(site, folder, "p1")
    assert (told["open"], told["counts"]) == (0, truth(site.database, "p1"))
    assert told["counts"]["ok"] + told["counts"]["quarantined"] == n
    assert len(cells(folder, "p1", "quarantined-0001.csv")) == 3 * bad
    assert {c["resolved_by"] for c in cells(folder, "p1", "quarantined-0001.csv")} == {"p3"}


@pytest.mark.parametrize("kind", ["python", "celeryc"])
def test_exactly_the_refused_records_are_set_aside(site: Site, kind: str, tmp_path: Path) -> None:
    set_aside(site, kind, 20_000, 10, 2000, 60)
    drive_again(site, tmp_path, 20_000, 10)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["python", "celeryc"])
def test_300_of_1500000(
    site: Site,
    kind: str,
    redis_server: RedisServer,
    workers: WorkerFactory,
    server: PostgresServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The long form, with the re-drive, beside the same run without bad records."""
    with_bad = set_aside(site, kind, 1_500_000, 100, 10_000, 1200)
    drive_again(site, tmp_path, 1_500_000, 100)
    site.workers.stop_all()
    (tmp_path / "clean").mkdir()
    database = postgres_database(server, f"policy_{uuid.uuid4().hex[:8]}")
    clean = Site(redis_server, workers, database, tmp_path / "clean")
    without = set_aside(clean, kind, 1_500_000, 0, 10_000, 1200)
    with capsys.disabled():
        print(
            f"\n{kind}: 1,500,000 records in {without:.1f} s, with 300 refused ones in {with_bad:.1f} s: "
            f"{(with_bad / without - 1) * 100:+.0f} %"
        )


def limit_pauses(site: Site, kind: str, n: int, batch: int, timeout: float) -> None:
    """300 are refused, 100 are allowed: the plan pauses, and goes on where it stood after the fix, to 0 open."""
    planted.fill(site.database, n, 100)
    create(site, n, batch, "--max-quarantine", "100")
    site.start(kind)
    wait_for(site, ("paused", "finished"), timeout)
    assert state(site.database)[0] == "paused"
    assert "100 are allowed" in str(state(site.database)[1])
    wait_until(
        lambda: site.database.batches("p1").get("running", 0) == 0, "no batch is worked on", 30
    )
    counts = site.database.counts("p1")
    assert 100 < counts["quarantined"] <= 100 + 2 * 30
    assert counts["position"] < n
    assert audit(site)["remaining"] == n - counts["position"]
    planted.mend(site.database)
    target = ("--database-url", site.database.url, "-b", site.url)
    assert scatter_plan("resume", "p1", *target).returncode == 0
    wait_for(site, ("finished", "failed", "paused"), timeout)
    assert state(site.database) == ("finished", None)
    assert audit(site)["ok"] == n - counts["quarantined"]
    assert run_child(site, "redrive", "p1", "p2")["total"] == counts["quarantined"]
    assert open_records(site, "p1") == 0
    left = f"SELECT count(*) FROM parcel WHERE id <= {n} AND phone NOT LIKE '03%'"
    assert site.database.query(left) == [(0,)]


@pytest.mark.parametrize("kind", ["python", "celeryc"])
def test_limit_pauses_and_loses_nothing(site: Site, kind: str) -> None:
    limit_pauses(site, kind, 20_000, 1000, 60)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_limit_pauses_1500000(site: Site) -> None:
    limit_pauses(site, "celeryc", 1_500_000, 10_000, 1200)


def test_canary(site: Site) -> None:
    planted.fill(site.database, 5000, 0)
    create(site, 5000, 1000, "--canary", "300")
    site.start("celeryc")
    wait_for(site, ("paused", "finished"), 30)
    assert state(site.database) == ("paused", "canary")
    counts = site.database.counts("p1")
    assert (counts["planned"], counts["position"]) == (5000, 300)
    assert site.database.batches("p1") == {"done": 1, "planned": 5}


# ---- the dry run ----


def test_preflight_finds_a_planted_collision(site: Site) -> None:
    planted.fill(site.database, 20_000, 1)
    code, found = create(site, 20_000, 1000, "--dry-run", "--workers", "8", "--database-cores", "2")
    assert code == 3
    times = found["preflight"]["forecast"]["times"]
    assert [t["connections"] for t in times] == [1, 2, 4, 8]
    assert times[0]["seconds"] > times[1]["seconds"] >= times[2]["seconds"] == times[3]["seconds"]
    assert "2 cores: more than 4 connections bring nothing" in found["preflight_text"]
    checks = {c["name"]: c for c in found["preflight"]["checks"]}
    assert checks["collisions"]["level"] == "block"
    assert (
        "parcel_phone: 0 records would get a value that another one of the plan gets, 1 one"
        in (checks["collisions"]["text"])
    )
    assert checks["key"]["level"] == "ok"
    assert checks["indexes"]["level"] == "warn"
    assert "no_six" in checks["check constraints"]["text"]
    assert site.database.query("SELECT to_regclass('scatter_plan') IS NULL") == [(True,)]
    assert site.database.query("SELECT count(*) FROM parcel WHERE phone LIKE '032%'") == [(0,)]


def test_preflight_finds_records_of_the_plan_that_meet(site: Site) -> None:
    """Far from each other, and by an index on an expression."""
    planted.fill(site.database, 20_000, 0)
    site.database.run(
        "UPDATE parcel SET phone = '0163 000 0009' WHERE id = 19990",
        "CREATE UNIQUE INDEX short ON parcel "
        "((CASE WHEN phone LIKE '03%' THEN substr(phone, 5) ELSE phone END))",
    )
    code, found = create(site, 20_000, 1000, "--dry-run")
    texts = {
        c["level"]: c["text"] for c in found["preflight"]["checks"] if c["name"] == "collisions"
    }
    assert code == 3
    assert texts["block"] == (
        "short: 2 records would get a value that another one of the plan gets, 0 one that is there: "
        "19990 and 9 would both get 000 0009"
    )
    assert texts["ok"] == "parcel_phone: no two records would meet"


def forecast_and_run(
    site: Site, n: int, capsys: pytest.CaptureFixture[str], timeout: float
) -> tuple[dict[str, Any], dict[tuple[str, str], int]]:
    """Rows and WAL are as forecast; the time is printed beside it. The dry run's answer, and what was set aside."""
    site.database.run("CHECKPOINT")
    began = time.monotonic()
    _, found = create(site, n, n // 20, "--dry-run")
    rehearsed = time.monotonic() - began
    told: dict[str, Any] = found["preflight"]
    create(site, n, n // 20, "--max-failure-rate", "off")
    site.database.run("CHECKPOINT")
    before = site.database.query("SELECT pg_current_wal_insert_lsn()::text")[0][0]
    site.start("celeryc")
    seconds = wait_for(site, ("finished", "failed", "paused"), timeout)
    assert state(site.database)[0] == "finished"
    written = f"SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '{before}')"
    wal = float(site.database.query(written)[0][0])
    counts = site.database.counts("p1")
    ok = counts["position"] - counts["quarantined"]
    forecast, run = told["forecast"], planted.outcomes(site.database, "p1")
    errors = {(e["error_class"], e["sqlstate"]): e for e in told["errors"]}
    lines = [
        f"{name} {error['records']} (at most {error['at_most']}) / {run.get((name, code))}"
        for (name, code), error in errors.items()
    ]
    times = ", ".join(f"{t['connections']}: {t['seconds']:.1f}" for t in forecast["times"])
    with capsys.disabled():
        print(
            f"\nforecast / run: rows {forecast['rows']} / {ok}, WAL {forecast['wal_bytes'] / 1e6:.1f} / "
            f"{wal / 1e6:.1f} MB, {', '.join(lines) or 'no errors'}; seconds by connections {times} / "
            f"{seconds:.1f} with one worker of two; the dry run took {rehearsed:.1f} s"
        )
    assert abs(forecast["rows"] / ok - 1) < 0.25
    assert abs(forecast["wal_bytes"] / wal - 1) < 0.25
    assert set(errors) == set(run)
    for name, real in run.items():
        assert abs(errors[name]["records"] / real - 1) < 0.25, (errors[name], real)
        assert errors[name]["at_most"] >= errors[name]["records"]
    return told, run


@pytest.mark.parametrize(("n", "bad"), [(20_000, 0), (4500, 150)])
def test_preflight_forecasts_the_run(
    site: Site, n: int, bad: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows, errors by class and WAL within 25 %; the time is printed beside it."""
    planted.fill(site.database, n, bad, classes=2)
    told, run = forecast_and_run(site, n, capsys, 120)
    assert len(run) == (2 if bad else 0)
    assert len(told["pairs"]) == 20
    assert told["pairs"][0]["before"]["phone"].startswith("0162")
    assert told["pairs"][0]["after"]["phone"].startswith("032")


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_preflight_forecasts_a_large_run(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """The long form: 200,000 records, of which 2 %, 1 % and 1 % are refused in three ways, one of them by values that are
    there already. Of 10,000 that are tried, 1 % is known to a tenth, and to a quarter in 99 of 100 tables."""
    counts = (4000, 2000, 2000)
    planted.fill_anywhere(site.database, 200_000, counts)
    told, run = forecast_and_run(site, 200_000, capsys, 900)
    assert run == dict(zip(planted.CLASSES.values(), counts))
    [collisions] = [c for c in told["checks"] if c["name"] == "collisions"]
    assert collisions["level"] == "block"
    assert "2000 one that is there" in collisions["text"]
