# SPDX-License-Identifier: Apache-2.0
"""The whole way: scatter-plan, batches, messages, celeryc and Python workers, database. Every record changes once."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.client import Client
from harness.parcels import (
    postgres_database,
    sqlite_database,
)
from harness.postgres_server import PostgresServer
from harness.redis_server import RedisServer
from harness.s3_server import BUCKET, S3Server
from harness.site import BATCH, Site
from harness.waiting import wait_until
from harness.workers import EXAMPLES, WorkerFactory

MakeClient = Callable[..., Client]
N_ROWS = 12_000


@pytest.mark.parametrize(
    "kinds", [("python",), ("celeryc",), ("python", "celeryc")], ids=["python", "celeryc", "both"]
)
def test_every_record_changes_once(site: Site, kinds: tuple[str, ...]) -> None:
    site.database.fill(3000)
    for kind in kinds:
        site.start(kind)
    report = site.plan("p1")
    assert (report["total"], report["batches"], report["enqueued"]) == (3000, 10, 10)
    wait_until(lambda: site.all_done("p1"), "every batch done", 30)
    site.check("p1", 3000)
    assert site.database.query("SELECT state FROM scatter_plan WHERE plan = 'p1'") == [
        ("finished",)
    ]


def test_kill_9_and_duplicates_of_every_message(site: Site) -> None:
    """Two celeryc and a Python worker; each message is there twice; one celeryc is killed in the middle."""
    site.database.fill(N_ROWS, slow_s=0.001)
    site.plan("p1")
    assert site.send_twins() == N_ROWS // BATCH
    victim = site.start("celeryc")
    wait_until(
        lambda: site.database.batches("p1").get("done", 0) >= 2, "the first batches are done"
    )
    victim.process.kill_9()
    assert not site.all_done("p1"), "the worker was killed too late for this test to mean anything"
    site.start("celeryc")
    site.start("python", 1)
    wait_until(lambda: site.all_done("p1"), "every batch done", 60)
    site.check("p1", N_ROWS)


def wait_for_progress(site: Site, plan: str) -> None:
    before = site.database.counts(plan)["position"]
    wait_until(lambda: site.database.counts(plan)["position"] > before, "progress", 60)


def test_batches_change_hands_between_c_and_python(site: Site) -> None:
    """A killed worker's batch goes on with a worker of the other kind, from the very record where it was.

    What a killed Python worker holds comes back after an hour only, so that there are more messages than batches."""
    site.database.fill(N_ROWS, slow_s=0.001)
    site.plan("p1", N_ROWS // 4)
    site.send_twins()
    site.send_twins()
    for kind in ("celeryc", "python", "celeryc"):
        worker = site.start(kind, 2)
        wait_for_progress(site, "p1")
        worker.process.kill_9()
    site.start("python", 2)
    site.start("celeryc", 2)
    wait_until(lambda: site.all_done("p1"), "every batch done", 80)
    shares = dict(
        site.database.query("SELECT worker, sum(records) FROM scatter_share GROUP BY worker")
    )
    assert sum(shares.values()) == N_ROWS
    assert len(shares) >= 3, shares
    site.database.check_parcels()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_the_next_worker_begins_at_the_very_next_record(site: Site) -> None:
    """One batch: begun in C, killed, taken over in Python, killed, ended in C."""
    n = 2000
    site.database.fill(n, slow_s=0.001)
    site.plan("p1", n)
    site.send_twins()
    site.send_twins()  # what a killed Python worker holds comes back after an hour only
    wanted, at, froms = {}, 0, []
    for kind in ("celeryc", "python"):
        worker = site.start(kind, 1)
        wait_for_progress(site, "p1")
        worker.process.stop(0)
        wait_until(lambda: alone(site), "what it had begun in the database is over", 20)
        position = site.database.counts("p1")["position"]
        assert at < position < n, "killed too late for this test to mean anything"
        wanted[worker.node] = position - at
        at = position
        froms.append((worker.node, position))
    worker = site.start("celeryc", 1)
    wait_until(lambda: site.all_done("p1"), "the batch is done", 60)
    shares = site.database.query("SELECT worker, records FROM scatter_share")
    assert dict(shares) == wanted | {worker.node: n - at}
    taken = site.database.query(
        "SELECT detail FROM scatter_event WHERE event = 'takeover' ORDER BY id"
    )
    assert [
        re.fullmatch(r"from \d+@(\S+) at position (\d+), lease expired", detail).groups()  # type: ignore[union-attr]
        for (detail,) in taken
    ] == [(node, str(position)) for node, position in froms]
    site.database.check_parcels()


def alone(site: Site) -> bool:
    """Whether nobody else is in the database."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    return site.database.query(others) == [(0,)]


def test_rows_changed_since_the_plan_are_left_alone(site: Site) -> None:
    site.database.fill(1000)
    site.plan("p1", 100)
    site.database.run("UPDATE parcel SET phone = 'changed by hand' WHERE id IN (2, 500)")
    site.database.run("DELETE FROM parcel WHERE id = 8")
    site.start("celeryc")
    wait_until(lambda: site.all_done("p1"), "every batch done", 30)
    counts = site.database.counts("p1")
    assert counts["position"] == 1000
    # 500 would not have changed by the migration, so nobody looks at it.
    stale = site.database.query(
        "SELECT record_key FROM scatter_outcome WHERE outcome = 'stale' ORDER BY record_key"
    )
    assert [key for (key,) in stale] == ["2", "8"]
    assert counts["stale"] == 2
    assert (
        site.database.query("SELECT phone FROM parcel WHERE id IN (2, 500)")
        == [("changed by hand",)] * 2
    )


def test_callbacks_reach_either_kind_of_worker(site: Site, make_client: MakeClient) -> None:
    site.database.fill(1000)
    site.plan("p1", 250, "--on-batch", "examples.echo", "--on-finish", "examples.echo")
    site.start("celeryc")
    client = make_client(site.url)
    wait_until(lambda: site.all_done("p1"), "every batch done", 30)
    finish = client.get(str(uuid.uuid5(uuid.NAMESPACE_URL, "scatter:p1:on_finish")))
    assert finish.state in {"SUCCESS", "FAILURE"}
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"scatter:p1:{b}:on_batch")) for b in range(1, 5)]
    assert all(client.get(task_id).state in {"SUCCESS", "FAILURE"} for task_id in ids)


@pytest.mark.parametrize("rights", ["control tables", "nothing"])
def test_database_that_must_not_be_written(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    postgres_server: PostgresServer,
    tmp_path: Path,
    rights: str,
) -> None:
    database = postgres_database(postgres_server, f"parcels_{uuid.uuid4().hex[:8]}")
    site = Site(redis_server, workers, database, tmp_path)
    database.fill(500)
    site.plan("p1", 100)
    reader = f"reader_{uuid.uuid4().hex[:8]}"
    database.run(
        f"CREATE ROLE {reader} LOGIN", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}"
    )
    if rights == "control tables":
        for table in ("plan", "batch", "outcome", "share", "event"):
            database.run(f"GRANT ALL ON scatter_{table} TO {reader}")
    database.url = postgres_server.url(database.name, reader)
    worker = site.start("celeryc")
    outcome = make_client(site.url).get(str(uuid.uuid5(uuid.NAMESPACE_URL, "scatter:p1:1")))
    assert outcome.state == "FAILURE"
    assert "permission denied" in repr(outcome.exc_args)
    assert worker.process.alive
    database.check_parcels(done=False)


def test_read_only_sqlite(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    database = sqlite_database(tmp_path / "parcels.sqlite3")
    site = Site(redis_server, workers, database, tmp_path)
    database.fill(500)
    site.plan("p1", 100)
    database.url += "?mode=ro"
    worker = site.start("celeryc")
    outcome = make_client(site.url).get(str(uuid.uuid5(uuid.NAMESPACE_URL, "scatter:p1:1")))
    assert outcome.state == "FAILURE"
    assert re.search("read.?only", repr(outcome.exc_args))
    assert worker.process.alive
    database.check_parcels(done=False)


def test_database_alias_that_the_worker_does_not_know(site: Site, make_client: MakeClient) -> None:
    site.database.fill(100)
    site.plan("p1", 100, "--database", "archive")
    site.start("celeryc")
    outcome = make_client(site.url).get(str(uuid.uuid5(uuid.NAMESPACE_URL, "scatter:p1:1")))
    assert outcome.state == "FAILURE"
    assert "archive" in repr(outcome.exc_args)
    site.database.check_parcels(done=False)


def test_migration_that_no_worker_has(site: Site, make_client: MakeClient) -> None:
    site.database.fill(100)
    site.plan("p1", 100)
    site.workers.start("celeryc", site.url, plugins=[EXAMPLES])
    outcome = make_client(site.url).get(str(uuid.uuid5(uuid.NAMESPACE_URL, "scatter:p1:1")))
    assert (outcome.state, outcome.exc_type) == ("FAILURE", "NotRegistered")
    site.database.check_parcels(done=False)


def test_batch_file_that_was_changed(site: Site, make_client: MakeClient, tmp_path: Path) -> None:
    site.database.fill(200)
    site.plan("p1", 100)
    (first, second) = sorted((tmp_path / "store").rglob("batch-*"))
    first.write_bytes(second.read_bytes())
    site.start("celeryc")
    client = make_client(site.url)
    outcome = client.get(str(uuid.uuid5(uuid.NAMESPACE_URL, "scatter:p1:1")))
    assert outcome.state == "FAILURE"
    assert "sha-256" in repr(outcome.exc_args).lower() or "sha256" in repr(outcome.exc_args).lower()
    assert client.get(str(uuid.uuid5(uuid.NAMESPACE_URL, "scatter:p1:2"))).state == "SUCCESS"
    assert site.database.query("SELECT count(*) FROM parcel WHERE id <= 100 AND changes > 0") == [
        (0,)
    ]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.mark.parametrize("kind", ["python", "celeryc"])
def test_batches_in_s3(site: Site, s3_server: S3Server, kind: str) -> None:
    site.store = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    site.env |= s3_server.environment()
    site.database.fill(2000)
    site.plan("p1")
    site.start(kind)
    wait_until(lambda: site.all_done("p1"), "every batch done", 30)
    site.check("p1", 2000)


def test_worker_with_a_wrong_s3_key(
    site: Site, s3_server: S3Server, make_client: MakeClient
) -> None:
    site.store = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    site.env |= s3_server.environment()
    site.database.fill(100)
    site.plan("p1", 100)
    site.env |= s3_server.environment(secret="something else")
    worker = site.start("celeryc")
    outcome = make_client(site.url).get(str(uuid.uuid5(uuid.NAMESPACE_URL, "scatter:p1:1")))
    assert outcome.state == "FAILURE"
    assert "AWS_SECRET_ACCESS_KEY" in repr(outcome.exc_args) or "SignatureDoesNotMatch" in repr(
        outcome.exc_args
    )
    assert worker.process.alive
    site.database.check_parcels(done=False)
