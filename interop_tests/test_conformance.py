# SPDX-License-Identifier: Apache-2.0
"""The parts of `make conformance` that judge: what was pushed, what counts as worse; and the suite's tasks in C. The suite
itself is downloaded and takes 22 minutes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conformance.remote import AnyNode, Pool, merged
from conformance.run import KINDS, LEFT_OUT, build
from conformance.table import (
    Outcomes,
    complaints,
    left_out_because,
    load,
    load_left_out,
    table,
    unusable,
)
from conformance.tap import parse_monitor, pushed_tasks
from harness.client import Client
from harness.redis_server import RedisServer
from harness.workers import WorkerFactory

FILE = "t/integration/test_a.py"
ONE, TWO, XPASS, BAD, SKIPPED = (f"{FILE}::test_{n}" for n in ("one", "two", "x", "bad", "skipped"))
BASELINE = Outcomes(
    "python",
    {ONE: "passed", TWO: "passed", XPASS: "xpassed", BAD: "failed", SKIPPED: "skipped"},
    handled={"python@interop": 3},
)


def judged(
    changes: dict[str, str | None] | None = None,
    left_out: list[tuple[str, str]] | None = None,
    handled: dict[str, int] | None = None,
) -> str:
    """What is said of celeryc when it differs from the baseline in `changes`; None: the test has not run."""
    changed = BASELINE.tests | (changes or {})
    tests = {test: outcome for test, outcome in changed.items() if outcome is not None}
    other = Outcomes("celeryc", tests, handled=handled or {"celeryc1@interop": 1})
    return "\n".join(complaints(BASELINE, other, left_out or [], 1))


def test_equal_or_better_is_accepted() -> None:
    assert judged() == ""
    assert judged({BAD: "passed", XPASS: "passed", ONE: "xpassed", SKIPPED: "failed"}) == ""
    assert judged({BAD: None, SKIPPED: None}) == ""


@pytest.mark.parametrize("outcome", ["failed", "error", "skipped", "xfailed", None])
@pytest.mark.parametrize("test", [ONE, XPASS])
def test_what_passes_with_python_must_pass(test: str, outcome: str | None) -> None:
    said = judged({test: outcome})
    assert said == f"celeryc: {outcome or 'not run'}: {test}"


def test_left_out_tests_are_not_compared() -> None:
    assert judged({ONE: "failed"}, [(ONE, "why")]) == ""
    assert judged({TWO: "failed"}, [(ONE, "why")]) != ""


def test_a_worker_without_tasks_is_told_of() -> None:
    assert "not every worker had tasks" in judged(handled={"celeryc1@interop": 0})
    nothing = Outcomes("celeryc", BASELINE.tests, handled={})
    assert complaints(BASELINE, nothing, [], 1) != []
    assert complaints(BASELINE, nothing, []) == []  # of a selection


def test_without_a_baseline_failures_count() -> None:
    other = Outcomes("celeryc", {ONE: "failed", TWO: "xfailed"}, handled={"celeryc1@interop": 2})
    (said,) = complaints(None, other, [], 1)
    assert ONE in said


def test_a_broken_baseline_excuses_nothing() -> None:
    tests = {f"{FILE}::test_{i}": "passed" for i in range(40)}
    one, two, three = list(tests)[:3]
    assert unusable(Outcomes("python", tests)) == []
    assert unusable(Outcomes("python", tests | {one: "failed", two: "error"})) == []
    assert unusable(Outcomes("python", tests | dict.fromkeys((one, two, three), "error"))) != []
    assert unusable(Outcomes("python", {})) != []
    assert unusable(Outcomes("python", tests | {FILE: "error"})) != []


def test_table(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    rows: list[dict[str, Any]] = [
        {"summary": {"handled": {"celeryc1@interop": 7}}},
        {"id": ONE, "outcome": "passed"},
        {"id": TWO, "outcome": "error", "why": "no answer"},
        {"id": BAD, "outcome": "left out", "why": "eager"},
        {"id": SKIPPED, "outcome": None},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = load("celeryc", path)
    assert other.handled == {"celeryc1@interop": 7}
    assert other.why[TWO] == "no answer"
    assert table([BASELINE, other]).splitlines() == [
        "           python                                    celeryc",
        "-" * 71,
        "test_a.py  2 passed, 1 FAILED, 1 skipped, 1 xpassed  1 passed, 2 FAILED",
        "-" * 71,
        "all        2 passed, 1 FAILED, 1 skipped, 1 xpassed  1 passed, 2 FAILED",
    ]


def test_left_out_patterns(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(
        "# a comment\n\na.py   no worker\nb.py::test_*_x   a pattern\nmixed: c.py::test   two of them\n"
    )
    everywhere = load_left_out(path, "celeryc")
    assert everywhere == [("a.py", "no worker"), ("b.py::test_*_x", "a pattern")]
    assert load_left_out(path, "mixed") == [*everywhere, ("c.py::test", "two of them")]
    assert left_out_because(everywhere, "a.py::test_1") == "no worker"
    assert left_out_because(everywhere, "a.pyx::test_1") is None
    assert left_out_because(everywhere, "b.py::test_1_x") == "a pattern"
    assert left_out_because([("b.py::test", "r")], "b.py::test[1]") == "r"
    assert left_out_because([("b.py::test", "r")], "b.py::test_2") is None
    for kind in KINDS:
        assert all(reason for _, reason in load_left_out(LEFT_OUT, kind))


def test_monitor_lines_are_read_as_redis_writes_them(redis_server: RedisServer) -> None:
    client = redis_server.client()
    payload = (
        b'{"headers": {"task": "\xc3\xa5"}, "quote": "\\"", "odd": "\r\n\t\x00\x07\x08\xff\\"}'
    )
    with client.monitor() as monitor:
        client.lpush("celery", payload, b'{"no": 1}')
        client.lpush("a.reply.celery.pidbox", payload)
        client.eval("return redis.call('RPUSH', 'celery', ARGV[1])", 0, payload)
        lines: list[bytes] = []
        while len(lines) < 4:
            line = monitor.connection.read_response(disable_decoding=True)
            lines += [line] if b"PUSH" in line else []
    assert parse_monitor(lines[0]) == [b"LPUSH", b"celery", payload, b'{"no": 1}']
    assert [pushed_tasks(line) for line in lines] == [[payload], [], [], [payload]]


def test_several_workers_answer_as_one() -> None:
    assert merged([{"ok": "pong"}, {"ok": "pong"}]) == {"ok": "pong"}
    assert merged([[1, {"a": 2}], [{"a": 2}, 3]]) == [1, {"a": 2}, 3]
    assert merged([{}, {"id": ["active", {}]}]) == {"id": ["active", {}]}
    assert merged([{"pid": 1, "mine": 2}, {"pid": 3, "other": 4}]) == {
        "pid": 1,
        "mine": 2,
        "other": 4,
    }
    pool = Pool(2)
    pool.take_nodes(["a@x", "b@x"])
    assert {"hostname": pool.name} == {"hostname": "b@x"}
    assert {"a@x": 1}[pool.name] == 1
    assert pool.name != "c@x"
    assert not pool.name != "b@x"  # noqa: SIM202
    assert isinstance(pool.name, AnyNode)


# What Python says to x + y + z.
SUMS: dict[str, tuple[list[Any], Any]] = {
    "ints": ([2, 3], 5),
    "int and float": ([1, 0.5], 1.5),
    "bools": ([True, True], 2),
    "strings": (["Hello ", "wörld"], "Hello wörld"),
    "lists": ([[3, 7], [5, None]], [3, 7, 5, None]),
    "three": ([1, 2, 3], 6),
    "nothing more": ([1, 2, 0], 3),
    "int and str": ([1, "a"], "unsupported operand type(s) for +: 'int' and 'str'"),
    "str and int": (["a", 1], 'can only concatenate str (not "int") to str'),
    "list and dict": ([[], {}], 'can only concatenate list (not "dict") to list'),
    "none": ([None, 1], "unsupported operand type(s) for +: 'NoneType' and 'int'"),
}


def python_sum(x: Any, y: Any, z: Any = None) -> Any:
    try:
        return x + y + z if z else x + y
    except TypeError as e:
        return str(e)


@pytest.fixture
def suite_client(
    tmp_path: Path, redis_server: RedisServer, make_client: Callable[..., Client]
) -> Any:
    """Of a celeryc with the suite's tasks."""
    factory = WorkerFactory(tmp_path / "workers", [build(tmp_path / "plugin")])
    env = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis_server.port)}
    factory.start("celeryc", redis_server.url(), concurrency=1, env=env)
    yield make_client(redis_server.url())
    factory.stop_all()


def test_the_tasks_in_c_do_what_python_does(
    suite_client: Client, redis_server: RedisServer
) -> None:
    for args, expected in SUMS.values():
        outcome = suite_client.call("t.integration.tasks.add", *args)
        assert expected in (outcome.value, *(outcome.exc_args or []))
        assert expected == python_sum(*args)
    assert suite_client.call("t.integration.tasks.xsum", [1, [2, 3], 4.5]).value == 10.5
    failed = suite_client.call("t.integration.tasks.fail", 1, "x")
    assert (failed.exc_type, failed.exc_args) == (
        "ExpectedException",
        ["Task expected to fail", 1, "x"],
    )
    assert (
        suite_client.call(
            "t.integration.tasks.redis_echo", "wörld", _kwargs={"redis_key": "k"}
        ).value
        is None
    )
    assert redis_server.client().lrange("k", 0, -1) == ["wörld".encode()]
