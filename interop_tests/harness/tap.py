# SPDX-License-Identifier: Apache-2.0
"""A proxy that kills the program behind it at the n-th step of its talk with a server."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEADLINE_S = 60.0


class Tap:
    """Passes bytes between a planner and a server and kills the planner at the n-th chunk that it sent: after the
    server has answered it, or before the server gets it."""

    def __init__(
        self,
        upstream: Callable[[], socket.socket],
        listener: socket.socket,
        kill_at: int,
        before: bool,
    ) -> None:
        self.upstream = upstream
        self.listener = listener
        self.kill_at = kill_at
        self.before = before
        self.chunks = 0
        self.killed = False
        self.victim: subprocess.Popen[str] | None = None
        self.victim_known = threading.Event()
        self.lock = threading.Lock()
        self.sockets: list[socket.socket] = []
        self.threads: list[threading.Thread] = []
        listener.listen(64)
        self.spawn(self.accept)

    def spawn(self, run: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=run, args=args)
        self.threads.append(thread)
        thread.start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = self.upstream()
            self.sockets += [client, server]
            due = threading.Event()
            self.spawn(self.pump, client, server, due, True)
            self.spawn(self.pump, server, client, due, False)

    def kill(self) -> None:
        assert self.victim_known.wait(DEADLINE_S)
        assert self.victim is not None
        self.victim.kill()
        self.killed = True

    def pump(
        self, source: socket.socket, target: socket.socket, due: threading.Event, to_server: bool
    ) -> None:
        """To the server until the client has ended; to the client until the server has: what a killed planner has asked for
        on its other connections is done before anybody looks at the result."""
        deaf = False
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 20):
                if to_server:
                    with self.lock:
                        self.chunks += 1
                        reached = self.chunks == self.kill_at
                    if reached and self.before:
                        self.kill()
                        break
                    if reached:
                        due.set()
                elif due.is_set() and not self.killed:
                    self.kill()
                try:
                    if not deaf:
                        target.sendall(chunk)
                except OSError:
                    deaf = True
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """After the end of the planner: the servers see that its connections end, and end theirs."""
        # A shutdown wakes accept; a close alone would not.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), (
                "a server keeps the connection of a planner that has ended"
            )
        for s in self.sockets:
            s.close()


def tcp_listener() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener


def unix_listener(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    return listener


def unix_client(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    return client
