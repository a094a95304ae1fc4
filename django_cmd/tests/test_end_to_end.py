# SPDX-License-Identifier: Apache-2.0
"""The real programs: scatter-plan, celeryc, and the demo's Django project, on private servers."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction
from migrations import Plan, execute, one
from scatter_test_app.models import Line, Parcel, Shipment

from django_scatter import conf, pace, tasks
from django_scatter.migration import Change, Migration, Record
from django_scatter.status import read_status
from servers import Redis, SeaweedFS, spawn, stop, tail, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build"
PROJECT = ROOT / "tools/demo/project"
QUEUE = "e2e"
DEADLINE_S = 60.0


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    server = SeaweedFS(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture
def broker(redis: Redis, settings_of: dict[str, Any]) -> str:
    """The broker, emptied, and settings that name the real planner."""
    subprocess.run(["redis-cli", "-s", redis.socket, "flushall"], check=True, capture_output=True)
    settings_of |= {
        "BROKER": redis.url(),
        "QUEUE": QUEUE,
        "PLUGINS": [BUILD / "migrations.so"],
        "BINARY": BUILD / "scatter-plan",
    }
    return redis.url()


StartCeleryc = Callable[..., None]
START_PYTHON = [
    sys.executable, "-m", "celery", "-A", "scatter_test_celery", "worker", "-Q", QUEUE, "-c", "1",
    "-n", "py@test", "-l", "info", "--without-gossip", "--without-mingle",
]  # fmt: skip


@pytest.fixture
def celeryc(broker: str, tmp_path: Path) -> Iterator[StartCeleryc]:
    """Starts a celeryc that has the bundled migrations."""
    started: list[subprocess.Popen[bytes]] = []

    def start(environment: dict[str, str] | None = None) -> None:
        log = tmp_path / f"celeryc-{len(started)}.log"
        argv = [
            str(BUILD / "celeryc"), "worker", "-A", str(BUILD / "migrations.so"), "-b", broker,
            "-Q", QUEUE, "-c", "1", "-n", "c@test", "-l", "info",
        ]  # fmt: skip
        env = {
            **os.environ,
            "SCATTER_DATABASE": conf.database_url("default"),
            **(environment or {}),
        }
        process = spawn(argv, log, env=env)
        started.append(process)
        wait_for("celeryc", lambda: b"ready." in log.read_bytes(), process, log)

    yield start
    for process in started:
        stop(process)
        for log in sorted(tmp_path.glob("celeryc-*.log")):
            print(tail(log, 60))


@pytest.fixture
def python_worker(broker: str, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Starts a Python worker on the test's database."""
    log = tmp_path / "python.log"
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        entry = {k: connection.settings_dict[k] for k in ("ENGINE", "NAME", "USER", "HOST")}
        here = Path(__file__).resolve().parent
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(here), str(here.parent / "src")]),
            "SCATTER_TEST_DATABASE": json.dumps(entry),
            "SCATTER_SWEEP": "0",
            "CELERY_BROKER_URL": broker,
        }
        started.append(spawn(START_PYTHON, log, env=env))
        wait_for("the worker", lambda: b"ready." in log.read_bytes(), started[0], log)

    yield start
    for process in started:
        stop(process)
        print(tail(log, 60))


def until(what: str, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.02)


def fill(count: int) -> None:
    Parcel.objects.bulk_create(Parcel(id=i, phone=f"0163{i:07}") for i in range(1, count + 1))


def scatter_plan(*arguments: str) -> str:
    out = io.StringIO()
    call_command(
        "scatter_plan",
        "--migration",
        "phones.vn_renumber",
        *arguments,
        stdout=out,
        stderr=io.StringIO(),
    )
    return out.getvalue()


def phones() -> set[str]:
    return {p[:3] for p in Parcel.objects.values_list("phone", flat=True) if p is not None}


@pytest.mark.parametrize(
    "source",
    [["--query", "SELECT id, phone FROM parcel"], ["--queryset", "queries:all_parcels"]],
    ids=["query", "queryset"],
)
def test_plan_watch_status(database: str, celeryc: StartCeleryc, source: list[str]) -> None:
    fill(1000)
    celeryc()
    out = scatter_plan(*source, "--batch-size", "300", "--watch")
    assert "1,000 records, 4 batches" in out
    assert "1000 planned = 1000 ok + 0 unchanged" in out
    assert "c@test" in out
    assert phones() == {"033"}


ODD = ("a", "B,", 'c"', "\u00e9", "%s", " ", "{1}")


def fill_keyed(count: int) -> None:
    """A text for a key, and a text and a number, in no order that a database would give."""
    Shipment.objects.bulk_create(
        Shipment(code=f"{ODD[i % 7]}{i}", phone=f"0163{i:07}") for i in range(count)
    )
    Line.objects.bulk_create(
        Line(shop=ODD[i % 7], number=i * 7 % 101 * 100 + i, phone=f"0163{i:07}")
        for i in range(count)
    )


@pytest.mark.parametrize("kind", ["python", "celeryc"])
def test_querysets_with_other_keys(
    database: str, kind: str, celeryc: StartCeleryc, python_worker: Callable[[], None]
) -> None:
    """Planned, worked on, and what the application changed meanwhile driven again: by a text, by two columns."""
    fill_keyed(300)
    scatter_plan("--queryset", "queries:shipments", "--batch-size", "70", "--plan", "shipments")
    scatter_plan("--queryset", "queries:lines", "--batch-size", "70", "--plan", "lines")
    for model in (Shipment, Line):
        model.objects.filter(phone="01630000150").update(phone="01637654321")
    (python_worker if kind == "python" else celeryc)()
    for plan, model in (("shipments", Shipment), ("lines", Line)):
        until(f"the end of {plan}", lambda: read_status("default", plan).over)  # noqa: B023
        counts = read_status("default", plan).counts
        assert (counts.planned, counts.ok, counts.stale) == (300, 299, 1), plan
        left = model.objects.exclude(phone__startswith="033")
        key = one("SELECT record_key FROM scatter_outcome WHERE plan = %s", plan)
        keys = [[str(part) for part in o.pk] if plan == "lines" else o.pk for o in left]
        assert keys == [json.loads(key) if plan == "lines" else key]
        call_command("scatter_redrive", plan, "--as", f"{plan}-again", stdout=io.StringIO())
        again = f"{plan}-again"
        until(f"the end of {again}", lambda: read_status("default", again).over)  # noqa: B023
        assert read_status("default", again).counts.ok == 1
        assert not left.all().exists()
        assert one("SELECT resolved_by FROM scatter_outcome WHERE plan = %s", plan) == again


def test_messages_go_on_commit_only(postgresql: str, celeryc: StartCeleryc) -> None:
    fill(10)
    celeryc()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        scatter_plan("--query", "SELECT id, phone FROM parcel", "--plan", "lost")
        raise ZeroDivisionError
    with transaction.atomic():
        scatter_plan("--query", "SELECT id, phone FROM parcel", "--plan", "kept")
        assert read_status("default", "kept").batches == {"planned": 1}
    until("the end of the plan", lambda: read_status("default", "kept").over)
    assert read_status("default", "lost").batches == {"planned": 1}
    assert read_status("default", "kept").counts.ok == 10


def test_dry_run_leaves_nothing(database: str, broker: str, tmp_path: Path) -> None:
    fill(10)
    out = scatter_plan("--queryset", "queries:all_parcels", "--batch-size", "4", "--dry-run")
    assert "10 records would make 3 batches" in out
    assert one("SELECT count(*) FROM scatter_plan") == 0
    assert not list((tmp_path / "store").rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--query", "SELECT phone FROM parcel"], "id"),
        (["--query", "SELECT id FROM parcel"], "phone"),
        (["--query", "SELECT * FROM nowhere"], "nowhere"),
        (
            ["--query", "SELECT id, phone FROM parcel", "--migration", "phones.nothing"],
            "phones.nothing",
        ),
    ],
)
def test_mistakes_are_named_and_nothing_is_made(
    database: str, broker: str, arguments: list[str], words: str
) -> None:
    fill(2)
    with pytest.raises(CommandError, match=words):
        scatter_plan(*arguments)
    assert one("SELECT count(*) FROM scatter_plan") == 0


class Renumber(Migration):
    """The bundled migration's twin, far enough for these parcels."""

    name = "phones.vn_renumber"
    table = "parcel"
    reads = ("phone",)
    writes = ("phone",)

    def process(self, record: Record) -> Change:
        return {"phone": "033" + record["phone"][4:]}


def send(broker: str, plan: Plan) -> None:
    request = plan.request()
    with Celery("sender", broker=broker, set_as_current=False) as app:
        app.send_task(
            "phones.vn_renumber",
            kwargs={
                "plan": request.plan, "batch": 1, "source": request.source, "database": "default",
                "sha256": request.sha256, "params": {},
            },
            task_id=tasks.batch_task_id(request.plan, 1),
            queue=QUEUE,
        )  # fmt: skip


def test_batch_begun_in_python_ends_in_c(
    database: str, broker: str, celeryc: StartCeleryc, tmp_path: Path
) -> None:
    fill(500)

    rows = [[i, f"0163{i:07}"] for i in range(1, 501)]
    plan = Plan(tmp_path, rows, Renumber())
    begun: list[int] = []

    class Stops(Renumber):
        def process(self, record: Record) -> Change:
            begun.append(record.key)
            if len(begun) > pace.CHUNK_FIRST + 10:
                raise SystemExit
            return super().process(record)

    with pytest.raises(SystemExit):
        Plan(tmp_path, rows, Stops()).run(worker="python@test")
    assert one("SELECT position FROM scatter_batch") == pace.CHUNK_FIRST
    celeryc()
    send(broker, plan)
    until("the end of the batch", lambda: one("SELECT state FROM scatter_batch") == "done")
    assert shares() == {"python@test": pace.CHUNK_FIRST, "c@test": 500 - pace.CHUNK_FIRST}
    assert read_status("default", "plan-1").counts.ok == 500
    assert phones() == {"033"}


def shares() -> dict[str, int]:
    return read_status("default", "plan-1").workers


PAUSE = {
    "sqlite": (
        "CREATE TRIGGER pause AFTER UPDATE OF position ON scatter_batch "
        "BEGIN UPDATE scatter_plan SET state = 'paused'; END",
    ),
    "postgresql": (
        "CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN UPDATE scatter_plan SET state = ''paused''; RETURN NEW; END'",
        "CREATE TRIGGER pause AFTER UPDATE OF position ON scatter_batch "
        "FOR EACH ROW WHEN (NEW.position > OLD.position) EXECUTE FUNCTION pause()",
    ),
}


def test_batch_begun_in_c_ends_in_python(
    database: str, broker: str, celeryc: StartCeleryc, tmp_path: Path
) -> None:
    """The plan is paused by a trigger as soon as celeryc has committed a chunk."""
    fill(12000)
    plan = Plan(tmp_path, [[i, f"0163{i:07}"] for i in range(1, 12001)], Renumber())
    plan.control().ensure_schema()
    for statement in PAUSE[database]:
        execute(statement)
    celeryc()
    send(broker, plan)
    until(
        "the pause", lambda: one("SELECT count(*) FROM scatter_batch WHERE state = 'parked'") == 1
    )
    done_in_c = one("SELECT position FROM scatter_batch")
    assert 0 < done_in_c < 12000
    execute("DROP TRIGGER pause" + (" ON scatter_batch" if database == "postgresql" else ""))
    execute("UPDATE scatter_plan SET state = 'running'")
    ended = plan.run(worker="python@test")
    assert ended.state == "done"
    assert ended.counts["ok"] == 12000
    assert shares() == {"c@test": done_in_c, "python@test": 12000 - done_in_c}
    assert phones() == {"033"}


def test_command_of_ones_own(broker: str, celeryc: StartCeleryc, sqlite: str, s3: SeaweedFS,
                             tmp_path: Path) -> None:  # fmt: skip
    """enqueue_by_hand uses Celery and boto3 only; celeryc makes the missing rows from the file's header."""
    path = tmp_path / "demo.sqlite3"
    environment = {
        **os.environ,
        **s3.environment(),
        "DJANGO_SETTINGS_MODULE": "demo.settings",
        "DEMO_DATABASE": f"sqlite://{path}",
        "DEMO_BROKER": broker,
    }

    def manage(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=PROJECT, env=environment, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    manage("migrate", "--verbosity", "0")
    connection.close()
    from conftest import use_database

    use_database({"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)})
    for i in range(1, 21):
        execute(
            "INSERT INTO parcel (id, phone, recipient, changes) VALUES (%s, %s, 'x', 0)",
            i, f"0163{i:07}",
        )  # fmt: skip
    celeryc({**s3.environment(), "SCATTER_DATABASE": f"sqlite://{path}"})
    # The demo's queue has a name of its own.
    out = manage(
        "enqueue_by_hand", "--bucket", s3.bucket, "--plan", "by-hand", "--first", "5", "--last", "14",
        "--queue", QUEUE,
    )  # fmt: skip
    assert "10 parcels in s3://scatter/by-hand/batch-000001.ndjson.zst" in out
    until(
        "the plan", lambda: one("SELECT count(*) FROM scatter_plan WHERE state = 'finished'") == 1
    )
    assert one("SELECT count(*) FROM parcel WHERE phone LIKE '033%%' AND changes = 1") == 10
    assert one("SELECT count(*) FROM parcel WHERE phone LIKE '0163%%' AND changes = 0") == 10
    text = manage("scatter_status", "by-hand")
    assert "10 planned = 10 ok" in text
