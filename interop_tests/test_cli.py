# SPDX-License-Identifier: Apache-2.0
"""The command line: what it prints, and that every mistake is one clear line and an exit code that is not 0."""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from harness.client import Client
from harness.redis_server import RedisServer, free_port, queue_key
from harness.waiting import wait_until
from harness.workers import EXAMPLES, WorkerFactory, celeryc

MakeClient = Callable[..., Client]


def one_clear_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line; only a mistake on the command line has its usage above, as Celery shows it."""
    shown = f"exit {done.returncode}, stdout {done.stdout!r}, stderr {done.stderr!r}"
    lines = done.stderr.strip().splitlines()
    assert done.returncode > 0, shown
    assert lines, shown
    if done.returncode == 2:
        assert lines[0].startswith("Usage:"), shown
        assert lines[-1].startswith("Error:"), shown
    else:
        assert len(lines) == 1, shown
    for word in words:
        assert word.lower() in lines[-1].lower(), f"{word!r} is not in it: {shown}"


def task_failed(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """The traceback, if there is one, then the exception."""
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("FAILURE: ")
    for word in words:
        assert word in last


@pytest.fixture
def url(redis_server: RedisServer, workers: WorkerFactory) -> str:
    workers.start("celeryc", redis_server.socket_url())
    return redis_server.socket_url()


def both_urls(url: str) -> dict[str, str]:
    return {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}


def test_call_and_result(url: str, make_client: MakeClient) -> None:
    env = both_urls(url)
    done = celeryc("call", "examples.add", "--args", "[2, 3]", "--wait", env=env)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "5", "")

    sent = celeryc("call", "examples.echo", "--kwargs", '{"value": {"ž": [1.0, null]}}', env=env)
    assert sent.returncode == 0
    task_id = sent.stdout.strip()
    assert uuid.UUID(task_id)
    assert make_client(url).get(task_id).value == {"ž": [1.0, None]}
    shown = celeryc("result", task_id, env=env)
    assert shown.returncode == 0
    assert json.loads(shown.stdout) == {"ž": [1.0, None]}


def test_compressed_result(redis_server: RedisServer, workers: WorkerFactory) -> None:
    """Waited for and read later; result_compression is a Python worker's."""
    url = redis_server.socket_url()
    workers.start("python", url, settings={"result_compression": "zstd"})
    env = both_urls(url)
    done = celeryc("call", "examples.add", "--args", "[2, 3]", "--wait", env=env)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "5", "")
    sent = celeryc("call", "examples.fail", "--args", '["ValueError", "boom"]', env=env)
    task_failed(
        celeryc("result", sent.stdout.strip(), "--wait", "--timeout", "10", env=env), "boom"
    )
    task_failed(celeryc("result", sent.stdout.strip(), env=env), "boom")


def test_call_of_a_task_that_fails(url: str) -> None:
    env = both_urls(url)
    done = celeryc("call", "examples.fail", "--args", '["ValueError", "boom"]', "--wait", env=env)
    task_failed(done, "ValueError", "boom")
    done = celeryc("call", "nobody.has_this", "--wait", env=env)
    task_failed(done, "NotRegistered", "nobody.has_this")


def test_call_with_options(redis_server: RedisServer) -> None:
    url = redis_server.socket_url()
    done = celeryc(
        "call",
        "examples.add",
        "--args",
        "[1, 1]",
        "--queue",
        "parcels",
        "--priority",
        "9",
        "-b",
        url,
    )
    assert done.returncode == 0, done.stderr
    message = json.loads(redis_server.client().lindex(queue_key("parcels", 9), 0))
    assert message["headers"]["id"] == done.stdout.strip()
    assert message["headers"]["task"] == "examples.add"


def test_call_is_run_by_celery(redis_server: RedisServer, workers: WorkerFactory) -> None:
    url = redis_server.socket_url()
    workers.start("python", url)
    done = celeryc("call", "examples.add", "--args", "[2, 3]", "--wait", env=both_urls(url))
    assert (done.returncode, done.stdout.strip()) == (0, "5"), done.stderr
    done = celeryc(
        "call",
        "examples.add",
        "--args",
        "[2, 3]",
        "--countdown",
        "0.2",
        "--wait",
        env=both_urls(url),
    )
    assert (done.returncode, done.stdout.strip()) == (0, "5"), done.stderr
    done = celeryc(
        "call", "examples.fail", "--args", '["KeyError", "k"]', "--wait", env=both_urls(url)
    )
    task_failed(done, "KeyError")


def test_call_of_a_canvas(
    redis_server: RedisServer, workers: WorkerFactory, tmp_path: Path
) -> None:
    """As a user has it from json.dumps(canvas) in Python."""
    url = redis_server.socket_url()
    app = Celery(set_as_current=False)

    def add(*args: int) -> Any:
        return app.signature("examples.add", args=args)

    echo = app.signature("examples.echo")
    env = both_urls(url)
    workers.start("python", url)
    workers.start("celeryc", url)
    for canvas, printed in (
        (add(2, 3), 5),
        (chain(add(1, 2), add(10), add(100)), 113),
        (group([add(1, 1), add(2, 2)], app=app), [2, 4]),
        (chord([add(1, 1), add(2, 2)], echo, app=app), [2, 4]),
    ):
        done = celeryc("call", "--canvas", json.dumps(canvas), "--wait", env=env)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == printed
    path = tmp_path / "canvas.json"
    path.write_text(json.dumps(chain(add(1, 2), add(10))))
    done = celeryc("call", "--canvas", f"@{path}", "--task-id", "the-last", env=env)
    assert (done.returncode, done.stdout) == (0, "the-last\n")
    done = celeryc("result", "the-last", "--wait", env=env)
    assert done.stdout == "13\n"
    failing = chain(app.signature("examples.fail", args=("ValueError", "boom")), echo)
    done = celeryc("call", "--canvas", json.dumps(failing), "--wait", env=env)
    task_failed(done, "ValueError", "boom")
    later = celeryc(
        "call",
        "--canvas",
        json.dumps(add(1, 1)),
        "--countdown",
        "30",
        "--wait",
        "--timeout",
        "0.1",
        env=env,
    )
    assert (later.returncode, later.stdout) == (3, "")
    assert "no result yet" in later.stderr
    redis_server.client().flushdb()


def test_purge(redis_server: RedisServer, make_client: MakeClient) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    for priority in (0, 3, 9, 0):
        client.send("examples.add", 1, 1, priority=priority)
    client.send("examples.add", 1, 1, queue="other")
    done = celeryc("purge", "-f", "-b", url)
    assert done.returncode == 0, done.stderr
    assert "4" in done.stdout
    assert redis_server.client().llen("other") == 1
    assert not redis_server.client().keys("celery*")
    done = celeryc("purge", "-f", "-Q", "other", "-b", url)
    assert done.returncode == 0, done.stderr
    assert "1" in done.stdout
    assert not redis_server.client().exists("other")


def test_version_and_help() -> None:
    done = celeryc("--version")
    assert done.returncode == 0
    assert done.stdout.strip()
    for command in ([], ["worker"], ["call"], ["result"], ["purge"]):
        done = celeryc(*command, "--help")
        assert done.returncode == 0, command
        assert "--" in done.stdout, command


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["worker", "-b", "amqp://guest@localhost//"], ["amqp", "redis://"]),
        (["worker", "-b", "localhost:6379"], ["localhost:6379"]),
        (["worker", "-b", "redis://localhost:port/0"], ["port"]),
        (["worker", "-b", "redis://localhost:70000/0"], ["70000"]),
        (["worker", "-b", "redis://localhost/first"], ["first"]),
        (["worker", "-b", "redis://localhost/0?ssl_cert_reqs=none"], ["rediss://"]),
        (["worker", "-b", "rediss://localhost/0?ssl_cert_reqs=sure"], ["required, optional, none"]),
        (["worker", "-b", "sentinel://localhost:26379"], ["sentinel", "master_name"]),
        (["worker", "-b", "redis://a/0;sentinel://b/0"], ["Sentinels"]),
        (["worker", "-b", "redis+socket://"], ["redis+socket"]),
        (["worker", "--result-backend", "db+sqlite:///results.db"], ["db+sqlite", "redis"]),
        (["worker", "--result-backend", "rpc://"], ["rpc"]),
        (["worker", "--result-backend", "cache+memcached://127.0.0.1/"], ["cache+memcached"]),
        (["worker", "--result-backend", "file:///tmp/results"], ["file"]),
        (["worker", "--result-backend", "django-db"], ["django-db"]),
        (["worker", "-c", "many"], ["many"]),
        (["worker", "-P", "gevent"], ["gevent"]),
        (["worker", "-l", "LOUD"], ["LOUD"]),
        (["worker", "--no-such-option"], ["no-such-option"]),
        (
            ["worker", "--config", "/nonexistent/celeryconfig.json"],
            ["/nonexistent/celeryconfig.json"],
        ),
        (["call"], ["name"]),
        (["call", "examples.add", "--args", "[1,"], ["--args"]),
        (["call", "examples.add", "--args", "7"], ["--args"]),
        (["call", "examples.add", "--kwargs", "[]"], ["--kwargs"]),
        (["call", "examples.add", "-b", "http://localhost"], ["http"]),
        (["call", "--canvas", "{"], ["--canvas"]),
        (["call", "--canvas", "[]"], ["--canvas", "signature"]),
        (
            ["call", "--canvas", "@/nonexistent/canvas.json"],
            ["--canvas", "/nonexistent/canvas.json"],
        ),
        (["call", "--canvas", '{"task": "t"}', "--args", "[1]"], ["--args"]),
        (["call", "--canvas", '{"task": "t"}', "t"], ["extra"]),
        (["call", "--canvas", '{"task": "t"}', "--wait"], ["--wait", "--result-backend"]),
        (["call", "--canvas", '{"task": "t"}', "--eta", "soon"], ["--eta"]),
        (["result"], ["id"]),
        (["purge", "-f", "-b", "amqp://localhost"], ["amqp"]),
        (["fly"], ["fly"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_on_the_line(args: Sequence[str], words: Sequence[str]) -> None:
    command = list(args)
    if command[0] == "worker":
        command[1:1] = ["-A", str(EXAMPLES)]
    one_clear_line(celeryc(*command), *words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("{", ["celeryconfig.json"]),
        ("[]", ["celeryconfig.json"]),
        ('{"task_defualt_queue": "x"}', ["task_defualt_queue"]),
        ('{"result_expires": "never"}', ["result_expires"]),
        ('{"result_serializer": "pickle"}', ["result_serializer"]),
        ('{"result_backend": "mongodb://localhost"}', ["mongodb"]),
        ('{"broker_transport_options": {"global_keyprefx": "x"}}', ["global_keyprefx"]),
    ],
)
def test_mistakes_in_the_settings_file(settings: str, words: Sequence[str], tmp_path: Path) -> None:
    path = tmp_path / "celeryconfig.json"
    path.write_text(settings)
    one_clear_line(celeryc("worker", "-A", EXAMPLES, "--config", path), *words)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [("SCATTER_LEASE", "soon", "write 60s"), ("SCATTER_COPY", "maybe", "auto, always, never")],
)
def test_mistakes_in_the_environment(name: str, text: str, words: str) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    one_clear_line(celeryc("worker", "-b", url, env={name: text}), f"{name}={text}", words)


def test_missing_and_broken_plugins(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    one_clear_line(
        celeryc("worker", "-A", "/nonexistent/tasks.so", "-b", url), "/nonexistent/tasks.so"
    )
    text = tmp_path / "text.so"
    text.write_text("not a shared object")
    one_clear_line(celeryc("worker", "-A", text, "-b", url), str(text))
    twice = tmp_path / "twice.c"
    twice.write_text(
        "#include <celeryc/task.h>\n"
        "static int f(struct celeryc_call *c) { return celeryc_return_none(c); }\n"
        'CELERYC_TASK("examples.add", f)\n'
    )
    include = Path(__file__).resolve().parent.parent / "celeryc/include"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-I", include, twice, "-o", tmp_path / "twice.so"], check=True
    )
    done = celeryc("worker", "-A", EXAMPLES, "-A", tmp_path / "twice.so", "-b", url)
    one_clear_line(done, "examples.add")


def test_commands_without_a_redis() -> None:
    address = f"127.0.0.1:{free_port()}"
    url = f"redis://:secret@{address}/0"
    for command in (["call", "examples.add"], ["purge", "-f"], ["result", "x"]):
        done = celeryc(*command, env=both_urls(url))
        one_clear_line(done, address)
        assert "secret" not in done.stderr


def test_wrong_password(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", password="right")
    try:
        wrong = server.password_url().replace("right", "wrong")
        for command in (["call", "examples.add"], ["purge", "-f"], ["result", "x"]):
            done = celeryc(*command, env=both_urls(wrong))
            one_clear_line(done, "password")
            assert "wrong@" not in done.stderr
    finally:
        server.stop()


@pytest.mark.parametrize("kind", ["python", "celeryc"])
def test_worker_waits_for_its_redis(
    kind: str, tmp_path: Path, workers: WorkerFactory, make_client: MakeClient
) -> None:
    server = RedisServer(tmp_path / "redis")
    try:
        server.stop()
        worker = workers.start(kind, server.url(), wait=False)
        worker.process.wait_for_log("Cannot connect to redis://.*")
        server.start()
        worker.wait_ready()
        assert make_client(server.url()).call("examples.add", 1, 1).value == 2
    finally:
        workers.stop_all()
        server.stop()


def test_banner_names_what_was_started(redis_server: RedisServer, workers: WorkerFactory) -> None:
    worker = workers.start("celeryc", redis_server.url(3), queues=["left", "right"], concurrency=3)
    log = worker.process.log()
    for part in (worker.node, "concurrency: 3 (prefork)", ".> left", ".> right", ". examples.add"):
        assert part in log
    wait_until(lambda: redis_server.client(3).zcard("celeryc:workers") == 1, "its entry")


def test_redis_user_without_rights_to_our_keys(tmp_path: Path, workers: WorkerFactory) -> None:
    """One clear line, not a loop of failures."""
    rights = (
        "on nopass +@all &* ~celery ~celery\x06* ~unacked* ~_kombu* ~celery-task-meta-*".split()
    )
    server = RedisServer(tmp_path / "redis", options=["--user", "limited", *rights])
    try:
        url = f"redis://limited:x@127.0.0.1:{server.port}/0"
        worker = workers.start("celeryc", url, wait=False)
        assert worker.process.wait() > 0
        log = worker.process.log()
        assert "celeryc:" in log
        assert "ACL" in log or "permission" in log.lower()
        assert len(re.findall("CRITICAL|ERROR", log)) == 1
    finally:
        workers.stop_all()
        server.stop()
