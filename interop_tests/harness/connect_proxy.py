# SPDX-License-Identifier: Apache-2.0
"""A forward proxy that knows CONNECT alone and remembers who was asked for."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    server: ConnectProxy

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        pass

    def do_CONNECT(self) -> None:
        self.server.asked.append(self.path)
        host, port = self.path.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as far:
            self.send_response(200)
            self.end_headers()
            there = threading.Thread(target=self._pass, args=(self.rfile, far))
            there.start()
            with contextlib.suppress(OSError), far.makefile("rb", buffering=0) as answers:
                shutil.copyfileobj(answers, self.wfile)
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            there.join()
        self.close_connection = True

    @staticmethod
    def _pass(near: Any, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.read1(1 << 16):
                far.sendall(data)
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_WR)


class ConnectProxy(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self.thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()
