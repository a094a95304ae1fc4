# SPDX-License-Identifier: Apache-2.0
"""Far ETAs wait at the broker: they survive their worker, cost it no memory, and are seen, revoked and given back.

Better than Celery, where a Python worker keeps every ETA in its memory and hides it from all others; so celeryc alone.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from harness.client import Client
from harness.fleet import nothing_left
from harness.messages import message
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import Worker, WorkerFactory, celeryc

MakeClient = Callable[..., Client]
FAR_S = 3600


def scheduled(url: str, node: str | None = None) -> list[dict[str, Any]]:
    """Of all workers together, as `celery inspect scheduled` says it."""
    with Celery("inspect", broker=url) as app:
        replies = app.control.inspect(timeout=2.0, destination=[node] if node else None).scheduled()
    return [dict(entry) for reply in (replies or {}).values() for entry in reply]


def queried(url: str, *task_ids: str) -> dict[str, str]:
    """Of all workers together, the lists that `celery inspect query_task` finds them in."""
    with Celery("inspect", broker=url) as app:
        replies = app.control.inspect(timeout=2.0).query_task(*task_ids) or {}
    return {task_id: found[0] for reply in replies.values() for task_id, found in reply.items()}


def delayed(server: RedisServer) -> int:
    n = server.client().zcard("celeryc:delayed")
    assert server.client().hlen("celeryc:delayed:messages") in (n, n + 1, n - 1)
    return int(n)


def test_far_etas_are_seen_and_outlive_their_worker(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    victim = workers.start("celeryc", url)
    near = client.send("examples.echo", "near", countdown=200)
    far = {client.send("examples.echo", i, countdown=FAR_S + i): i for i in range(10)}
    wait_until(lambda: delayed(redis_server) == 10, "the far ones wait at the broker")
    seen = scheduled(url)
    assert [entry["request"]["id"] for entry in seen] == [near, *far]
    assert seen[1]["request"]["args"] == [0]
    last = list(far)[-1]
    assert queried(url, near, last, "nobody") == {near: "scheduled", last: "scheduled"}
    eta = datetime.fromisoformat(seen[1]["eta"])
    assert abs(eta - datetime.now(timezone.utc) - timedelta(seconds=FAR_S)) < timedelta(seconds=60)

    victim.process.kill_9()
    other = workers.start("celeryc", url)
    assert delayed(redis_server) == 10
    wait_until(lambda: len(scheduled(url)) == 11, "the near one comes back", 30)
    third = workers.start("celeryc", url)
    wait_until(
        lambda: sorted(len(scheduled(url, w.node)) > 1 for w in (other, third)) == [False, True],
        "what is shared is listed once",
    )


def test_revoked_while_parked(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    first, second = (workers.start("celeryc", url) for _ in range(2))
    gone, kept = (client.send("examples.echo", i, countdown=FAR_S) for i in range(2))
    wait_until(lambda: delayed(redis_server) == 2, "both wait at the broker")
    with Celery("control", broker=url, backend=url) as app:
        app.control.revoke(gone)
    assert client.get(gone).state == "REVOKED"
    wait_until(lambda: delayed(redis_server) == 1, "its message is gone")
    wait_until(
        lambda: (
            sum(
                f"Discarding revoked task: examples.echo[{gone}]" in worker.process.log()
                for worker in (first, second)
            )
            == 1
        ),
        "one worker has ended it",
    )
    wait_until(
        lambda: [entry["request"]["id"] for entry in scheduled(url)] == [kept],
        "the other one is listed once, when the workers know of each other",
    )
    assert redis_server.client().hlen("unacked") == 0


@pytest.mark.parametrize("countdown", [30, FAR_S], ids=["held", "parked"])
def test_what_expires_before_its_eta_is_revoked_then(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, countdown: int
) -> None:
    """Better than Celery, which finds out at the eta."""
    url = redis_server.socket_url()
    client = make_client(url)
    workers.start("celeryc", url)
    assert client.call("examples.echo", 1, countdown=countdown, expires=1.5).state == "REVOKED"
    nothing_left(redis_server)


def test_last_worker_gives_them_back_to_python(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    worker = workers.start("celeryc", url)
    ids = [client.send("examples.echo", i, countdown=FAR_S) for i in range(3)]
    wait_until(lambda: delayed(redis_server) == 3, "they wait at the broker")
    worker.process.send_signal(15)
    assert worker.process.wait() == 0
    assert delayed(redis_server) == 0
    assert redis_server.client().llen("celery") == 3
    workers.start("python", url)
    wait_until(
        lambda: sorted(entry["request"]["id"] for entry in scheduled(url)) == sorted(ids),
        "the Python worker has them",
    )


def test_delayed_command(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    worker = workers.start("celeryc", url)
    ids = [client.send("examples.echo", i, countdown=FAR_S + i, priority=9) for i in range(3)]
    wait_until(lambda: delayed(redis_server) == 3, "they wait at the broker")
    done = celeryc("delayed", "list", "--limit", "2", "-b", url)
    assert [line.split()[-1] for line in done.stdout.splitlines()] == [
        f"examples.echo[{task_id}]" for task_id in ids[:2]
    ]
    assert done.stderr == "1 more: --limit 0 shows all.\n"
    entries = [
        json.loads(line)
        for line in celeryc("delayed", "list", "--json", "-b", url).stdout.splitlines()
    ]
    assert [entry["id"] for entry in entries] == ids
    shown = celeryc("delayed", "show", ids[0], "--json", "-b", url)
    assert json.loads(json.loads(shown.stdout)["message"])["headers"]["id"] == ids[0]
    assert celeryc("delayed", "show", "no-such-id", "-b", url).returncode == 1

    refused = celeryc("delayed", "flush", "--all", "-b", url)
    assert (refused.returncode, "1 celeryc worker lives" in refused.stderr) == (1, True)
    worker.process.kill_9()
    one = celeryc("delayed", "flush", ids[1], "--force", "-b", url)
    assert (one.returncode, one.stdout) == (0, "Gave back 1 delayed message.\n")
    rest = celeryc("delayed", "flush", "--all", "--force", "-b", url)
    assert (rest.returncode, rest.stdout) == (0, "Gave back 2 delayed messages.\n")
    raws = redis_server.client().lrange("celery\x06\x169", 0, -1)
    assert [json.loads(raw)["headers"]["id"] for raw in reversed(raws)] == [ids[1], ids[0], ids[2]]
    for line in (["delayed"], ["delayed", "hide"], ["delayed", "flush"], ["delayed", "show"]):
        assert celeryc(*line, "-b", url).returncode == 2


# ---- many ----


def send_many(server: RedisServer, n: int, span_s: float) -> None:
    """n messages with ETAs spread evenly over the span, in random order of ids, without a client's cost."""
    r = server.client()
    template = json.dumps(message("@ID@", "examples.echo", [1], eta="@ETA@"))
    now = datetime.now(timezone.utc)
    for start in range(0, n, 5000):
        raws = []
        for i in range(start, min(start + 5000, n)):
            eta = now + timedelta(seconds=span_s * ((i * 7919) % n) / n)
            text = template.replace("@ETA@", eta.isoformat())
            raws.append(text.replace("@ID@", str(uuid.UUID(int=i))))
        r.lpush("celery", *raws)


def rss_kb(worker: Worker) -> int:
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


# In one step, so that nothing moves meanwhile.
ACCOUNT = """
local n = #redis.call('KEYS', 'celery-task-meta-*')
n = n + redis.call('ZCARD', 'celeryc:delayed') + redis.call('LLEN', 'celery') + redis.call('HLEN', 'unacked')
for _, key in ipairs(redis.call('KEYS', 'celeryc:running:*')) do n = n + redis.call('HLEN', key) end
for _, key in ipairs(redis.call('KEYS', 'celeryc:waiting:*')) do n = n + redis.call('LLEN', key) end
return n
"""


def accounted(server: RedisServer) -> int:
    """How many of the messages are somewhere: parked, claimed, started or done."""
    return int(server.client().eval(ACCOUNT, 0))


@pytest.mark.parametrize(
    "n",
    [
        pytest.param(20_000),
        pytest.param(1_000_000, marks=[pytest.mark.chaos, pytest.mark.timeout(5400)]),
    ],
)
def test_many_etas_over_an_hour(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, n: int
) -> None:
    """The worker's memory stays flat, `inspect scheduled` answers with a bounded part, a kill -9 loses none."""
    url = redis_server.socket_url()
    r = redis_server.client()
    victim = workers.start("celeryc", url, concurrency=1)
    send_many(redis_server, n // 10, 3600)
    wait_until(lambda: r.llen("celery") == 0, "a tenth is put by", 120)
    before = rss_kb(victim)
    r.flushdb()
    victim.process.kill_9()
    victim = workers.start("celeryc", url, concurrency=1)
    send_many(redis_server, n, 3600)
    wait_until(lambda: r.llen("celery") == 0, "all are put by", 600)
    after = rss_kb(victim)
    assert after < before + 8192, f"{before} kB after {n // 10} messages, {after} kB after {n}"

    seen = scheduled(url)
    assert 1000 <= len(seen) <= 2000
    assert accounted(redis_server) == n

    victim.process.kill_9()
    heir = workers.start("celeryc", url, concurrency=1)
    wait_until(lambda: r.zcard("celeryc:workers") == 1, "the dead worker is buried", 40)
    assert accounted(redis_server) == n
    wait_until(
        lambda: sum(1 for _ in r.scan_iter("celery-task-meta-*", count=10_000)) >= 50,
        "the earliest run",
        60,
    )
    assert heir.process.alive
    client = make_client(url)
    late = [client.send("examples.echo", i, countdown=3) for i in range(20)]
    assert [client.get(task_id).value for task_id in late] == list(range(20))
