# SPDX-License-Identifier: Apache-2.0
"""The test's side of client_driver.py: a Celery client of a chosen version."""

from __future__ import annotations

import os
import pickle
import select
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from .processes import PROCESS_MARK, SESSION_MARK, session_id

DRIVER = Path(__file__).with_name("client_driver.py")
INTERPRETERS = {"celery-5.7": sys.executable, "debian-5.2": "/usr/bin/python3"}
DEFAULT_TIMEOUT_S = 20.0


class ClientError(AssertionError):
    """The client itself raised: not an outcome of a task."""


class Outcome:
    """How a task ended, as this client saw it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.state: str = data["state"]
        self.value: Any = data.get("value")
        self.exc_type: str | None = data.get("exc_type")
        self.exc_module: str | None = data.get("exc_module")
        self.exc_args: list[Any] | None = data.get("exc_args")
        self.exc_bases: list[str] = data.get("exc_bases", [])
        self.traceback: str | None = data.get("traceback")

    def __repr__(self) -> str:
        return f"Outcome({vars(self)!r})"


class Client:
    def __init__(
        self, version: str, broker: str, backend: str, settings: dict[str, Any] | None = None
    ) -> None:
        self.version = version
        env = {k: v for k, v in os.environ.items() if not k.startswith("CELERY_")}
        self.popen = subprocess.Popen(
            [INTERPRETERS[version], str(DRIVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env | {SESSION_MARK: session_id, PROCESS_MARK: "client"},
        )
        self.request("open", broker=broker, backend=backend, settings=settings or {})

    def _read(self, n: int, timeout: float) -> bytes:
        assert self.popen.stdout is not None
        data = b""
        while len(data) < n:
            ready, _, _ = select.select([self.popen.stdout], [], [], timeout)
            if not ready:
                raise ClientError(f"client {self.version} is silent for {timeout:g} s")
            piece = os.read(self.popen.stdout.fileno(), n - len(data))
            if not piece:
                raise ClientError(f"client {self.version} ended with {self.popen.wait()}")
            data += piece
        return data

    def request(self, op: str, reply_timeout_s: float = 60.0, **kwargs: Any) -> Any:
        assert self.popen.stdin is not None
        data = pickle.dumps((op, kwargs), protocol=4)
        self.popen.stdin.write(struct.pack(">I", len(data)) + data)
        self.popen.stdin.flush()
        size = struct.unpack(">I", self._read(4, reply_timeout_s))[0]
        ok, value = pickle.loads(self._read(size, reply_timeout_s))
        if not ok:
            raise ClientError(f"client {self.version}, {op}:\n{value}")
        return value

    def send(
        self, name: str, *args: Any, _kwargs: dict[str, Any] | None = None, **options: Any
    ) -> str:
        """send_task; keyword arguments are its options, `_kwargs` are the task's."""
        task_id = self.request(
            "send", name=name, args=list(args), kwargs=_kwargs or {}, options=options
        )
        assert isinstance(task_id, str)
        return task_id

    def apply(self, spec: dict[str, Any]) -> str:
        """Send a canvas of harness/canvas.py; the id of what its result is stored under."""
        task_id = self.request("apply", spec=spec)
        assert isinstance(task_id, str)
        return task_id

    def get(self, task_id: str, timeout: float = DEFAULT_TIMEOUT_S) -> Outcome:
        return Outcome(
            self.request("get", max(60.0, timeout + 5.0), task_id=task_id, timeout=timeout)
        )

    def call(
        self,
        name: str,
        *args: Any,
        _kwargs: dict[str, Any] | None = None,
        _timeout: float = DEFAULT_TIMEOUT_S,
        **options: Any,
    ) -> Outcome:
        return Outcome(
            self.request(
                "call",
                name=name,
                args=list(args),
                kwargs=_kwargs or {},
                options=options,
                timeout=_timeout,
            )
        )

    def meta(self, task_id: str) -> Outcome:
        return Outcome(self.request("meta", task_id=task_id))

    def burst(
        self, name: str, n_tasks: int, n_threads: int, timeout: float = 60.0
    ) -> list[tuple[int, Any]]:
        pairs = self.request(
            "burst", name=name, n_tasks=n_tasks, n_threads=n_threads, timeout=timeout
        )
        assert isinstance(pairs, list)
        return pairs

    def close(self) -> None:
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.close()
        try:
            self.popen.wait(5)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self.popen.stdout.close()
