# SPDX-License-Identifier: Apache-2.0
"""Shows the test process every task message that is pushed on the broker, whoever pushes it.

Tests written against a worker in their own process look at messages through its task_received signal. The tap watches the
broker with MONITOR, makes Celery's request of each message, and sends that signal."""

from __future__ import annotations

import base64
import json
import os
import queue
import socket
import threading
import time
from typing import Any
from urllib.parse import urlparse

DELAY_S = 0.05  # a worker's signal comes a little after the client's publish call
MARK = b"conformance-tap-"
ESCAPES = {ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("a"): 7, ord("b"): 8}


def _quoted(line: bytes, i: int) -> tuple[bytes, int]:
    """The string that starts after the quote before i, and where it ends."""
    out = bytearray()
    while i < len(line) and line[i] != ord('"'):
        c = line[i]
        if c == ord("\\") and i + 1 < len(line):
            i += 1
            if line[i] == ord("x"):
                out.append(int(line[i + 1 : i + 3], 16))
                i += 2
            else:
                out.append(ESCAPES.get(line[i], line[i]))
        else:
            out.append(c)
        i += 1
    return bytes(out), i


def parse_monitor(line: bytes) -> list[bytes]:
    """The arguments of one line of MONITOR."""
    out: list[bytes] = []
    i = line.find(b"] ")
    if i < 0:
        return out
    while (i := line.find(b'"', i)) >= 0:
        text, i = _quoted(line, i + 1)
        out.append(text)
        i += 1
    return out


def pushed_tasks(line: bytes) -> list[bytes]:
    """The task messages that a line of MONITOR puts on a list."""
    if b'"LPUSH"' not in line.upper() and b'"RPUSH"' not in line.upper():
        return []
    args = parse_monitor(line)
    if len(args) < 3 or args[1].endswith(b".reply.celery.pidbox"):
        return []
    return [a for a in args[2:] if a[:1] == b"{" and b'"headers"' in a]


class Tap:
    def __init__(self, url: str) -> None:
        u = urlparse(url)
        self.address = (u.hostname or "127.0.0.1", u.port or 6379)
        self.app: Any = None  # whose tasks the signals are for
        self.node: str | None = None
        self.errors: list[str] = []
        self._pending: queue.Queue[tuple[float, bytes]] = queue.Queue()
        self._changed = threading.Condition()
        self._mark = b""
        self._file = socket.create_connection(self.address).makefile("rwb")
        self._file.write(b"MONITOR\r\n")
        self._file.flush()
        self._file.readline()
        for target in (self._read, self._fire):
            threading.Thread(target=target, daemon=True).start()

    def _read(self) -> None:
        for raw in self._file:
            line = raw.rstrip(b"\r\n")
            if MARK in line:
                self._pending.put((0, parse_monitor(line)[-1]))
            for message in pushed_tasks(line):
                self._pending.put((time.monotonic() + DELAY_S, message))

    def _fire(self) -> None:
        while True:
            due, message = self._pending.get()
            if message.startswith(MARK):
                with self._changed:
                    self._mark = message
                    self._changed.notify_all()
                continue
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                self._signal(message)
            except Exception as e:  # noqa: BLE001  # of a receiver, or of a message that is no task's
                self.errors.append(repr(e))

    def _signal(self, raw: bytes) -> None:
        from celery.signals import task_received
        from celery.worker.request import Request
        from kombu.message import Message

        envelope = json.loads(raw)
        headers = envelope.get("headers") or {}
        if (
            self.app is None
            or not task_received.receivers
            or headers.get("task") not in self.app.tasks
        ):
            return
        properties = envelope["properties"]
        message: Any = Message(
            body=base64.b64decode(envelope["body"]),  # type: ignore[arg-type]
            delivery_tag=properties.get("delivery_tag"),
            content_type=envelope.get("content-type"),
            content_encoding=envelope.get("content-encoding"),
            delivery_info=properties.get("delivery_info") or {},
            properties=properties,
            headers=headers,
            accept={"application/json"},
        )
        request = Request(message, app=self.app, hostname=self.node)
        task_received.send(sender=self, request=request)

    def sync(self, deadline_s: float = 5.0) -> None:
        """Waits until every message pushed before now has been shown."""
        mark = MARK + b"%d-%d" % (os.getpid(), time.monotonic_ns())
        with socket.create_connection(self.address) as s:
            s.sendall(b"ECHO " + mark + b"\r\n")
            s.recv(256)
        with self._changed:
            self._changed.wait_for(lambda: self._mark == mark, deadline_s)
