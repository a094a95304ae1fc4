# SPDX-License-Identifier: Apache-2.0
"""`celeryc drain --to-celery`: back to Python workers alone, with nothing lost and nothing run twice without cause."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from harness.client import Client
from harness.messages import message
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory, celeryc

MakeClient = Callable[..., Client]


def lines(path: Path) -> Counter[str]:
    return Counter(path.read_text().split() if path.exists() else [])


def own_keys(server: RedisServer) -> list[str]:
    return sorted(key.decode("latin-1") for key in server.client().keys("celeryc:*"))


def test_what_a_killed_worker_held_runs_in_python(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    url, r = redis_server.socket_url(), redis_server.client()
    client = make_client(url)
    path = tmp_path / "lines"
    worker = workers.start("celeryc", url, concurrency=2, options=["--prefetch-multiplier", "2"])
    late = client.send("interop.hold_late", str(path), "late", 600)
    early = client.send("interop.hold", str(path), "early", 600)
    wait_until(lambda: lines(path) == Counter(["late", "early"]), "both run")
    idle = [client.send("interop.hold_late", str(path), f"idle{i}", 0) for i in range(2)]
    wait_until(lambda: r.hlen("unacked") == 3, "two more are claimed")
    far = client.send("examples.echo", "far", countdown=3600)
    other = workers.start("celeryc", url, concurrency=1)
    wait_until(lambda: r.zcard("celeryc:delayed") == 1, "one waits at the broker")

    refused = celeryc("drain", "--to-celery", "-b", url)
    assert refused.returncode == 1
    assert "2 celeryc workers live" in refused.stderr
    for process in (worker.process, other.process):
        process.kill_9()
    done = celeryc("drain", "--to-celery", "--force", "-b", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "Gave back 3 claimed and 1 delayed messages."
    assert own_keys(redis_server) == ["celeryc:dead:celery"]
    assert (r.hlen("unacked"), r.zcard("unacked_index")) == (0, 0)
    order = [json.loads(raw)["headers"]["id"] for raw in reversed(r.lrange("celery", 0, -1))]
    assert order == [late, *idle, far], "the oldest is consumed first"
    dead = json.loads(celeryc("dead", "list", "--json", "-b", url).stdout)
    assert dead["id"] == early

    python = workers.start("python", url, concurrency=2)
    assert [client.get(task_id).value for task_id in (late, *idle)] == [2, 1, 1]
    assert lines(path)["early"] == 1, "what was acknowledged never runs twice by itself"
    assert python.received([far]) == {far}
    assert celeryc("drain", "--to-celery", "-b", url).returncode == 0, "nothing left to do"


def test_unknown_formats_are_left_alone(redis_server: RedisServer) -> None:
    url, r = redis_server.socket_url(), redis_server.client()
    raw = json.dumps(message("i", "examples.echo", [1]))
    for version, worker in (("1", "old"), ("2", "now"), ("3", "new")):
        r.zadd("celeryc:workers", {worker: 1000})
        r.hset(f"celeryc:worker:{worker}", mapping={"v": version, "queues": '["celery"]'})
        r.hset("unacked", f"{worker}:1", f'[{raw}, "", "celery"]')
        r.hset(f"celeryc:claims:{worker}", f"{worker}:1", "celery")
        r.lpush(f"celeryc:waiting:{worker}:celery", raw)
    r.hset("unacked", "now:2", "nonsense")
    r.hset("celeryc:claims:now", "now:2", "celery")
    done = celeryc("drain", "--to-celery", "-b", url)
    assert done.returncode == 1
    assert "Worker new is of an unknown format" in done.stderr
    assert "2 could not be given back" in done.stderr
    assert sorted(r.hkeys("unacked")) == [b"new:1", b"now:2"]
    assert r.llen("celery") == 3 + 2
    assert celeryc("drain", "-b", url).returncode == 2
