# SPDX-License-Identifier: Apache-2.0
"""One record that takes longer than the lease, with a second worker that would like to have the batch."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from harness.migrations import Site
from harness.parcels import Database, scatter_plan
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import Worker, WorkerFactory

QUERY = "SELECT id, word FROM account"
N_ROWS = 6
SLOW = 3  # the key of the record that waits
OTHER = {"celeryc": "python", "python": "celeryc"}


class Slow(Site):
    """A plan of one batch, one of whose records waits until `go` is called."""

    file: Path

    def prepare(self, folder: Path, n_rows: int = N_ROWS) -> None:
        self.env["SCATTER_LEASE"] = "2s"
        self.file = folder / "told"
        self.database.run(
            "CREATE TABLE account (id bigint PRIMARY KEY, word text, changes int NOT NULL DEFAULT 0)",
            f"WITH RECURSIVE g (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < {n_rows}) "
            "INSERT INTO account (id, word) SELECT i, 'w' || i FROM g",
        )

    def plan_slow(self, migration: str) -> None:
        params = (f"file={self.file}", f"go={self.file}.go", f"at={SLOW}")
        options = [word for p in params for word in ("--param", p)]
        self.plan("p1", migration, QUERY, N_ROWS, *options)

    def start_one(self, kind: str, *options: str) -> Worker:
        """A worker that takes no message which it cannot run just now."""
        return self.start(kind, options=["--prefetch-multiplier", "1", *options])

    def go(self) -> None:
        Path(f"{self.file}.go").touch()

    def calls(self) -> Counter[str]:
        return Counter(self.file.read_text().split() if self.file.exists() else [])

    def wait_for_call(self) -> None:
        key = f"p1/1/{SLOW - 1}"
        wait_until(lambda: self.calls()[key] > 0, "the slow record is called", 30)

    def batch(self, columns: str) -> tuple[object, ...]:
        return self.database.query(f"SELECT {columns} FROM scatter_batch")[0]

    def wait_for_renewal(self, times: int) -> None:
        for _ in range(times):
            before = self.batch("lease_until")
            wait_until(lambda: self.batch("lease_until") != before, "the lease is renewed", 20)  # noqa: B023

    def order(self, verb: str) -> None:
        done = scatter_plan(verb, "p1", "--database-url", self.database.url, "-b", self.url)
        assert done.returncode == 0, done.stderr

    def check_once(self) -> None:
        assert self.calls() == Counter(f"p1/1/{i}" for i in range(N_ROWS))


@pytest.fixture
def slow(
    redis_server: RedisServer,
    workers: WorkerFactory,
    empty_database: Database,
    tmp_path: Path,
    own_plugin: Path,
) -> Slow:
    site = Slow(redis_server, workers, empty_database, tmp_path, [own_plugin])
    site.prepare(tmp_path)
    return site


@pytest.mark.parametrize("kind", ["celeryc", "python"])
def test_call_longer_than_the_lease_happens_once(slow: Slow, kind: str) -> None:
    """Another worker has the message, too, and finds the batch busy. A pause is obeyed behind the record."""
    slow.plan_slow("interop.linger")
    slow.send_twins(1)
    slow.start_one(kind)
    slow.wait_for_call()
    second = slow.start_one(OTHER[kind])
    second.process.wait_for_log("interop.linger.* received")
    slow.wait_for_renewal(2)
    assert slow.batch("lease_token, state") == (1, "running")
    slow.order("pause")
    slow.wait_for_renewal(1)
    slow.go()
    wait_until(lambda: slow.batch("state") == ("parked",), "the batch is given back", 20)
    assert slow.batch("position, attempts, lease_token") == (SLOW, 0, 1)
    assert sum(slow.calls().values()) == SLOW
    slow.order("resume")
    wait_until(lambda: slow.all_done("p1"), "every batch done", 60)
    slow.check_once()


@pytest.mark.parametrize("empty_database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("kind", ["celeryc", "python"])
def test_row_longer_than_the_lease_is_done_once(slow: Slow, kind: str) -> None:
    """Its transaction is open all the time, three times as long as the server lets a silent one be."""
    slow.plan_slow("interop.hold")
    slow.send_twins(1)
    slow.start_one(kind)
    slow.wait_for_call()
    second = slow.start_one(OTHER[kind])
    second.process.wait_for_log("interop.hold.* received")
    wait_until(
        lambda: slow.batch("lease_until < clock_timestamp()") == (True,), "the lease is over", 20
    )
    slow.go()
    wait_until(lambda: slow.all_done("p1"), "every batch done", 60)
    slow.check_once()
    assert slow.batch("lease_token, position") == (1, N_ROWS)
    assert slow.database.query("SELECT sum(changes), max(changes) FROM account") == [(N_ROWS, 1)]


def kill(worker: Worker) -> None:
    """With all its processes, as a node dies."""
    pids = [worker.process.pid, *worker.process.descendants()]
    worker.process.stop(0)
    wait_until(lambda: not worker.process.descendants(), f"the end of {pids}")


def signal_all(worker: Worker, number: int) -> None:
    for pid in (worker.process.pid, *worker.process.descendants()):
        os.kill(pid, number)


@pytest.mark.parametrize(
    ("kind", "empty_database"),
    [("celeryc", "sqlite"), ("python", "postgresql")],
    indirect=["empty_database"],
)
def test_killed_worker_beats_no_more(slow: Slow, kind: str) -> None:
    slow.plan_slow("interop.linger")
    slow.send_twins(1)
    worker = slow.start_one(kind)
    slow.wait_for_call()
    slow.wait_for_renewal(1)
    kill(worker)
    slow.go()
    slow.start_one(OTHER[kind])
    wait_until(lambda: slow.batch("lease_token") != (1,), "another worker takes over", 20)
    wait_until(lambda: slow.all_done("p1"), "every batch done", 60)
    assert set(slow.calls().values()) == {1, 2}  # those before the checkpoint that never came
    assert slow.database.query(
        "SELECT detail LIKE '%lease expired' FROM scatter_event WHERE event = 'takeover'"
    ) == [(True,)]


@pytest.mark.parametrize(
    ("kind", "empty_database"),
    [("celeryc", "postgresql"), ("python", "sqlite")],
    indirect=["empty_database"],
)
def test_frozen_worker_loses_the_batch(slow: Slow, kind: str) -> None:
    """When it goes on it finds another token, renews nothing and writes nothing."""
    slow.plan_slow("interop.linger")
    slow.send_twins(1)
    worker = slow.start_one(kind)
    slow.wait_for_call()
    slow.wait_for_renewal(1)
    signal_all(worker, signal.SIGSTOP)
    slow.start_one(OTHER[kind])
    wait_until(lambda: slow.calls()[f"p1/1/{SLOW - 1}"] == 2, "another worker takes over", 30)
    signal_all(worker, signal.SIGCONT)
    slow.wait_for_renewal(2)
    slow.go()
    wait_until(lambda: slow.all_done("p1"), "every batch done", 60)
    assert slow.batch("lease_token, position") == (2, N_ROWS)
    shares = slow.database.query("SELECT worker, records FROM scatter_share")
    assert [(who.startswith(OTHER[kind]), n) for who, n in shares] == [(True, N_ROWS)]


@pytest.mark.parametrize(
    ("kind", "empty_database"),
    [("celeryc", "postgresql"), ("python", "sqlite")],
    indirect=["empty_database"],
)
def test_record_that_hangs_is_ended_by_the_time_limit(slow: Slow, kind: str) -> None:
    """And with it the heartbeat: the batch does not stay with a worker that gets nowhere."""
    slow.plan_slow("interop.linger")
    worker = slow.start_one(kind, "--time-limit", "4")
    slow.wait_for_call()
    slow.wait_for_renewal(1)
    worker.process.wait_for_log("(?i)hard time limit")
    now = (
        "clock_timestamp()" if slow.database.postgres else "(julianday('now') - 2440587.5) * 86400"
    )
    # A Python worker's child is asked first, and gives it back.
    wait_until(lambda: slow.batch(f"coalesce(lease_until < {now}, 1 = 1)")[0], "it is free", 20)
    slow.go()
    done = scatter_plan(
        "sweep", "--after", "1", "--database-url", slow.database.url, "-b", slow.url
    )
    assert done.returncode == 0, done.stderr
    wait_until(lambda: slow.all_done("p1"), "the sweep brings it back", 60)


@pytest.mark.parametrize("empty_database", ["postgresql"], indirect=True)
def test_warm_shutdown_in_the_middle_of_a_batch(slow: Slow) -> None:
    """The Python worker that ends gives its batch back, and the next goes on at the very record: no call is made twice."""
    slow.database.run(
        "INSERT INTO account (id, word) SELECT i, 'w' FROM generate_series(7, 2500) i"
    )
    slow.plan("p1", "interop.tell", QUERY, 2500, "--param", f"file={slow.file}")
    worker = slow.start_one("python")
    wait_until(lambda: slow.database.counts("p1")["position"] > 0, "the batch has moved", 30)
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait(30)
    position, *rest = slow.batch("position, state, attempts, lease_until, owner")
    assert rest == ["queued", 0, None, None]
    assert 0 < int(str(position)) < 2500, "stopped too late to mean anything"
    assert sum(slow.calls().values()) == position
    slow.start_one("celeryc")
    wait_until(lambda: slow.all_done("p1"), "the next worker goes on", 60)
    assert slow.calls() == Counter(f"p1/1/{i}" for i in range(2500))
    assert slow.batch("lease_token, attempts") == (2, 1)
