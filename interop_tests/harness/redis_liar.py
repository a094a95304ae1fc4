# SPDX-License-Identifier: Apache-2.0
"""Stands between a worker and Redis and tells one of its connections that empty lists hold five messages each."""

from __future__ import annotations

import socket
from pathlib import Path

from .redis_gate import RedisGate


class RedisLiar(RedisGate):
    """Lies to the connection that has given itself the name `whom`."""

    def __init__(self, folder: Path, server: Path, whom: str) -> None:
        self.whom = whom.encode()
        self.lied_to: set[socket.socket] = set()
        super().__init__(folder, server, mark="never in a script")

    def _requests(self, client: socket.socket, upstream: socket.socket) -> None:
        try:
            while data := client.recv(1 << 16):
                if self.whom in data:
                    self.lied_to.add(client)
                upstream.sendall(data)
        except OSError:
            pass

    def _answers(self, upstream: socket.socket, client: socket.socket) -> None:
        try:
            while data := upstream.recv(1 << 16):
                client.sendall(
                    data.replace(b":0\r\n", b":5\r\n") if client in self.lied_to else data
                )
        except OSError:
            pass
