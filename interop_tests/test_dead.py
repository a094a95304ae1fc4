# SPDX-License-Identifier: Apache-2.0
"""Messages that die again and again are set aside with a result; `celeryc dead` shows them and gives them back.

Better than Celery, which delivers a message that kills its workers for ever, or loses it; so celeryc alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.client import Client
from harness.fleet import nothing_left
from harness.messages import message
from harness.redis_server import RedisServer, queue_key
from harness.waiting import wait_until
from harness.workers import WorkerFactory, celeryc

MakeClient = Callable[..., Client]
DEAD = "celeryc:dead:celery"


def parked(server: RedisServer) -> list[dict[str, Any]]:
    return [json.loads(entry) for entry in server.client().lrange(DEAD, 0, -1)]


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_children_of_several_workers_count_together(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    path = tmp_path / "starts"
    for _ in range(2):
        workers.start("celeryc", url, concurrency=1, wait=False)
    for worker in workers.workers:
        worker.wait_ready()
    task_id = client.send("interop.die_requeue", str(path), 100)
    outcome = client.get(task_id)
    assert (outcome.state, outcome.exc_type) == ("FAILURE", "WorkerLostError")
    assert len(lines(path)) == 3
    (entry,) = parked(redis_server)
    assert json.loads(base64.b64decode(entry["raw"]))["headers"]["id"] == task_id
    assert "SIGKILL" in entry["reason"]
    assert client.call("examples.add", 1, 1).value == 2
    nothing_left(redis_server)
    wait_until(lambda: not redis_server.client().keys("celeryc:deaths:*"), "the count is forgotten")


def test_a_success_forgets_earlier_deaths(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    workers.start("celeryc", url, concurrency=1)
    assert client.call("interop.die_requeue", str(tmp_path / "starts"), 3).value == 3
    wait_until(lambda: not redis_server.client().keys("celeryc:deaths:*"), "the count is forgotten")
    assert parked(redis_server) == []


def test_deaths_of_workers_count(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    """A late-ack task under which two workers have died and now a third does; what had not started only goes back."""
    url = redis_server.socket_url()
    r = redis_server.client()
    client = make_client(url)
    path = tmp_path / "lines"
    victim = workers.start("celeryc", url, concurrency=2, options=["--prefetch-multiplier", "2"])
    poison = client.send("interop.hold_late", str(path), "poison", 600)
    first = client.send("interop.hold_late", str(path), "first", 600)
    wait_until(lambda: sorted(lines(path)) == ["first", "poison"], "both run")
    idle = client.send("interop.hold_late", str(path), "idle", 0)
    wait_until(lambda: r.hlen("unacked") == 3, "the third is claimed")
    r.set(f"celeryc:deaths:{poison}", 2)
    wait_until(
        lambda: (
            sum(b"\0" in note for key in r.keys("celeryc:claims:*") for note in r.hvals(key)) == 2
        ),
        "both starts are noted",
    )
    victim.process.kill_9()

    workers.start("celeryc", url, concurrency=2)
    outcome = client.get(poison, 30)
    assert (outcome.state, outcome.exc_type) == ("FAILURE", "WorkerLostError")
    assert client.get(first).value == 2
    assert client.get(idle).value == 1
    (entry,) = parked(redis_server)
    assert json.loads(base64.b64decode(entry["raw"]))["headers"]["id"] == poison
    assert sorted(lines(path)) == ["first", "first", "idle", "poison"]
    nothing_left(redis_server)
    wait_until(lambda: not r.keys("celeryc:deaths:*"), "the counts are forgotten")


# ---- celeryc dead ----


def broken(text: str) -> bytes:
    return json.dumps({"broken": text}).encode()


def listed(url: str, *options: str) -> list[dict[str, Any]]:
    done = celeryc("dead", "list", "--json", "-b", url, *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def park(server: RedisServer, *raws: bytes, queue: str = "celery", reason: str = "test") -> None:
    """As a worker does it, without one."""
    for raw in raws:
        entry = {
            "v": 1,
            "reason": reason,
            "time": "2026-01-02T03:04:05+00:00",
            "queue": queue,
            "raw": base64.b64encode(raw).decode(),
        }
        server.client().lpush(f"celeryc:dead:{queue}", json.dumps(entry))


def test_dead_letter_is_shown_retried_and_runs(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    url = redis_server.socket_url()
    r = redis_server.client()
    client = make_client(url)
    path = tmp_path / "starts"
    worker = workers.start("celeryc", url, concurrency=1)
    task_id = client.send("interop.die_requeue", str(path), 4)
    assert client.get(task_id).exc_type == "WorkerLostError"
    worker.stop()
    (entry,) = listed(url)
    assert (entry["id"], entry["task"], entry["queue"]) == (
        task_id,
        "interop.die_requeue",
        "celery",
    )
    shown = celeryc("dead", "show", task_id, "-b", url)
    raw = base64.b64decode(parked(redis_server)[0]["raw"])
    assert raw.decode() in shown.stdout
    (whole,) = celeryc("dead", "show", entry["handle"], "--json", "-b", url).stdout.splitlines()
    assert base64.b64decode(json.loads(whole)["raw"]) == raw

    r.set(f"celeryc:deaths:{task_id}", 2)
    done = celeryc("dead", "retry", task_id, "-b", url)
    assert (done.returncode, done.stdout) == (0, "Retried 1 dead letter.\n")
    assert r.lrange("celery", 0, -1) == [raw], "byte for byte"
    assert not r.exists(f"celeryc:deaths:{task_id}")
    assert listed(url) == []
    workers.start("celeryc", url, concurrency=1)
    wait_until(lambda: client.meta(task_id).state == "SUCCESS", "the retried task succeeds")
    nothing_left(redis_server)


def test_dead_letters_by_queue_handle_and_priority(redis_server: RedisServer) -> None:
    url, r = redis_server.socket_url(), redis_server.client()
    bytes_of_any_kind = b"\x00\xff not JSON \x1b[31m"
    low = json.dumps(message("low", "examples.add", [1]) | {"properties": {"priority": 9}})
    park(redis_server, bytes_of_any_kind, low.encode(), reason="two\nlines")
    park(redis_server, b"{}", queue="other")
    r.lpush("celeryc:dead:other", '{"v": 99}', "nonsense")

    everything = listed(url)
    assert [entry.get("queue") for entry in everything] == ["celery", "celery", "other", None, None]
    assert ["99" in everything[3]["unreadable"], "unreadable" in everything[4]] == [True, True]
    text = celeryc("dead", "list", "-Q", "celery", "--limit", "1", "-b", url)
    assert text.stdout.count("\n") == 1, "a line for each, whatever the reason says"
    assert text.stderr == "1 more: --limit 0 shows all.\n"

    one = celeryc("dead", "retry", everything[0]["handle"], "no-such-id", "-b", url)
    assert one.returncode == 1
    assert one.stderr == "Error: no dead letter no-such-id.\n"
    assert r.lrange("celery", 0, -1) == [bytes_of_any_kind]
    rest = celeryc("dead", "retry", "--all", "-b", url)
    assert (rest.returncode, rest.stdout) == (1, "Retried 2 dead letters.\n")
    assert "2 left alone" in rest.stderr
    assert r.lrange(queue_key("celery", 9), 0, -1) == [low.encode()]
    assert r.lrange("other", 0, -1) == [b"{}"]
    assert r.llen("celeryc:dead:other") == 2


def test_many_dead_letters(redis_server: RedisServer) -> None:
    """Pages of the list, in order, under a key prefix."""
    url, r = redis_server.socket_url(), redis_server.client()
    config = redis_server.folder / "config.json"
    config.write_text(json.dumps({"broker_transport_options": {"global_keyprefix": "a*b:"}}))
    park(redis_server, *(broken(str(i)) for i in range(1000)))
    r.rename(DEAD, f"a*b:{DEAD}")
    park(redis_server, b"not ours")
    assert len(listed(url, "--config", str(config), "--limit", "0")) == 1000
    done = celeryc("dead", "retry", "--all", "-b", url, "--config", str(config))
    assert (done.returncode, done.stdout) == (0, "Retried 1000 dead letters.\n")
    assert r.lrange("a*b:celery", 0, -1) == [broken(str(i)) for i in reversed(range(1000))]

    refused = celeryc("dead", "purge", "--all", "-b", url)
    assert (refused.returncode, refused.stderr) == (1, "Aborted!\n")
    assert celeryc("dead", "purge", "--all", "-f", "-b", url).stdout == "Removed 1 dead letter.\n"
    assert not r.exists(DEAD)
    for line in (["dead"], ["dead", "bury"], ["dead", "retry"], ["dead", "list", "x"]):
        assert celeryc(*line, "-b", url).returncode == 2
