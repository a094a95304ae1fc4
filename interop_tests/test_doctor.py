# SPDX-License-Identifier: Apache-2.0
"""`celeryc doctor` on brokers that Python workers, clients and hands have left in a bad state."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.client import Client
from harness.messages import message
from harness.processes import Process
from harness.redis_server import RedisServer, queue_key
from harness.waiting import wait_until
from harness.workers import WorkerFactory, celeryc

MakeClient = Callable[..., Client]
SEP = "\x06\x16"


def examine(url: str, *options: str) -> dict[str, dict[str, Any]]:
    """The findings by check; the exit code agrees with them."""
    done = celeryc("doctor", "--json", "-b", url, *options)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    still_open = [finding for finding in found if finding["fixed"] < finding["n"]]
    assert done.returncode == bool(still_open), done
    assert done.stderr == ""
    return {finding["check"]: finding for finding in found}


def numbers(found: dict[str, dict[str, Any]]) -> dict[str, tuple[int, int]]:
    return {check: (finding["n"], finding["fixed"]) for check, finding in found.items()}


def test_healthy_fleet(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    workers.start("celeryc", url, wait=False)
    workers.start("python", url, wait=False)
    for worker in workers.workers:
        worker.wait_ready()
    client.send("examples.sleep", 4)
    client.send("examples.echo", 1, countdown=3600)
    wait_until(lambda: redis_server.client().hlen("unacked") > 0, "something is unacknowledged")
    before = set(redis_server.client().keys("*"))
    assert examine(url) == {}
    text = celeryc("doctor", "-b", url)
    assert (text.returncode, text.stdout) == (0, "No open findings.\n")
    left = set(redis_server.client().keys("*")) - before
    assert not [key for key in left if b"pidbox" in key], "the doctor takes its own things along"


def config_of(redis_server: RedisServer, **options: Any) -> list[str]:
    path = redis_server.folder / "options.json"
    path.write_text(json.dumps({"broker_transport_options": options}))
    return ["--config", str(path)]


def test_what_killed_python_workers_leave(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    """Python alone: a killed worker's late-ack messages and its ETAs, which nobody restores for an hour."""
    url, r = redis_server.socket_url(), redis_server.client()
    client = make_client(url)
    path = tmp_path / "lines"
    victim = workers.start("python", url, concurrency=1)
    running = client.send("interop.hold_late", str(path), "t", 600)
    wait_until(path.exists, "the task runs")
    waiting = client.send("interop.hold_late", str(path), "u", 0, priority=9)
    far = client.send("examples.echo", 1, countdown=7200)
    wait_until(lambda: r.hlen("unacked") == 3, "all three are taken")
    victim.process.stop(0)

    found = examine(url)
    assert numbers(found) == {"eta": (1, 0), "silent": (1, 0)}
    assert victim.node in found["silent"]["text"]
    assert "visibility" in found["eta"]["text"]

    hasty = config_of(redis_server, visibility_timeout=1)
    time_passes(redis_server, "unacked_index", 10)
    assert numbers(examine(url, *hasty)) == {"unacked": (3, 0), "eta": (1, 0), "silent": (1, 0)}
    assert r.hlen("unacked") == 3, "looking changes nothing"
    fixed = examine(url, *hasty, "--fix")
    assert fixed["unacked"]["fixed"] == 3
    assert (r.hlen("unacked"), r.zcard("unacked_index"), r.exists("unacked_mutex")) == (0, 0, 0)
    back = [json.loads(raw) for raw in r.lrange("celery", 0, -1)]
    assert {entry["headers"]["id"] for entry in back} == {running, far}
    (low,) = [json.loads(raw) for raw in r.lrange(queue_key("celery", 9), 0, -1)]
    assert low["headers"]["id"] == waiting
    for entry in [*back, low]:
        assert entry["headers"]["redelivered"]
        assert entry["properties"]["delivery_info"]["redelivered"]

    workers.start("python", url, concurrency=1)
    assert client.get(running).value == 2
    assert client.get(waiting).value == 1


def time_passes(server: RedisServer, index: str, seconds: float) -> None:
    for tag, score in server.client().zrange(index, 0, -1, withscores=True):
        server.client().zadd(index, {tag: score - seconds})


def test_broken_pairs(redis_server: RedisServer) -> None:
    url, r = redis_server.socket_url(), redis_server.client()
    raw = json.dumps(message("i", "examples.echo", [1]))
    r.hset("unacked", "no-index", f'[{raw}, "", "celery"]')
    r.zadd("unacked_index", {f"no-record-{i}": time.time() for i in range(1200)})
    r.hset("celeryc:delayed:messages", "no-time", f"2\0celery\0{raw}")
    assert numbers(examine(url)) == {"index": (1200, 0), "records": (1, 0), "delayed": (1, 0)}
    assert numbers(examine(url, "--fix")) == {
        "index": (1200, 1200),
        "records": (1, 1),
        "delayed": (1, 1),
    }
    assert examine(url) == {}
    assert r.zrange("unacked_index", 0, -1) == [b"no-index"]
    assert r.zrange("celeryc:delayed", 0, -1) == [b"no-time"]


def test_topic_record_and_what_cannot_be_routed(redis_server: RedisServer) -> None:
    """A named exchange: its binding set decides; a record that names nothing stays where it is."""
    url, r = redis_server.socket_url(), redis_server.client()
    raw = json.dumps(message("i", "examples.echo", [1]))
    r.sadd("_kombu.binding.ex", f"a.*{SEP}^a\\.[^\\.]+${SEP}one", f"a.#{SEP}^a\\..*?${SEP}two")
    r.hset("unacked", "t", f'[{raw}, "ex", "a.b"]')
    r.hset("unacked", "u", "nonsense")
    r.zadd("unacked_index", {"t": 1, "u": 2})
    assert numbers(examine(url, "--fix")) == {"unacked": (2, 1)}
    assert [r.llen("one"), r.llen("two")] == [1, 1]
    assert r.hkeys("unacked") == [b"u"]


def test_other_findings(redis_server: RedisServer, workers: WorkerFactory) -> None:
    url, r = redis_server.socket_url(), redis_server.client()
    r.config_set("maxmemory-policy", "allkeys-lru")
    r.lpush("celeryc:dead:emails", "{}")
    r.lpush("celeryc:stray", "x")
    r.zadd("celeryc:workers", {"gone": 1000})
    r.hset("celeryc:claims:gone", "gone:1", "celery")
    r.lpush("11111111-2222-3333-4444-555555555555.reply.celery.pidbox", "x")
    r.lpush("other.reply.celery.pidbox", "x")
    r.expire("other.reply.celery.pidbox", 60)
    found = examine(url)
    assert numbers(found) == {
        "memory": (1, 0),
        "dead": (1, 0),
        "stray": (1, 0),
        "dead-workers": (1, 0),
        "replies": (1, 0),
    }
    assert "1 messages" in found["dead-workers"]["text"]
    assert examine(url, "--fix")["replies"]["fixed"] == 1
    assert r.keys("*.reply.*") == [b"other.reply.celery.pidbox"]


def test_growing_queue(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    url, r = redis_server.socket_url(), redis_server.client()
    r.sadd("_kombu.binding.celery", f"celery{SEP}{SEP}celery")
    r.eval("for i = 1, 500 do redis.call('LPUSH', 'celery', i) end", 0)
    assert examine(url) == {}, "a queue that is only long does not grow"
    grower = workers.folder / "grow.py"
    workers.folder.mkdir(parents=True, exist_ok=True)
    grower.write_text(
        "import redis, sys\n"
        "r = redis.Redis(unix_socket_path=sys.argv[1])\n"
        "while True: r.lpush('celery', 'x', *range(50))\n"
    )
    growing = Process("grow", [sys.executable, grower, redis_server.socket_path], workers.folder)
    try:
        wait_until(lambda: r.llen("celery") > 1000, "it grows")
        assert list(examine(url)) == ["queue"]
    finally:
        growing.stop(0)


def test_broker_that_cannot_be_read(redis_server: RedisServer) -> None:
    done = celeryc("doctor", "-b", "redis://127.0.0.1:1/0")
    assert (done.returncode, done.stdout) == (2, "")
    redis_server.client().set("unacked", "a string")
    done = celeryc("doctor", "-b", redis_server.socket_url())
    assert done.returncode == 2
    assert "WRONGTYPE" in done.stderr
    assert celeryc("doctor", "--nonsense").returncode == 2
