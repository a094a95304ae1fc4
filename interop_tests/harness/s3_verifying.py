# SPDX-License-Identifier: Apache-2.0
"""An S3 server that checks every signature with botocore, for what a real one cannot be asked: session tokens that expire,
the bucket in the host name, another region, KMS keys, faults at exact moments, TLS under a private authority."""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from .s3_server import ACCESS_KEY, SECRET_KEY


class Handler(BaseHTTPRequestHandler):
    """Stores objects by host and path; an unsigned or wrongly signed request is refused as S3 does it."""

    protocol_version = "HTTP/1.1"
    server: VerifyingServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        pass

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.server.refused.append(code)
        self.answer(
            status, f"<Error><Code>{code}</Code><Message>refused</Message></Error>".encode()
        )

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def verify(self, body: bytes) -> str | None:
        """None, or S3's word for what is wrong. The signature is computed again from what arrived."""
        given = self.headers.get("Authorization", "")
        if f"/{self.server.region}/s3/aws4_request" not in given:
            return "AuthorizationHeaderMalformed"
        if self.headers.get("x-amz-content-sha256") != hashlib.sha256(body).hexdigest():
            return "XAmzContentSHA256Mismatch"
        if self.headers.get("x-amz-security-token") not in self.server.tokens:
            return "InvalidToken"
        signed = given.split("SignedHeaders=")[1].split(",")[0].split(";")
        if "host" not in signed or any(
            h.lower() not in signed for h in self.headers if h.lower().startswith("x-amz-")
        ):
            return "AccessDenied"
        request = AWSRequest(
            method=self.command,
            url=f"http://{self.headers['Host']}{self.path}",
            headers={h: self.headers[h] for h in signed},
        )
        request.context["timestamp"] = self.headers["x-amz-date"]
        auth = S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", self.server.region)
        text = auth.string_to_sign(request, auth.canonical_request(request))
        return (
            None
            if given.endswith(f"Signature={auth.signature(text, request)}")
            else "SignatureDoesNotMatch"
        )

    def handle_request(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        fault = self.server.next_fault()
        if fault == "reset":
            self.rfile.read(length // 2)
            self.reset()
            return
        body = self.rfile.read(length)
        if fault is not None:
            self.refuse(*fault)
            return
        self.server.meet(self.path)
        wrong = self.verify(body)
        if wrong is not None:
            self.refuse(400 if wrong.endswith(("Token", "Malformed")) else 403, wrong)
            return
        name = f"{self.headers['Host'].rsplit(':', 1)[0]}{unquote(self.path.split('?')[0])}"
        if self.command == "PUT":
            self.server.objects[name] = body
            self.server.headers[name] = {k.lower(): v for k, v in self.headers.items()}
            self.answer(200)
        elif self.command == "DELETE":
            self.server.objects.pop(name, None)
            self.answer(204)
        elif name in self.server.objects:
            self.answer(200, self.server.objects[name])
        else:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    do_GET = do_PUT = do_DELETE = handle_request  # noqa: N815  found by these names


class VerifyingServer(ThreadingHTTPServer):
    """`faults`: what the next requests get instead, (status, code) or "reset" in the middle of the body."""

    def __init__(
        self, region: str = "us-east-1", token: str | None = None, certificate: Path | None = None
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.region = region
        self.token = token
        self.tokens = {token}
        self.objects: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.refused: list[str] = []
        self.faults: list[Any] = []
        self.mutex = threading.Lock()
        self.barrier: threading.Barrier | None = None
        self.port = self.server_address[1]
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self.thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""

    def next_fault(self) -> Any:
        with self.mutex:
            return self.faults.pop(0) if self.faults else None

    def meet(self, path: str) -> None:
        """Batches wait until so many of them are on their way at the same time."""
        if self.barrier is not None and "/batch-" in path:
            self.barrier.wait()

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()
