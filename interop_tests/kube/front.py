# SPDX-License-Identifier: Apache-2.0
"""What the client under test talks to: a TLS server that writes down each request, does what a test has planned for it,
and asks what stands behind it: the stub (stub.py), or the real API server (`forward_to`). One script, two servers."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .api import Answer, Api

PASSED_ON = ("authorization", "content-type", "accept", "user-agent")


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def resource(self) -> str:
        return self.path.partition("?")[0]


Backend = Callable[[Request], Answer]


class Dropped(Exception):
    """The connection ends without an answer."""


@dataclass
class Plan:
    """For the next `times` requests that match."""

    method: str
    pattern: re.Pattern[str]
    act: Callable[[Request, Callable[[], Answer]], Answer]
    times: int
    seen: list[Request] = field(default_factory=list)


def forward_to(api: Api) -> Backend:
    def forward(request: Request) -> Answer:
        sent = {k: v for k, v in request.headers.items() if k in PASSED_ON}
        plain = Api(api.host, api.port, api.ca, None)
        content_type = sent.pop("content-type", "application/json")
        return plain.raw(request.method, request.path, request.body or None, content_type, sent)

    return forward


class Front:
    def __init__(self, backend: Backend, certificate: Path, host: str = "127.0.0.1") -> None:
        self.backend = backend
        self.requests: list[Request] = []
        self.plans: list[Plan] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        front = self

        class Handler(_Handler):
            owner = front

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients that go away, or that do not like our certificate, are what tests are about."""

        self.server = Server((host, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.host = host
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    # -- what a test plans

    def plan(
        self,
        method: str,
        pattern: str,
        act: Callable[[Request, Callable[[], Answer]], Answer],
        times: int = 1,
    ) -> Plan:
        made = Plan(method, re.compile(pattern), act, times)
        with self.lock:
            self.plans.append(made)
        return made

    def answers(
        self, method: str, pattern: str, status: int, body: Any = "", times: int = 1, **headers: str
    ) -> Plan:
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        return self.plan(method, pattern, lambda _r, _go: Answer(status, body, named), times)

    def hangs(self, method: str, pattern: str, times: int = 1) -> Plan:
        """No answer until the front closes; whatever the client's limit is, it must be its own."""

        def act(_request: Request, _go: Callable[[], Answer]) -> Answer:
            self.closing.wait()
            raise Dropped

        return self.plan(method, pattern, act, times)

    def drops(
        self, method: str, pattern: str, times: int = 1, *, carried_out: bool = False
    ) -> Plan:
        """The connection ends before an answer; what was asked for has happened or not."""

        def act(_request: Request, go: Callable[[], Answer]) -> Answer:
            if carried_out:
                go()
            raise Dropped

        return self.plan(method, pattern, act, times)

    def cuts(self, method: str, pattern: str, times: int = 1) -> Plan:
        """Half of the answer comes."""

        def act(_request: Request, go: Callable[[], Answer]) -> Answer:
            answer = go()
            return Answer(answer.status, answer.body, {**answer.headers, "x-cut": "1"})

        return self.plan(method, pattern, act, times)

    def first(
        self, method: str, pattern: str, happens: Callable[[], object], times: int = 1
    ) -> Plan:
        """Something happens just before the request arrives."""

        def act(_request: Request, go: Callable[[], Answer]) -> Answer:
            happens()
            return go()

        return self.plan(method, pattern, act, times)

    # -- serving

    def answer(self, request: Request) -> Answer:
        with self.lock:
            self.requests.append(request)
            plan = next(
                (
                    p
                    for p in self.plans
                    if p.times > 0 and p.method == request.method and p.pattern.search(request.path)
                ),
                None,
            )
            if plan is not None:
                plan.times -= 1
                plan.seen.append(request)
        if plan is None:
            return self.backend(request)
        return plan.act(request, lambda: self.backend(request))

    def asked(self, method: str, pattern: str) -> list[Request]:
        regex = re.compile(pattern)
        return [r for r in self.requests if r.method == method and regex.search(r.path)]

    def stop(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Front
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        headers = {k.lower(): v for k, v in self.headers.items()}
        request = Request(self.command, self.path, headers, self.rfile.read(length))
        try:
            answer = self.owner.answer(request)
        except Dropped:
            self.close_connection = True
            self.connection.close()
            return
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        data = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        raw = data.encode()
        kind = "application/json" if not isinstance(answer.body, str) else "text/plain"
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("content-type", kind))
        self.send_header("Content-Length", str(len(raw)))
        for name in ("Retry-After", "Location", "Date"):
            value = answer.headers.get(name) or answer.headers.get(name.lower())
            if value is not None and name != "Date":
                self.send_header(name, value)
        self.end_headers()
        if "x-cut" in answer.headers:
            self.wfile.write(raw[: len(raw) // 2])
            self.close_connection = True
            return
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815
