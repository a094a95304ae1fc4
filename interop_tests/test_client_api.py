# SPDX-License-Identifier: Apache-2.0
"""<celeryc/client.h> in a program of its own: it sends canvases to workers of every kind and waits for what comes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, chunks, group
from celery.result import result_from_tuple
from harness.fleet import Fleet, nothing_left
from harness.program import Program
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import CELERYC, ROOT, WorkerFactory, build_program

app = Celery("signatures", set_as_current=False)

pytestmark = pytest.mark.clients("celery-5.7")  # the client is ours


def sig(name: str, *args: Any, **options: Any) -> Any:
    return app.signature(name, args=args, options=options)


def add(*args: int, **options: Any) -> Any:
    return sig("examples.add", *args, **options)


def echo() -> Any:
    return sig("examples.echo")


def fail(message: str) -> Any:
    return sig("examples.fail", "ValueError", message)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_program(ROOT / "interop_tests/program/driver.c", tmp_path_factory.mktemp("driver"))


@pytest.fixture
def program(fleet: Fleet, driver: Path, client_version: str) -> Iterator[Program]:
    assert client_version
    made = Program(driver, fleet.url, fleet.url)
    yield made
    made.close()
    fleet.settle()


def shapes() -> dict[str, tuple[Callable[[], Any], Any]]:
    return {
        "task": (lambda: add(2, 3), 5),
        "chain": (lambda: chain(add(1, 2), add(10), add(100), app=app), 113),
        "group": (lambda: group([add(i, i) for i in range(5)], app=app), [0, 2, 4, 6, 8]),
        "chord": (lambda: chord([add(i, i) for i in range(5)], echo(), app=app), [0, 2, 4, 6, 8]),
        "group in a group": (
            lambda: group([add(1, 1), chord([add(2, 2)], echo(), app=app)], app=app),
            [2, [4]],
        ),
        "chord after a step": (
            lambda: chain(add(1, 1), group([add(10), add(20)], app=app), echo(), app=app),
            [12, 22],
        ),
        "empty group": (lambda: group([], app=app), []),
    }


@pytest.mark.parametrize("shape", list(shapes()))
def test_shapes(fleet: Fleet, program: Program, shape: str) -> None:
    make, value = shapes()[shape]
    for _ in range(fleet.rounds):
        program.apply(make())
        assert program.wait() == {
            "code": "ok",
            "state": "SUCCESS",
            "json": value,
            "traceback": None,
        }


def test_python_finds_the_result_again(fleet: Fleet, program: Program) -> None:
    reader = Celery(broker=fleet.url, backend=fleet.url, set_as_current=False)
    answer = program.apply(chain(add(1, 2), add(10), app=app))
    result: Any = result_from_tuple(answer, app=reader)
    assert result.get(timeout=20) == 13
    assert result.parent.get(timeout=20) == 3
    answer = program.apply(group([add(1, 2), add(3, 4)], app=app))
    assert result_from_tuple(answer, app=reader).get(timeout=20) == [3, 7]
    reader.close()


def test_failure(fleet: Fleet, program: Program) -> None:
    for _ in range(fleet.rounds):
        program.apply(fail("boom"))
        ended = program.wait()
        assert (ended["code"], ended["state"]) == ("ok", "FAILURE")
        assert ended["json"]["exc_type"] == "ValueError"
        assert ended["json"]["exc_message"] == ["boom"]
        assert ended["traceback"].rstrip().endswith("ValueError: boom")


def test_failure_of_an_earlier_step(fleet: Fleet, program: Program) -> None:
    for _ in range(fleet.rounds):
        program.apply(chain(fail("first"), echo(), echo(), app=app))
        ended = program.wait()
        assert (ended["state"], ended["json"]["exc_message"]) == ("FAILURE", ["first"])


def test_failure_of_a_member(fleet: Fleet, program: Program) -> None:
    for _ in range(fleet.rounds):
        program.apply(group([add(1, 1), fail("second"), add(3, 3)], app=app))
        ended = program.wait()
        assert (ended["state"], ended["json"]["exc_message"]) == ("FAILURE", ["second"])


def test_progress_is_no_result(fleet: Fleet, program: Program) -> None:
    for _ in range(fleet.rounds):
        program.apply(sig("examples.flaky", "key", 3))
        assert program.wait()["json"] == 3
        program.apply(sig("interop.progress", 40))
        assert program.wait()["json"] == "complete"


def test_timeout_and_later(fleet: Fleet, program: Program) -> None:
    for _ in range(fleet.rounds):
        program.apply(add(1, 1, countdown=0.5))
        ended = program.wait(0.05)
        assert (ended["code"], ended["json"]) == ("timeout", None)
        assert program.ask("state") == "PENDING"
        assert program.wait()["json"] == 2
        assert program.ask("state") == "SUCCESS"


def test_a_result_of_somebody_else(fleet: Fleet, program: Program) -> None:
    tuple_ = program.apply(add(1, 1))
    assert program.wait()["json"] == 2
    assert program.ask("result " + tuple_[0][0]) == tuple_
    assert program.ask("state") == "SUCCESS"
    assert program.ask("forget") == 0
    program.ask("result " + tuple_[0][0])
    assert program.ask("state") == "PENDING"


def test_chunks(fleet: Fleet, program: Program) -> None:
    """As Python's chunks object is applied: a group of starmaps."""
    made = chunks(add(), [[i, i] for i in range(5)], 2, app=app) | {"subtask_type": "chunks"}
    for _ in range(fleet.rounds):
        program.apply(made)
        assert program.wait()["json"] == [[0, 2], [4, 6], [8]]


@pytest.mark.fleets("celeryc")
def test_what_cannot_be_sent(fleet: Fleet, driver: Path, program: Program) -> None:
    assert "no task name" in program.apply({"task": ""})["error"]
    assert "signature" in program.apply([])["error"]
    with Program(driver, fleet.url) as bare:
        assert "result backend" in bare.apply(chord([add(1, 1)], echo(), app=app))["error"]
    with Program(driver, "amqp://localhost") as wrong:
        assert "amqp" in wrong.apply(add(1, 1))["error"]
    with Program(driver, fleet.url, fleet.url, {"task_default_queue": 5}) as odd:
        assert "task_default_queue" in odd.apply(add(1, 1))["error"]
    nothing_left(fleet.redis, fleet.db)


def test_settings(redis_server: RedisServer, workers: WorkerFactory, driver: Path) -> None:
    """Prefixes and the default queue, as the workers have them."""
    url = redis_server.socket_url(0)
    settings = {
        "task_default_queue": "orders",
        "task_serializer": "msgpack",
        "accept_content": ["msgpack", "json"],
        "broker_transport_options": {"global_keyprefix": "shop:"},
        "result_backend_transport_options": {"global_keyprefix": "res"},
    }
    workers.start("python", url, queues=["orders"], settings=settings)
    with Program(driver, url, url, settings) as program:
        program.apply(chord([add(1, 1), add(2, 2)], echo(), app=app))
        assert program.wait()["json"] == [2, 4]


def test_two_servers(
    redis_server: RedisServer, workers: WorkerFactory, driver: Path, tmp_path: Path
) -> None:
    other = RedisServer(tmp_path / "other")
    try:
        broker, backend = redis_server.socket_url(0), other.socket_url(0)
        workers.start("celeryc", broker, backend)
        with Program(driver, broker, backend) as program:
            program.apply(chord([add(i, i) for i in range(20)], echo(), app=app))
            assert program.wait()["json"] == [2 * i for i in range(20)]
    finally:
        other.stop()


def test_a_connection_that_is_lost(
    redis_server: RedisServer, workers: WorkerFactory, driver: Path
) -> None:
    url = redis_server.socket_url(0)
    r = redis_server.client(0)
    worker = workers.start("celeryc", url)
    with Program(driver, url, url) as program:
        tuple_ = program.apply(sig("examples.sleep", 1.5))
        wait_until(lambda: worker.received([tuple_[0][0]]), "the task runs")
        program.tell("wait 20")
        channel = f"celery-task-meta-{tuple_[0][0]}"

        def subscribed() -> bool:
            return bool(r.pubsub_numsub(channel)[0][1])

        wait_until(subscribed, "the program waits")
        r.client_kill_filter(_type="pubsub", skipme=True)
        r.client_kill_filter(_type="normal", skipme=True)
        assert program.answer()["json"] == 1.5
        program.apply(add(1, 1))
        assert program.wait()["json"] == 2


def test_a_server_that_is_gone(redis_server: RedisServer, driver: Path) -> None:
    url = redis_server.socket_url(0)
    with Program(driver, url, url) as program:
        program.apply(add(1, 1))
        redis_server.stop()
        began = time.monotonic()
        ended = program.wait(1.0)
        assert ended["code"] == "timeout"
        assert "redis" in ended["state"]  # the error, which names the server
        assert time.monotonic() - began < 6


def test_many(fleet: Fleet, program: Program) -> None:
    program.apply(group([add(i, i) for i in range(1500)], app=app))
    assert program.wait(60)["json"] == [2 * i for i in range(1500)]


def test_the_example(fleet: Fleet, program: Program, tmp_path: Path) -> None:
    """Built against what is installed, with the words of its own first lines."""
    root = tmp_path / "root"
    build = CELERYC.resolve().parent.parent
    subprocess.run(
        ["meson", "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", root], check=True
    )
    (pc,) = root.rglob("celeryc.pc")
    source = ROOT / "celeryc/plugins/program.c"
    command = f"cc {source} $(pkg-config --cflags --libs celeryc) -o program"
    env = os.environ | {
        "PKG_CONFIG_PATH": str(pc.parent),
        "PKG_CONFIG_SYSROOT_DIR": str(root),
    }
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, env=env)
    out = subprocess.run(
        [tmp_path / "program", fleet.url],
        capture_output=True,
        text=True,
        timeout=40,
        check=True,
        env=os.environ | {"LD_LIBRARY_PATH": str(pc.parent.parent)},
    )
    assert out.stdout == "SUCCESS [2, 4]\n"


@pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning")
def test_signatures_are_celery_s(tmp_path: Path) -> None:
    """Built in C and in Python: the same JSON. (Given an app, Python's chain() does not compose its steps.)"""
    program = build_program(ROOT / "interop_tests/program/signatures.c", tmp_path)
    out = subprocess.run([program], capture_output=True, text=True, timeout=20, check=True).stdout
    built = dict(line.split(" ", 1) for line in out.splitlines())
    expected = python_signatures()
    assert set(built) == set(expected)
    for name, made in expected.items():
        assert json.loads(built[name]) == json.loads(json.dumps(made)), name


def python_signatures() -> dict[str, Any]:
    a, b, c = (partial(sig, name) for name in "abc")
    kinds: dict[str, Callable[[], Any]] = {
        "task": lambda: sig("t", 1, "x"),
        "chain": lambda: chain(a(), b(), c()),
        "group": lambda: group([a(), b()], app=app),
        "chord": lambda: chord([a(), b()], c(), app=app),
        "group-then": lambda: chain(group([a(), b()], app=app), c()),
        "then-group": lambda: chain(a(), group([b(), c()], app=app)),
        "then-group-then": lambda: chain(a(), group([b(), c()], app=app), a()),
        "lone-group": lambda: chain(group([a(), b()], app=app)),
        "chain-in-chain": lambda: chain(chain(a(), b(), app=app), c()),
        "group-in-group": lambda: group(group([a(), b()], app=app), app=app),
        "chord-then": lambda: chain(chord([a()], b(), app=app), c()),
    }
    made = {}
    for name, make in kinds.items():
        made[name] = make()
        linked = make()
        linked.link(sig("l"))
        made[f"{name}+link"] = linked
        linked = make()
        linked.link_error(sig("e"))
        made[f"{name}+errback"] = linked
        stamped = make()
        stamped.stamp(s=[1])
        made[f"{name}+stamp"] = stamped
        fixed = make()
        fixed.set_immutable(True)
        fixed.set(queue="q", countdown=1.5)
        made[f"{name}+set"] = fixed
    return made
