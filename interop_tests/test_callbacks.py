# SPDX-License-Identifier: Apache-2.0
"""Callbacks of a plan, any signature, received by a Python worker; also when the sender dies before it has sent them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from celery import chain, chord, signature
from harness.client import Client
from harness.parcels import postgres_database, scatter_plan
from harness.plans import state
from harness.postgres_server import PostgresServer
from harness.redis_server import RedisServer
from harness.site import Site
from harness.waiting import wait_until
from harness.workers import WorkerFactory

MakeClient = Callable[..., Client]
QUEUE = "callbacks"


def seen(**kwargs: Any) -> Any:
    return signature("scatter_app.seen", kwargs=kwargs, options={"queue": QUEUE})


def callback_id(plan: str, what: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"scatter:{plan}:{what}"))


@pytest.mark.parametrize(
    ("database", "kind"), [("sqlite", "celeryc"), ("postgresql", "python")], indirect=["database"]
)
def test_any_signature_reaches_a_python_worker(
    site: Site, make_client: MakeClient, kind: str
) -> None:
    site.database.fill(600)
    last = chord([seen(n=1), seen(n=2)], seen(what="body"))
    site.plan(
        "p1", 300,
        "--on-planned", json.dumps(seen(who="planner")),
        "--on-batch", json.dumps(chain(seen(step=1), seen(step=2))),
        "--on-finish", json.dumps(last),
        "--on-failed", json.dumps(seen()),
    )  # fmt: skip
    site.start(kind, 2)
    site.start("python", 2, "-Q", QUEUE)
    client = make_client(site.url)

    planned = client.get(callback_id("p1", "on_planned"))
    [args, kwargs] = planned.value
    assert args == []
    assert (kwargs["plan"], kwargs["state"], kwargs["who"]) == ("p1", "planned", "planner")
    assert kwargs["counts"]["remaining"] == 600

    # A chain's id is that of its last step, which has the first one's result and not our arguments.
    [[first], kwargs] = client.get(callback_id("p1", "2:on_batch")).value
    assert kwargs == {"step": 2}
    assert (first[1]["batch"], first[1]["state"], first[1]["step"]) == (2, "done", 1)
    assert set(first[1]) == {
        "plan", "batch", "migration", "state", "counts", "duration", "worker", "failures", "step",
    }  # fmt: skip

    [[parts], kwargs] = client.get(callback_id("p1", "on_finish")).value
    assert kwargs == {"what": "body"}
    assert [p[1]["n"] for p in parts] == [1, 2]
    assert {p[1]["state"] for p in parts} == {"finished"}
    assert parts[0][1]["counts"]["ok"] + parts[0][1]["counts"]["unchanged"] == 600
    rows = site.database.query("SELECT event, sent_at IS NOT NULL FROM scatter_outbox ORDER BY id")
    assert sorted(e for e, _ in rows) == ["batch", "batch", "finished", "planned"]
    assert all(sent for _, sent in rows)


@pytest.mark.parametrize("kind", ["celeryc", "python"])
def test_killed_between_commit_and_sending(
    redis_server: RedisServer, workers: WorkerFactory, postgres_server: PostgresServer,
    make_client: MakeClient, tmp_path: Any, kind: str,
) -> None:  # fmt: skip
    database = postgres_database(postgres_server, f"parcels_{uuid.uuid4().hex[:8]}")
    site = Site(redis_server, workers, database, tmp_path)
    database.fill(100)
    site.plan("p1", 100, "--on-finish", json.dumps(seen()))
    # Whoever takes a callback out of the outbox waits there until it is killed.
    database.run(
        "CREATE FUNCTION stuck() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM pg_sleep(60); RETURN NEW; END$$",
        "CREATE TRIGGER stuck BEFORE UPDATE ON scatter_outbox FOR EACH ROW EXECUTE FUNCTION stuck()",
    )
    victim = site.start(kind, 1)
    wait_until(lambda: state(site, "p1") == "finished", "the plan is finished", 30)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_until(lambda: database.query(waiting) != [(0,)], "the callback is taken", 30)
    victim.process.kill_9()
    database.run("DROP TRIGGER stuck ON scatter_outbox")
    database.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    )
    assert database.query("SELECT sent_at FROM scatter_outbox") == [(None,)]
    site.start("python", 2, "-Q", QUEUE)
    # Any later command that sends callbacks does it, once the row is old enough to be nobody's.
    database.run("UPDATE scatter_outbox SET created_at = created_at - interval '1 minute'")
    database.run("INSERT INTO parcel (id, phone) VALUES (1000, '01201234567')")
    site.plan("p2", 100)
    [args, kwargs] = make_client(site.url).get(callback_id("p1", "on_finish")).value
    assert (args, kwargs["plan"], kwargs["state"]) == ([], "p1", "finished")
    assert database.query("SELECT count(*) FROM scatter_outbox WHERE sent_at IS NULL") == [(0,)]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_callback_that_is_no_signature_is_refused(site: Site) -> None:
    site.database.fill(10)
    for text, why in (('{"args": []}', "no signature"), ("{", "not JSON"), ("two words", "name")):
        done = scatter_plan(*site.options("p1"), "--on-finish", text, env=site.environment)
        assert done.returncode == 2, done.stdout
        assert "--on-finish" in done.stderr
        assert why in done.stderr
