# SPDX-License-Identifier: Apache-2.0
"""scatter-scale as a program: its loop, what it tells, how it is held, what it refuses. Without workers."""

from __future__ import annotations

import json
import signal
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.processes import Process
from harness.redis_server import RedisServer, free_port
from harness.scaler import Scaler
from harness.waiting import wait_until
from harness.workers import ROOT
from kube.worlds import World, deployment, lease

MakeScaler = Callable[..., Scaler]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"), None)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def scaler(world: World, redis: RedisServer, tmp_path: Path) -> Scaler:
    redis.client().flushall()
    quick: dict[str, Any] = {"down_window_s": 0, "zero_cooldown_s": 0, "period_s": 1}
    made = Scaler(
        world.scene(),
        tmp_path / "scaler",
        redis.socket_url(),
        redis={"heartbeat_s": 0.1},
        **quick,
    )
    made.scene.admin.merge(
        made.scene.path("Deployment") + "/status", {"status": {"observedGeneration": 99}}
    )
    return made


def send(redis: RedisServer, n: int, queue: str = "celery") -> None:
    redis.client().lpush(queue, *["x"] * n)


# ---- what is held ----


@pytest.mark.parametrize(
    ("annotations", "replicas", "reason", "target"),
    [
        ({"paused": "true"}, 3, "paused", 3),
        ({"paused": "false"}, 0, "activate", 5),
        ({"paused-replicas": "7"}, 3, "paused", 7),
        ({"paused-replicas": "seven"}, 3, "paused", 3),
        ({"paused-scale-out": "true"}, 3, "up-paused", 3),
        ({"paused-scale-out": "true"}, 0, "up-paused", 0),
        ({"paused-scale-in": "true"}, 9, "down-paused", 9),
    ],
)
def test_people_hold_it(
    scaler: Scaler,
    redis: RedisServer,
    annotations: dict[str, str],
    replicas: int,
    reason: str,
    target: int,
) -> None:
    send(redis, 10)
    scaler.scene.set_replicas(replicas)
    scaler.observed()
    scaler.scene.annotate("Deployment", **{f"scatter-scale/{k}": v for k, v in annotations.items()})
    if reason == "down-paused":
        scaler.line()  # the first run never lowers
    line = scaler.line()
    assert (line["reason"], line["target"]) == (reason, target)
    assert scaler.scene.replicas() == target
    assert ("seven" in str(line.get("notes"))) == ("seven" in annotations.values())


def test_rival_is_refused(scaler: Scaler, redis: RedisServer) -> None:
    send(redis, 10)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"}
    scaler.scene.create(
        "HorizontalPodAutoscaler",
        {"metadata": {"name": "other"}, "spec": {"scaleTargetRef": target, "maxReplicas": 3}},
    )
    line = scaler.line(code=78)
    assert (line["wrote"], line["where"]) == (False, "scale")
    assert "horizontalpodautoscaler/other" in line["error"]
    assert scaler.scene.replicas() == 0


def test_only_one_acts(scaler: Scaler, redis: RedisServer) -> None:
    send(redis, 10)
    held = {"holderIdentity": "another", "renewTime": "2099-01-01T00:00:00.000000Z"}
    scaler.scene.admin.merge(
        scaler.scene.path("Lease"), {"spec": {**held, "leaseDurationSeconds": 55}}
    )
    line = scaler.line()
    assert (line["reason"], scaler.scene.replicas()) == ("not-leader", 0)
    assert "another" in line["holder"]
    assert scaler.run("--state", "none").returncode == 0, "for a trial"
    assert scaler.scene.replicas() == 5


def test_broken_memory_is_the_first_run(scaler: Scaler) -> None:
    scaler.pods("a", "b", "c")
    scaler.scene.annotate("Lease", **{"scatter-scale/state": '{"v": 1, "wishes": "all"}'})
    line = scaler.line()
    assert line["target"] == 3
    assert '"wishes" is no list' in line["notes"][0]
    assert scaler.state()["wishes"][-1][1] == 0, "and is mended"


def test_dry_runs_change_nothing(scaler: Scaler, redis: RedisServer) -> None:
    send(redis, 10)
    before = [scaler.scene.get("Deployment"), scaler.scene.get("Lease")]
    for how in ("client", "server"):
        line = scaler.line("--dry-run", how)
        assert (line["target"], line["wrote"], line["dry_run"]) == (5, False, how)
    told = scaler.run("--explain").stdout
    assert "10 in queue celery, priority step 0" in told
    assert "decision     0 -> 5: activate" in told
    assert [scaler.scene.get("Deployment"), scaler.scene.get("Lease")] == before


def test_line_is_a_case(scaler: Scaler, redis: RedisServer, tmp_path: Path) -> None:
    send(redis, 10)
    line = scaler.line()
    case = tmp_path / "case"
    rules = {"concurrency": 2, "down_window_s": 0, "zero_cooldown_s": 0, "period_s": 1}
    case.write_text(json.dumps({"rules": rules, "sample": line["sample"]}))
    again = json.loads(scaler.run("--replay", str(case)).stdout)
    assert (again["target"], again["reason"]) == (line["target"], line["reason"])


# ---- several targets, plans ----


def test_targets_are_apart(scaler: Scaler, redis: RedisServer) -> None:
    """One that cannot be read does not hold the other."""
    scene = scaler.scene
    scene.create("Deployment", deployment("second", 0))
    scene.create("Lease", lease("second"))
    first = scaler.config["targets"][0]
    scaler.config["targets"] += [
        {**first, "deployment": "second", "lease": "second", "queues": ["two"]},
        {**first, "deployment": "third", "lease": "third"},
    ]
    rules = scene.get("Role", "scaler")["rules"]
    for rule in rules:
        rule.pop("resourceNames", None)
    scene.admin.merge(scene.path("Role", "scaler"), {"rules": rules})
    send(redis, 10)
    send(redis, 4, "two")
    done = scaler.run()
    assert done.returncode == 78
    lines = {line["deployment"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert (lines["worker"]["target"], lines["second"]["target"]) == (5, 2)
    assert lines["third"]["where"] == "lease"
    assert json.loads(scaler.run("-d", "second").stdout)["deployment"] == "second"


def plan(database: sqlite3.Connection, name: str, state: str, records: int, **columns: Any) -> None:
    keys = {"store": "s", "queue": "celery", "database": "default", "n_batches": 1}
    row = {
        "plan": name,
        "migration": "m",
        "table_name": "t",
        "key_column": "id",
        "state": state,
        "total": records,
        **keys,
        **columns,
    }
    names = ", ".join(row)
    marks = ", ".join("?" * len(row))
    database.execute(f"INSERT INTO scatter_plan ({names}) VALUES ({marks})", list(row.values()))
    database.execute(
        "INSERT INTO scatter_batch (plan, batch, source, sha256, records) VALUES (?, 1, '', '', ?)",
        (name, records),
    )
    database.commit()


def test_plans_are_a_cap(scaler: Scaler, redis: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "plans.sqlite"
    target = scaler.config["targets"][0]
    target |= {"plans_url": f"sqlite://{path}", "plan_rate": 10, "plan_drain_s": 100}
    send(redis, 40)
    line = scaler.look()
    assert (line["target"], line["cap"]) == (10, 20), "no tables: not known, no cap"
    assert "plans are not known" in line["notes"][0]
    with sqlite3.connect(path) as database:
        database.executescript((ROOT / "planner/schema/sqlite.sql").read_text())
        assert scaler.look()["cap"] == 20, "no plan: no cap"
        plan(database, "p1", "paused", 50000)
        line = scaler.look()
        assert (line["reason"], line["target"], line["capped_by"]) == ("capped", 0, "plan")
        plan(database, "p2", "running", 3000)
        assert (scaler.look()["target"], scaler.look()["cap"]) == (3, 3)
        plan(database, "p3", "running", 90000, max_workers=4)
        assert scaler.look()["cap"] == 5, "four batches at a time are two pods"
        plan(database, "p4", "finished", 90000)
        plan(database, "p5", "running", 90000, queue="other")
        plan(database, "p6", "running", 90000, window_ends=1000.0)
        assert scaler.look()["cap"] == 5
    database.close()


# ---- configuration ----


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": []}, "nothing to scale"),
        ({"targets": [{"queues": ["a"]}]}, 'a target has no "deployment"'),
        ({"targets": [{"deployment": "w", "maximum": 3}]}, '"maximum" is not known'),
        ({"targets": [{"deployment": "w", "max": -1}]}, "a whole number from 0"),
        ({"targets": [{"deployment": "w", "min": 9, "max": 3}]}, "min (9) is more than max (3)"),
        ({"targets": [{"deployment": "w", "policy": "drain"}]}, "needs drain_s"),
        ({"targets": [{"deployment": "w", "daily_budget": 3}]}, "needs pod_hourly_cost"),
        ({"targets": [{"deployment": "w"}] * 2}, "stands there twice"),
        ({"redis": {"url_env": "NOT_SET"}}, "the variable NOT_SET is not set"),
        ({"redis": {"priority_steps": [3, 0]}}, "rising numbers"),
        ({"redis": {"url": "amqp://x"}}, "speaks only Redis"),
        ({"other": 1}, '"other" is not known'),
    ],
)
def test_wrong_configuration_is_named(scaler: Scaler, change: dict[str, Any], words: str) -> None:
    scaler.config |= change
    done = scaler.run()
    assert (done.returncode, done.stdout) == (78, "")
    assert words in done.stderr


def test_secrets_are_not_told(scaler: Scaler, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("redis://user:s3cret@127.0.0.1:1/0\n")
    scaler.config["redis"] = {"url_file": str(secret)}
    for args in ([], ["--explain"], ["--check"]):
        done = scaler.run(*args)
        assert done.returncode == 75
        assert "s3cret" not in done.stdout + done.stderr
        assert "127.0.0.1:1" in done.stdout + done.stderr


def test_check_names_what_is_missing(scaler: Scaler, redis: RedisServer) -> None:
    scene = scaler.scene
    redis.client().set("celery", "no list")
    rules = scene.get("Role", "scaler")["rules"]
    rules = [r for r in rules if r["resources"] != ["deployments/scale"]]
    scene.admin.merge(scene.path("Role", "scaler"), {"rules": rules})
    done = scaler.run("--check")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert done.returncode == 78
    assert [("WRONGTYPE" in line, "deployments/scale" in line) for line in failed] == [
        (True, False),
        (False, True),
        (False, True),
    ]


# ---- the loop ----


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read().decode()
    except urllib.error.URLError:
        return 0, ""


def test_loop_follows_the_load_and_ends_on_term(
    scaler: Scaler, redis: RedisServer, tmp_path: Path
) -> None:
    port = free_port()
    textfile = tmp_path / "scaler.prom"
    argv, env = scaler.command(
        "--loop", "--interval", "1", "--listen", f"127.0.0.1:{port}", "--textfile", str(textfile)
    )
    process = Process("scaler", argv, tmp_path, env)
    wait_until(lambda: fetch(port, "/livez")[0] == 200, "it lives")
    holder = scaler.scene.get("Lease")["spec"]["holderIdentity"]
    assert holder, "held between two runs"
    assert scaler.line()["reason"] == "not-leader"
    send(redis, 10)
    wait_until(lambda: scaler.scene.replicas() == 5, "it follows")
    wait_until(lambda: "writes_total" in fetch(port, "/metrics")[1], "metrics")

    def told() -> bool:
        text = fetch(port, "/metrics")[1]
        return 'scatter_scale_decisions_total{deployment="worker",reason="activate"} 1' in text

    wait_until(told, "the decision is counted")
    text = fetch(port, "/metrics")[1]
    assert 'scatter_scale_listed{deployment="worker",queue="celery",priority="0"} 10' in text
    assert 'scatter_scale_replicas{deployment="worker",kind="target"} 5' in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)) == 14
    assert fetch(port, "/nothing")[0] == 404
    assert "scatter_scale_ready" in textfile.read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert scaler.scene.get("Lease")["spec"]["holderIdentity"] == "", "given up"
    assert scaler.state()["last_up"] > 0


def test_loop_outlives_an_outage(scaler: Scaler, redis: RedisServer, tmp_path: Path) -> None:
    scaler.pods("a")
    own = RedisServer(tmp_path / "own")
    scaler.broker = own.url()
    argv, env = scaler.command("--loop", "--interval", "1")
    process = Process("scaler", argv, tmp_path, env)
    process.wait_for_log('"deployment": "worker"')
    own.stop()
    process.wait_for_log('"reason": "error-hold"')
    own.start()
    own.client().lpush("celery", *["x"] * 10)
    wait_until(lambda: scaler.scene.replicas() == 5, "it goes on")
    assert process.alive
    process.stop()
    own.stop()
