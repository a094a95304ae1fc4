# SPDX-License-Identifier: Apache-2.0
"""The tasks of the random canvases for Celery workers of any version; their twins in C are in plugin/fleet.c.

Every run adds a line to the file $CANVAS_LOG: mark, task id, retries, worker, arguments. The mark is the first keyword
argument: the seed of the canvas and the number of the signature in it. What a task returns depends on the JSON text of
its arguments, so that a value that one worker writes differently from another changes everything behind it."""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

from celery import Celery, Task
from celery.app.task import Context
from celery.canvas import Signature

app = Celery("fleet_app")
app.conf.update(json.loads(os.environ.get("INTEROP_SETTINGS", "{}")))

LOG = os.open(os.environ["CANVAS_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
ARGS_SHOWN = 200


def digest(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return zlib.crc32((json.dumps(list(args)) + json.dumps(kwargs)).encode())


def note(request: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    text = json.dumps(list(args))[:ARGS_SHOWN]
    fields = [
        kwargs.get("mark", "-"),
        str(request.id or "-"),
        str(request.retries),
        request.hostname or "-",
        f"{digest(args, kwargs):08x}",
        text,
    ]
    os.write(LOG, ("\t".join(fields) + "\n").encode())


@app.task(name="canvas.sum", bind=True)
def sum_(self: Task[Any, Any], *args: Any, **kwargs: Any) -> int:
    """A number for the arguments."""
    note(self.request, args, kwargs)
    return digest(args, kwargs)


@app.task(name="canvas.late", bind=True, acks_late=True)
def late(self: Task[Any, Any], *args: Any, **kwargs: Any) -> int:
    note(self.request, args, kwargs)
    return digest(args, kwargs)


@app.task(name="canvas.echo", bind=True)
def echo(self: Task[Any, Any], *args: Any, **kwargs: Any) -> list[Any]:
    note(self.request, args, kwargs)
    return list(args)


@app.task(name="canvas.fail", bind=True)
def fail(self: Task[Any, Any], *args: Any, **kwargs: Any) -> None:
    note(self.request, args, kwargs)
    raise ValueError("boom", kwargs["mark"], digest(args, kwargs))


@app.task(name="canvas.again", bind=True)
def again(self: Task[Any, Any], *args: Any, **kwargs: Any) -> int:
    """Succeeds at the second or third attempt."""
    note(self.request, args, kwargs)
    if self.request.retries < kwargs["n"]:
        raise self.retry(countdown=0.1)
    return digest(args, kwargs)


@app.task(name="canvas.give_up", bind=True, max_retries=1)
def give_up(self: Task[Any, Any], *args: Any, **kwargs: Any) -> None:
    note(self.request, args, kwargs)
    raise self.retry(exc=KeyError(kwargs["mark"]), countdown=0.1)


@app.task(name="canvas.swap", bind=True)
def swap(self: Task[Any, Any], *args: Any, **kwargs: Any) -> None:
    """Puts the signature `sig` in its own place."""
    note(self.request, args, kwargs)
    raise self.replace(Signature.from_dict(kwargs["sig"], app=self.app))


@app.task(name="canvas.join", bind=True)
def join(self: Task[Any, Any], *args: Any, **kwargs: Any) -> int:
    """Adds `sig` to the chord that it is a member of."""
    note(self.request, args, kwargs)
    if self.request.chord:
        self.add_to_chord(Signature.from_dict(kwargs["sig"], app=self.app))
    return digest(args, {})


@app.task(name="canvas.errback", bind=True)
def errback(self: Task[Any, Any], *args: Any, **kwargs: Any) -> int:
    """Old style: is sent as a task, with the id of what failed."""
    note(self.request, args, kwargs)
    return 1


@app.task(name="canvas.inline")
def inline(request: Any, exc: BaseException, traceback: Any, **kwargs: Any) -> None:
    """New style: called by the worker that saw the failure; it has no task of its own."""
    call = Context(id="-", retries=0, hostname="-")
    note(call, (request.id, type(exc).__name__), kwargs)
