# SPDX-License-Identifier: Apache-2.0
"""A Celery client as a process of its own, for any Celery version: pickled requests in, pickled replies out.

Runs under an interpreter that has Celery but nothing of this repository, so it imports nothing from here.
Frame: 4 bytes big-endian length, then the pickle. Values are builtin and standard-library types only.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
import threading
import traceback
import warnings
from typing import Any

warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=DeprecationWarning)  # of old libraries on a newer Python
warnings.filterwarnings("ignore", message="task_allow_error_cb_on_chord_header")

from celery import Celery, chain, chord, group  # noqa: E402
from celery.canvas import xstarmap  # noqa: E402
from celery.result import AsyncResult, GroupResult  # noqa: E402


def describe(error: BaseException, state: str, tb: object) -> dict[str, Any]:
    kind = type(error)
    return {
        "state": state,
        "value": None,
        "exc_type": kind.__qualname__,
        "exc_module": kind.__module__,
        "exc_args": list(error.args),
        "exc_bases": [base.__name__ for base in kind.__mro__],
        "traceback": tb,
    }


class Driver:
    def __init__(self, broker: str, backend: str, settings: dict[str, Any]) -> None:
        self.app = Celery("interop_client", broker=broker, backend=backend)
        self.app.conf.update(settings)
        if settings.get("security_key"):
            self.app.setup_security(digest=settings.get("security_digest", "sha256"))
        self.results: dict[str, AsyncResult[Any]] = {}

    def op_send(
        self, name: str, args: list[Any], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> str:
        result = self.app.send_task(name, args=args, kwargs=kwargs, **options)
        self.results[result.id] = result
        return result.id

    def build(self, spec: Any) -> Any:
        """Specs are made by harness/canvas.py."""
        kind = spec["kind"]
        if kind == "task":
            kwargs = dict(spec["kwargs"])
            if spec["sig"]:
                kwargs["sig"] = json.loads(json.dumps(self.build(spec["sig"])))
            sig = self.app.signature(
                spec["name"], args=spec["args"], kwargs=kwargs, immutable=spec["immutable"]
            )
        elif kind == "starmap":
            called: Any = self.app.signature(spec["name"])
            sig = xstarmap(called, spec["it"], app=self.app)
        elif kind == "chord":
            body = self.build(spec["body"])
            sig = chord([self.build(m) for m in spec["members"]], body, app=self.app)
        else:
            sig = {"chain": chain, "group": group}[kind](
                *[self.build(m) for m in spec["members"]], app=self.app
            )
        sig.set(**spec["options"])
        for callback in spec["links"]:
            sig.link(self.build(callback))
        for errback in spec["errbacks"]:
            sig.link_error(self.build(errback))
        return sig

    def op_apply(self, spec: Any) -> str:
        result = self.build(spec).apply_async()
        self.results[result.id] = result
        return str(result.id)

    def op_send_canvas(self, spec: Any) -> str | None:
        """A key for op_ends; None when Celery cannot send such a canvas."""
        try:
            result = self.build(spec).apply_async()
        except (AttributeError, IndexError, TypeError):
            return None
        key = f"{len(self.results)}:{result.id}"
        self.results[key] = result
        return key

    def op_ends(self, keys: list[str]) -> dict[str, str]:
        """What get() gives now, as text; all results are forgotten."""
        ends = {key: self.end_of(self.results[key]) for key in keys}
        self.results.clear()
        return ends

    def op_active(self, n_workers: int) -> dict[str, str]:
        """The ids of the tasks that run now, with the nodes that run them."""
        control = self.app.control
        replies: Any = control.broadcast("active", reply=True, timeout=10.0, limit=n_workers)
        assert len(replies) == n_workers, replies
        found = [
            (task["id"], node) for reply in replies for node, ts in reply.items() for task in ts
        ]
        return dict(found)

    def end_of(self, result: Any) -> str:
        if self.pending(result):
            return "no end"  # get() would wait, in a group within a group without regard to its timeout
        try:
            return "value " + json.dumps(result.get(timeout=5.0))
        except Exception as error:  # noqa: BLE001  whatever it was is the end
            return f"{type(error).__module__}.{type(error).__qualname__}{error.args!r}"

    def pending(self, result: Any) -> bool:
        if isinstance(result, GroupResult):
            return any(self.pending(r) for r in result.results or [])
        failed = result.failed()
        parent = result.parent
        return not result.ready() or (parent is not None and not failed and self.pending(parent))

    def op_get(self, task_id: str, timeout: float) -> dict[str, Any]:
        """As a user waits: get() of the handle that send_task gave, which lives by the PUBLISH alone."""
        result = self.results.pop(task_id, None) or self.app.AsyncResult(task_id)
        try:
            value = result.get(timeout=timeout)
        except Exception as error:
            if type(error).__name__ == "TimeoutError" and not result.ready():
                raise
            return describe(error, result.state, result.traceback)
        return {"state": result.state, "value": value}

    def op_call(
        self,
        name: str,
        args: list[Any],
        kwargs: dict[str, Any],
        options: dict[str, Any],
        timeout: float,
    ) -> dict[str, Any]:
        return self.op_get(self.op_send(name, args, kwargs, options), timeout)

    def op_meta(self, task_id: str) -> dict[str, Any]:
        """The stored record as this client's backend reads it."""
        meta = self.app.backend.get_task_meta(task_id)
        error = meta.get("result")
        if isinstance(error, BaseException):
            return describe(error, meta["status"], meta.get("traceback"))
        return {"state": meta["status"], "value": error, "children": repr(meta.get("children"))}

    def op_ping(self, node: str) -> Any:
        return self.app.control.ping(destination=[node], limit=1, timeout=10)

    def op_burst(
        self, name: str, n_tasks: int, n_threads: int, timeout: float
    ) -> list[tuple[int, Any]]:
        """n tasks name(i, i) from threads that send first and wait then: the list of (i, result)."""
        out: list[tuple[int, Any]] = []
        lock = threading.Lock()
        errors: list[str] = []

        def work(first: int) -> None:
            try:
                handles = [
                    (i, self.app.send_task(name, args=[i, i]))
                    for i in range(first, n_tasks, n_threads)
                ]
                values = [(i, handle.get(timeout=timeout)) for i, handle in handles]
                with lock:
                    out.extend(values)
            except BaseException:  # noqa: BLE001
                with lock:
                    errors.append(traceback.format_exc())

        threads = [threading.Thread(target=work, args=(k,)) for k in range(n_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise RuntimeError("\n".join(errors))
        return sorted(out)


def main() -> None:
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    driver = None
    while True:
        head = source.read(4)
        if len(head) < 4:
            os._exit(0)
        op, kwargs = pickle.loads(source.read(struct.unpack(">I", head)[0]))
        try:
            if op == "open":
                driver = Driver(**kwargs)
                reply = (True, sys.version)
            else:
                reply = (True, getattr(driver, "op_" + op)(**kwargs))
        except BaseException:  # noqa: BLE001  whatever it was is the reply
            reply = (False, traceback.format_exc())
        data = pickle.dumps(reply, protocol=4)
        sink.write(struct.pack(">I", len(data)) + data)
        sink.flush()


if __name__ == "__main__":
    main()
