# SPDX-License-Identifier: Apache-2.0
"""The Python twins of the C tasks: celeryc/plugins/examples.c and interop_tests/plugin/interop.c.

Loaded by `celery -A interop_app worker` under Celery 5.7 and Debian's 5.2, so it imports nothing from here.
Settings come as JSON in INTEROP_SETTINGS; broker and result backend from Celery's own variables.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

from celery import Celery, Task, chord, signature
from celery.exceptions import Ignore, Reject

warnings.simplefilter("default")

app = Celery("interop_app")
app.conf.update(json.loads(os.environ.get("INTEROP_SETTINGS", "{}")))
if app.conf.security_key:
    app.setup_security(digest=app.conf.security_digest)  # which is not taken from the settings


def append_line(path: str, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


# A module that only the worker has, as user code is: the client cannot import it.
shop_errors = types.ModuleType("shop.errors")
shop_errors.OutOfStock = type("OutOfStock", (Exception,), {"__module__": "shop.errors"})  # type: ignore[attr-defined]
sys.modules["shop"] = types.ModuleType("shop")
sys.modules["shop.errors"] = shop_errors


def exception_class(name: str) -> type[BaseException]:
    module, _, short = name.rpartition(".")
    found = getattr(importlib.import_module(module or "builtins"), short)
    assert isinstance(found, type)
    assert issubclass(found, BaseException)
    return found


@app.task(name="examples.add")
def add(a: Any, b: Any) -> Any:
    return a + b


@app.task(name="examples.echo")
def echo(value: Any) -> Any:
    return value


@app.task(name="examples.sleep", acks_late=True)
def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.task(name="examples.fail")
def fail(exc_type: str, message: str) -> None:
    raise exception_class(exc_type)(message)


@app.task(name="examples.flaky", bind=True, max_retries=None)
def flaky(self: Task[Any, Any], key: str, n: int) -> int:
    attempt = int(self.request.retries) + 1
    if attempt < n:
        raise self.retry(exc=RuntimeError(f"{key}: attempt {attempt} of {n}"), countdown=0.05)
    return n


@app.task(name="examples.append", acks_late=True)
def append(path: str, line: str) -> None:
    append_line(path, line)


@app.task(name="examples.total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


def doubles(n: int) -> Any:
    return chord([add.s(i, i) for i in range(n)], total.s())


@app.task(name="examples.fan_out", bind=True)
def fan_out(self: Task[Any, Any], n: int) -> None:
    raise self.replace(doubles(n))


@app.task(name="examples.start")
def start(n: int) -> Any:
    return doubles(n).apply_async(priority=3).as_tuple()


def hold_once(path: str, line: str, seconds: float) -> int:
    """Note the start; the first one of a line lasts `seconds`, later ones no time. Returns the number of starts."""
    append_line(path, line)
    starts = Path(path).read_text().splitlines().count(line)
    if starts == 1:
        time.sleep(seconds)
    return starts


@app.task(name="interop.hold")
def hold(path: str, line: str, seconds: float) -> int:
    return hold_once(path, line, seconds)


@app.task(name="interop.hold_late", acks_late=True)
def hold_late(path: str, line: str, seconds: float) -> int:
    return hold_once(path, line, seconds)


@app.task(name="interop.hold_lost", retry_on_worker_lost=True, default_retry_delay=1)
def hold_lost(path: str, line: str, seconds: float) -> int:
    return hold_once(path, line, seconds)


@app.task(name="interop.hold_retry", bind=True, acks_late=True)
def hold_retry(self: Task[Any, Any], path: str, line: str, seconds: float) -> int:
    """The first start ends with a retry, that is with a message; later ones return."""
    starts = hold_once(path, line, seconds)
    if starts == 1:
        raise self.retry(countdown=0.01)
    return starts


def note_run(path: str, line: str, seconds: float) -> None:
    append_line(path, f"s {line} {os.getpid()}")
    time.sleep(seconds)
    append_line(path, f"e {line} {os.getpid()}")


@app.task(name="interop.note")
def note(path: str, line: str, seconds: float) -> None:
    note_run(path, line, seconds)


@app.task(name="interop.note_late", acks_late=True)
def note_late(path: str, line: str, seconds: float) -> None:
    note_run(path, line, seconds)


@app.task(name="interop.note_failure", acks_late=True)
def note_failure(failed_id: str, path: str) -> None:
    append_line(path, failed_id)


@app.task(name="interop.die")
def die(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


@app.task(name="interop.die_requeue", acks_late=True, reject_on_worker_lost=True)
def die_requeue(path: str, n: int) -> int:
    """Dies until its n-th start."""
    append_line(path, "start")
    starts = len(Path(path).read_text().splitlines())
    if starts < n:
        os.kill(os.getpid(), signal.SIGKILL)
    return starts


@app.task(name="interop.die_retry", retry_on_worker_lost=True, max_retries=2, default_retry_delay=1)
def die_retry(path: str, n: int) -> int:
    """With retry_on_worker_lost, a death is a retry."""
    return int(die_requeue(path, n))


@app.task(
    name="interop.die_retry_late",
    retry_on_worker_lost=True,
    max_retries=2,
    default_retry_delay=1,
    acks_late=True,
    reject_on_worker_lost=True,
)
def die_retry_late(path: str, n: int) -> int:
    return int(die_requeue(path, n))


@app.task(name="interop.leave")
def leave(code: int) -> None:
    sys.exit(code)


@app.task(name="interop.ignore")
def ignore() -> None:
    raise Ignore


@app.task(name="interop.ignore_late", acks_late=True)
def ignore_late() -> None:
    raise Ignore


def reject_twice(path: str, requeue: bool) -> int:
    append_line(path, "start")
    starts = len(Path(path).read_text().splitlines())
    if starts < 3:
        raise Reject("not now", requeue=requeue)
    return starts


@app.task(name="interop.reject")
def reject(path: str, requeue: bool) -> int:
    return reject_twice(path, requeue)


@app.task(name="interop.reject_late", acks_late=True)
def reject_late(path: str, requeue: bool) -> int:
    return reject_twice(path, requeue)


@app.task(name="interop.progress", bind=True)
def progress(self: Task[Any, Any], done: int) -> str:
    self.update_state(state="PROGRESS", meta={"done": done})
    return "complete"


@app.task(name="interop.quiet", ignore_result=True)
def quiet(path: str) -> int:
    append_line(path, "ran")
    return 1


@app.task(name="interop.tracked", track_started=True)
def tracked(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.task(name="interop.raise_many")
def raise_many() -> None:
    raise ValueError("boom", 7, None, ["x", 1.5])


@app.task(name="interop.give_up", bind=True, max_retries=2)
def give_up(self: Task[Any, Any], with_cause: bool) -> None:
    if with_cause:
        raise self.retry(exc=KeyError("gone"), countdown=0.01)
    raise self.retry(countdown=0.01)


@app.task(name="interop.named")
def named(a: int, b: int = 10) -> int:
    return a - b


@app.task(name="interop.spawn", bind=True)
def spawn(self: Task[Any, Any], a: int, b: int) -> str:
    result = self.app.send_task("examples.add", args=[a, b])
    return str(result.id)


@app.task(name="interop.apply", bind=True)
def apply(self: Task[Any, Any], sig: Any) -> Any:
    return signature(sig, app=self.app).apply_async().as_tuple()


@app.task(name="interop.replace", bind=True)
def replace(self: Task[Any, Any], sig: Any) -> None:
    raise self.replace(signature(sig, app=self.app))


@app.task(name="interop.add_to_chord", bind=True)
def add_to_chord(self: Task[Any, Any], sig: Any) -> int:
    self.add_to_chord(signature(sig, app=self.app))
    return 0


@app.task(name="interop.field", bind=True, expires=500, priority=3)
def field(self: Task[Any, Any], name: str) -> Any:
    return getattr(self.request, name)


@app.task(name="interop.retry_as", bind=True)
def retry_as(self: Task[Any, Any], n: int, _what: Any) -> Any:
    """Until it runs with other arguments."""
    if self.request.retries == 0:
        raise self.retry(
            args=(5, "again"),
            kwargs={},
            priority=6,
            headers={"shop": "north"},
            countdown=0.01,
        )
    return self.request.headers if n == 5 else None


@app.task(  # type: ignore[untyped-decorator]
    name="interop.flaky_file",
    bind=True,
    autoretry_for=(OSError,),
    max_retries=2,
    default_retry_delay=0.01,  # type: ignore[call-overload]
)
def flaky_file(self: Task[Any, Any], good: int) -> int:
    if self.request.retries < good:
        raise FileNotFoundError("not yet")
    return int(self.request.retries)


@app.task(name="interop.on_error")
def on_error(
    request: Any, exc: BaseException, _traceback: Any, path: str, seconds: float = 0
) -> None:
    """A new style errback: a line with what it was told."""
    time.sleep(seconds)
    append_line(path, f"{request.id} {type(exc).__name__} {json.dumps(exc.args)}")
    raise RuntimeError("an errback's own failure changes nothing")
