# SPDX-License-Identifier: Apache-2.0
"""A broker that is several servers (Sentinel, lists), and a result backend that goes away by itself."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from harness.client import Client
from harness.fleet import nothing_left
from harness.messages import message
from harness.redis_liar import RedisLiar
from harness.redis_server import RedisServer
from harness.sentinels import MASTER, Sentinels
from harness.waiting import wait_until
from harness.workers import CELERYC, WorkerFactory

MakeClient = Callable[..., Client]


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    """Nobody is failed over here, so that one serves every test. The Sentinels want a password of their own."""
    made = Sentinels(tmp_path_factory.mktemp("sentinels"), password="sesame")
    yield made
    made.close()


@pytest.mark.parametrize("kinds", [["python"], ["celeryc"], ["python", "celeryc"]], ids="+".join)
def test_sentinel(
    kinds: list[str], sentinels: Sentinels, workers: WorkerFactory, make_client: MakeClient
) -> None:
    settings = sentinels.settings()
    started = [workers.start(kind, sentinels.url(), settings=settings) for kind in kinds]
    client = make_client(sentinels.url(), **settings)
    ids = [client.send("examples.sleep", 0.01) for _ in range(60)]
    assert all(client.get(task_id).state == "SUCCESS" for task_id in ids)
    assert all(worker.received(ids) for worker in started)


def test_sentinel_on_the_command_line(
    sentinels: Sentinels, workers: WorkerFactory, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(sentinels.settings()))
    worker = workers.start("celeryc", sentinels.url(), settings=sentinels.settings())
    env = {"CELERY_BROKER_URL": sentinels.url(), "CELERY_RESULT_BACKEND": sentinels.url()}
    call = [str(CELERYC), "call", "examples.add", "--args", "[2, 3]", "--wait"]
    done = subprocess.run(
        [*call, "--config", config], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout == "5\n", done.stderr
    for query, words in {
        "": "Set master_name",
        f"?master_name={MASTER}": "sentinel_kwargs",
    }.items():
        env = {"CELERY_BROKER_URL": sentinels.url() + query}
        done = subprocess.run(call[:-1], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert worker.process.alive


def test_inspect_shows_the_sentinels(sentinels: Sentinels, workers: WorkerFactory) -> None:
    worker = workers.start("celeryc", sentinels.url(), settings=sentinels.settings())
    app = Celery(broker=sentinels.url(), broker_transport_options=sentinels.options())
    inspect: Any = app.control.inspect(destination=[worker.node], timeout=5.0)
    try:
        broker = inspect.stats()[worker.node]["broker"]
    finally:
        app.close()
    assert broker["transport"] == "sentinel"
    assert broker["port"] == sentinels.ports[0]
    assert len(broker["alternates"]) == 3


def test_a_killed_master(
    tmp_path: Path,
    workers: WorkerFactory,
    make_client: MakeClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The replica takes over and the worker finds it. What the dead master had not passed on is lost with it, and how much
    that was is shown, not asserted."""
    made = Sentinels(tmp_path / "sentinels")
    try:
        workers.start("celeryc", made.url(), settings=made.settings())
        old, new = made.master(), made.replica()
        names = [f"t{n}" for n in range(300)]
        for name in names:
            raw = json.dumps(message(name, "examples.add", [1, 2]))
            old.client().lpush("celery", raw)
        old.kill_9()
        wait_until(lambda: made.master_port() == new.port, "the Sentinels name the other", 30.0)
        client = new.client()
        client.lpush("celery", json.dumps(message("after", "examples.add", [1, 2])))
        wait_until(lambda: client.exists("celery-task-meta-after"), "it is consumed", 5.0)
        wait_until(lambda: client.llen("celery") == 0, "the queue is empty", 30.0)
        lost = sum(1 for name in names if not client.exists(f"celery-task-meta-{name}"))
        with capsys.disabled():
            print(f"\n{lost} of {len(names)} tasks were lost with the killed master")
        assert lost < len(names)
    finally:
        workers.stop_all()
        made.close()


# ---- lists ----


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[RedisServer]]:
    servers = [RedisServer(tmp_path / name) for name in ("one", "two")]
    yield servers
    for server in servers:
        server.stop()


@pytest.mark.parametrize("kind", ["python", "celeryc"])
def test_the_next_server_of_a_list(
    kind: str,
    pair: list[RedisServer],
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
) -> None:
    one, two = pair
    one.stop()
    url = f"{one.url()};{two.url()}"
    worker = workers.start(kind, url, redis_server.url())
    assert make_client(two.url(), redis_server.url()).call("examples.add", 1, 2).value == 3
    assert "Will retry using next failover" in worker.process.log()
    one.start()
    two.stop()
    outcome = make_client(one.url(), redis_server.url()).call("examples.add", 1, 3, _timeout=30)
    assert outcome.value == 4


def test_a_list_in_the_settings(
    pair: list[RedisServer], redis_server: RedisServer, workers: WorkerFactory, tmp_path: Path
) -> None:
    """broker_url may be a list, as in Celery; a replica is passed over."""
    one, two = pair
    one.client().replicaof("127.0.0.1", two.port)
    settings = {"broker_url": [one.url(), two.url()], "broker_failover_strategy": "round-robin"}
    worker = workers.start("celeryc", "", redis_server.url(), settings=settings)
    worker.process.wait_for_log("is a replica at the moment")
    worker.process.wait_for_log(f"Connected to {two.url()}")


# ---- a backend that is away ----


def n_ended(notes: Path) -> int:
    lines = notes.read_text().splitlines() if notes.exists() else []
    return sum(line.startswith("e ") for line in lines)


def test_results_are_kept_while_the_backend_is_away(
    pair: list[RedisServer], workers: WorkerFactory, tmp_path: Path
) -> None:
    """Better than Celery, which gives a result up after some retries, and an early-ack message is gone then.
    Here a claim stands on the broker until the result is stored."""
    broker, backend = pair
    worker = workers.start("celeryc", broker.url(), backend.url())
    notes = tmp_path / "notes"
    backend.stop()
    worker.process.wait_for_log("result backend: .*Results are kept")
    tasks = {f"{kind}{n}": kind for n in range(20) for kind in ("note", "note_late")}
    for name, kind in tasks.items():
        raw = json.dumps(message(name, f"interop.{kind}", [str(notes), name, 0.0]))
        broker.client().lpush("celery", raw)
    wait_until(lambda: n_ended(notes) == len(tasks), "all have run")
    (me,) = broker.client().zrange("celeryc:workers", 0, -1)
    held = broker.client().hlen("unacked") + broker.client().hlen(f"celeryc:running:{me.decode()}")
    assert held == len(tasks), "none is acknowledged before its result is stored"
    backend.start()
    keys = [f"celery-task-meta-{name}" for name in tasks]
    wait_until(lambda: backend.client().exists(*keys) == len(keys), "all results are stored", 5.0)
    for value in backend.client().mget(keys):
        assert json.loads(value)["status"] == "SUCCESS"
    nothing_left(broker)
    lines = notes.read_text().splitlines()
    assert sum(line.startswith("s ") for line in lines) == len(tasks), "each ran once"


def test_a_worker_killed_while_the_backend_is_away(
    pair: list[RedisServer], workers: WorkerFactory, tmp_path: Path
) -> None:
    """Its late-ack task runs again elsewhere, its early-ack one is reported lost: no message ends without a result."""
    broker, backend = pair
    worker = workers.start("celeryc", broker.url(), backend.url())
    notes = tmp_path / "notes"
    backend.stop()
    worker.process.wait_for_log("result backend: .*Results are kept")
    for name, kind in (("early", "note"), ("late", "note_late")):
        raw = json.dumps(message(name, f"interop.{kind}", [str(notes), name, 0.0]))
        broker.client().lpush("celery", raw)
    wait_until(lambda: n_ended(notes) == 2, "both have run")
    worker.process.kill_9()
    backend.start()
    workers.start("celeryc", broker.url(), backend.url())
    client = backend.client()
    keys = ["celery-task-meta-early", "celery-task-meta-late"]
    wait_until(lambda: client.exists(*keys) == 2, "both have a result", 40.0)
    early, late = (json.loads(value) for value in client.mget(keys))
    assert late["status"] == "SUCCESS"
    assert early["status"] == "FAILURE"
    assert early["result"]["exc_type"] == "WorkerLostError"
    nothing_left(broker, deadline_s=30.0)


# ---- the watchdog ----


def test_a_deaf_worker_ends(
    redis_server: RedisServer, workers: WorkerFactory, tmp_path: Path
) -> None:
    """Its watchdog is made to see messages that nobody else sees: that is what deafness looks like."""
    liar = RedisLiar(tmp_path, redis_server.socket_path, "celeryc-watchdog")
    try:
        settings = {"celeryc_watchdog_timeout": 1.2}
        worker = workers.start("celeryc", liar.url(), redis_server.socket_url(), settings=settings)
        worker.process.wait_for_log("CRITICAL.*gone deaf: 20 message.*celeryc_watchdog_timeout")
        assert worker.process.wait() == 75
        assert redis_server.client().zcard("celeryc:workers") == 0, "it took its leave"
    finally:
        liar.close()


def test_an_idle_worker_is_not_deaf(redis_server: RedisServer, workers: WorkerFactory) -> None:
    settings = {"celeryc_watchdog_timeout": 0.3}
    worker = workers.start("celeryc", redis_server.url(), settings=settings)
    client = redis_server.client()

    def looked() -> bool:
        return any(c["name"] == "celeryc-watchdog" for c in client.client_list())

    wait_until(looked, "the watchdog looks")
    end = time.monotonic() + 1.5
    wait_until(lambda: time.monotonic() > end, "five timeouts have passed")
    assert worker.process.alive
