# SPDX-License-Identifier: Apache-2.0
"""What a worker's start decides: pool, queues, addresses, key prefixes; and its share of the work beside another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.client import Client
from harness.fleet import nothing_left
from harness.redis_server import RedisServer, queue_key
from harness.waiting import wait_until
from harness.workers import WorkerFactory

KINDS = pytest.mark.parametrize("kind", ["python", "celeryc"])
MakeClient = Callable[..., Client]


@KINDS
def test_order_of_priorities(
    kind: str,
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
) -> None:
    """Ten messages wait before the worker starts; 0 is the highest priority, equal ones keep their order."""
    url = redis_server.socket_url()
    client = make_client(url)
    path = tmp_path / "lines"
    ids = [
        client.send("examples.append", str(path), f"{priority}-{k}", priority=priority)
        for k, priority in enumerate((9, 3, 6, 0, 9, 0, 3, 6, 0, 9))
    ]
    r = redis_server.client()
    assert [r.llen(queue_key("celery", step)) for step in (0, 3, 6, 9)] == [3, 2, 2, 3]
    workers.start(kind, url, concurrency=1, settings={"worker_prefetch_multiplier": 1})
    for task_id in ids:
        assert client.get(task_id).state == "SUCCESS"
    expected = ["0-3", "0-5", "0-8", "3-1", "3-6", "6-2", "6-7", "9-0", "9-4", "9-9"]
    assert path.read_text().split() == expected


@KINDS
@pytest.mark.parametrize(
    "form", ["tcp", "socket", "socket and db", "password", "password in socket", "user"]
)
def test_addresses(
    kind: str, form: str, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    secret = "p@ss/w:rd%?#"
    needs_password = form.startswith("password")
    server = RedisServer(
        tmp_path / "redis",
        password=secret if needs_password else None,
        acl_user=("worker", secret) if form == "user" else None,
    )
    try:
        url, db = {
            "tcp": (server.url, 5),
            "socket": (server.socket_url, 0),
            "socket and db": (server.socket_url, 7),
            "password": (server.password_url if needs_password else server.url, 3),
            "password in socket": (server.socket_url, 2),
            "user": (server.user_url if form == "user" else server.url, 4),
        }[form]
        worker = workers.start(kind, url(db), concurrency=1)
        client = make_client(url(db))
        task_id = client.send("examples.add", 1, 2)
        assert client.get(task_id).value == 3
        assert server.client(db).exists(f"celery-task-meta-{task_id}")
        assert secret not in worker.process.log()
        worker.stop()
    finally:
        workers.stop_all()
        server.stop()


@KINDS
def test_results_in_another_database(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    broker, backend = redis_server.socket_url(1), redis_server.url(2)
    workers.start(kind, broker, backend, concurrency=1)
    client = make_client(broker, backend)
    ids = [client.send("examples.add", i, 1) for i in range(20)]
    assert [client.get(task_id).value for task_id in ids] == list(range(1, 21))
    assert client.call("examples.flaky", "k", 2).value == 2
    assert client.call("examples.fail", "ValueError", "x").exc_type == "ValueError"
    assert redis_server.client(2).exists(f"celery-task-meta-{ids[0]}")
    assert not redis_server.client(1).keys("celery-task-meta-*")
    nothing_left(redis_server, 1)


@KINDS
def test_results_on_another_server(
    kind: str,
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
) -> None:
    other = RedisServer(tmp_path / "other")
    try:
        broker, backend = redis_server.socket_url(), other.socket_url()
        workers.start(kind, broker, backend, concurrency=1)
        client = make_client(broker, backend)
        ids = [client.send("examples.add", i, 1) for i in range(20)]
        assert [client.get(task_id).value for task_id in ids] == list(range(1, 21))
        assert client.call("examples.flaky", "k", 2).value == 2
        assert client.call("examples.sleep", 0.05).value == 0.05
        assert not redis_server.client().keys("celery-task-meta-*")
        nothing_left(redis_server)
    finally:
        workers.stop_all()
        other.stop()


@KINDS
def test_global_key_prefix(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    settings = {
        "broker_transport_options": {"global_keyprefix": "shop:"},
        "result_backend_transport_options": {"global_keyprefix": "shop"},
    }
    url = redis_server.socket_url()
    workers.start(kind, url, concurrency=1, settings=settings)
    client = make_client(url, **settings)
    task_id = client.send("examples.add", 1, 2)
    assert client.get(task_id).value == 3
    assert client.call("examples.flaky", "k", 3).value == 3
    assert client.call("examples.add", 2, 2, priority=9).value == 4
    r = redis_server.client()
    assert r.exists(f"shop_celery-task-meta-{task_id}")
    strays = {key for key in r.keys("*") if not key.startswith((b"shop:", b"shop_"))}
    assert strays == set()


@KINDS
def test_settings_of_results_and_default_queue(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    url = redis_server.socket_url()
    workers.start(
        kind,
        url,
        queues=["parcels"],
        concurrency=1,
        settings={"task_default_queue": "parcels", "result_expires": 1234},
    )
    client = make_client(url, task_default_queue="parcels")
    task_id = client.send("interop.spawn", 1, 2)
    child = client.get(task_id).value
    assert client.get(child).value == 3
    assert 1200 < redis_server.client().ttl(f"celery-task-meta-{task_id}") <= 1234


@KINDS
def test_two_queues(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    url = redis_server.socket_url()
    worker = workers.start(kind, url, queues=["left", "right"], concurrency=1)
    client = make_client(url)
    ids = [client.send("examples.echo", i, queue=("left", "right")[i % 2]) for i in range(20)]
    assert [client.get(task_id).value for task_id in ids] == list(range(20))
    other = client.send("examples.echo", 1, queue="middle")
    assert client.call("examples.echo", 2, queue="left").value == 2
    assert redis_server.client().llen("middle") == 1
    assert worker.received([*ids, other]) == set(ids)


@pytest.mark.parametrize(
    ("kind", "pool"),
    [("python", "prefork"), ("python", "threads"), ("celeryc", "prefork"), ("celeryc", "threads")],
)
def test_slots_run_at_the_same_time(
    kind: str,
    pool: str,
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
) -> None:
    url = redis_server.socket_url()
    workers.start(kind, url, concurrency=4, pool=pool)
    client = make_client(url)
    path = tmp_path / "lines"
    ids = [client.send("interop.hold", str(path), f"t{i}", 1.0) for i in range(4)]
    wait_until(lambda: path.exists() and len(path.read_text().split()) == 4, "four tasks run")
    assert [client.meta(task_id).state for task_id in ids] == ["PENDING"] * 4
    assert [client.get(task_id).value for task_id in ids] == [1] * 4
    assert client.call("examples.fail", "KeyError", "k").exc_type == "KeyError"


@KINDS
def test_solo_pool(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    url = redis_server.socket_url()
    workers.start(kind, url, concurrency=1, pool="solo")
    client = make_client(url)
    ids = [client.send("examples.add", i, i) for i in range(50)]
    assert [client.get(task_id).value for task_id in ids] == [2 * i for i in range(50)]
    assert client.call("examples.flaky", "k", 3).value == 3


def test_fair_share_of_single_messages(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    """One idle worker of each kind waits; messages come one at a time."""
    url = redis_server.socket_url()
    python = workers.start("python", url, concurrency=1, wait=False)
    celeryc = workers.start("celeryc", url, concurrency=1, wait=False)
    python.wait_ready()
    celeryc.wait_ready()
    client = make_client(url)
    ids = []
    for i in range(100):
        ids.append(client.send("examples.add", i, 1))
        assert client.get(ids[-1]).value == i + 1
    shares = {worker.kind: len(worker.received(ids)) for worker in (python, celeryc)}
    assert sum(shares.values()) == 100
    assert min(shares.values()) >= 25, shares
