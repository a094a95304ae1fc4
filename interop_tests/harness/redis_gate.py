# SPDX-License-Identifier: Apache-2.0
"""Stands between a worker and Redis and shuts at an exact moment: when the worker calls a given script, that call and
everything after it is kept back, so that the worker can be killed between two of its steps, or goes on when it is opened."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import threading
from pathlib import Path

LOAD = re.compile(rb"\$6\r\nSCRIPT\r\n\$4\r\nLOAD\r\n\$(\d+)\r\n")


class RedisGate:
    """`mark` is text that only the source of the script contains; scripts are learnt from the SCRIPT LOADs."""

    def __init__(self, folder: Path, server: Path, mark: str) -> None:
        self.server = server
        self.mark = mark.encode()
        self.sha: bytes | None = None
        self.shut = threading.Event()
        self.lock = threading.Lock()
        self.opened = False
        self.held: list[tuple[socket.socket, bytes]] = []
        self.path = folder / "gate.sock"
        self.sockets: list[socket.socket] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, db: int = 0) -> str:
        return f"redis+socket://{self.path}" + (f"?virtual_host={db}" if db else "")

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(str(self.server))
            self.sockets += [client, upstream]
            threading.Thread(target=self._requests, args=(client, upstream), daemon=True).start()
            threading.Thread(target=self._answers, args=(upstream, client), daemon=True).start()

    def _requests(self, client: socket.socket, upstream: socket.socket) -> None:
        seen = b""
        try:
            while data := client.recv(1 << 16):
                if self.sha is None:
                    seen += data
                    self._learn(seen)
                if self.sha is not None and b"EVALSHA\r\n$40\r\n" + self.sha in data:
                    self.shut.set()
                with self.lock:
                    if self.shut.is_set() and not self.opened:
                        self.held.append((upstream, data))
                    else:
                        upstream.sendall(data)
        except OSError:
            pass

    def open(self) -> None:
        """What was kept back goes on, and nothing is kept back any more."""
        with self.lock:
            self.opened = True
            for upstream, data in self.held:
                upstream.sendall(data)

    def _learn(self, seen: bytes) -> None:
        for match in LOAD.finditer(seen):
            source = seen[match.end() : match.end() + int(match[1])]
            if len(source) == int(match[1]) and self.mark in source:
                self.sha = hashlib.sha1(source).hexdigest().encode()

    def _answers(self, upstream: socket.socket, client: socket.socket) -> None:
        try:
            while data := upstream.recv(1 << 16):
                client.sendall(data)
        except OSError:
            pass

    def close(self) -> None:
        for s in [self.listener, *self.sockets]:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()
