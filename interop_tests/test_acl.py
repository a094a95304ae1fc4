# SPDX-License-Identifier: Apache-2.0
"""The least ACL rule of docs/REDIS_KEYS.md is enough, for a worker and for what operators do."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

from harness.canvas import chain, chord, task
from harness.client import Client
from harness.fleet import nothing_left
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import ROOT, WorkerFactory, celeryc

MakeClient = Callable[..., Client]


def rule() -> list[str]:
    text = (ROOT / "docs/REDIS_KEYS.md").read_text()
    found = re.search(r"^ACL SETUSER celeryc on ><password> (.*?)^```$", text, re.M | re.S)
    assert found
    return found.group(1).split()


def test_documented_rule(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    r = redis_server.client()
    r.execute_command("ACL", "SETUSER", "celeryc", "on", ">secret", *rule())
    url = redis_server.url().replace("redis://", "redis://celeryc:secret@")
    client = make_client(redis_server.url())
    worker = workers.start("celeryc", url)
    victim = workers.start("celeryc", url, concurrency=1)
    env = {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}

    done = celeryc("call", "examples.add", "--args", "[1, 2]", "--wait", env=env)
    assert (done.returncode, done.stdout) == (0, "3\n")
    members = [task("examples.echo", i) for i in range(5)]
    body = chain(task("examples.echo"), task("examples.echo"))
    assert client.get(client.apply(chord(members, body))).value == list(range(5))
    far = client.send("examples.echo", 1, countdown=3600)
    gone = client.send("examples.echo", 1, countdown=3600)
    assert client.call("no.such.task").exc_type == "NotRegistered"
    r.lpush("celery", "broken")
    wait_until(lambda: r.llen("celeryc:dead:celery") == 1, "it is set aside")
    victim.process.kill_9()
    wait_until(lambda: r.zcard("celeryc:workers") == 1, "the dead worker is buried", 30)

    assert celeryc("dead", "list", env=env).returncode == 0
    assert celeryc("dead", "retry", "--all", env=env).stdout == "Retried 1 dead letter.\n"
    wait_until(lambda: r.llen("celeryc:dead:celery") == 1, "it is set aside again")
    assert celeryc("dead", "purge", "--all", "-f", env=env).returncode == 0
    assert far in celeryc("delayed", "list", env=env).stdout
    found = celeryc("doctor", "--fix", "--json", env=env)
    assert '"silent"' in found.stdout, "of the killed one"
    assert found.stderr == ""
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait() == 0
    drained = celeryc("drain", "--to-celery", env=env)
    assert (drained.returncode, drained.stderr) == (0, "")
    assert r.llen("celery") == 2, f"{far} and {gone} are back"
    assert celeryc("purge", "-f", env=env).returncode == 0
    nothing_left(redis_server)
    assert r.execute_command("ACL", "LOG") == [], "nothing was refused"
    assert "refused" not in worker.process.log().lower()
