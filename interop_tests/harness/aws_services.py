# SPDX-License-Identifier: Apache-2.0
"""What gives credentials in Amazon's cloud, on a loopback port: STS, the container endpoint, the instance metadata. Each
checks what must come with the request and issues a session whose token the S3 server is told."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from .s3_server import ACCESS_KEY, SECRET_KEY
from .s3_verifying import VerifyingServer

ROLE = "arn:aws:iam::1:role/migrations"
JWT = "eyJ.web+identity/token"
POD_TOKEN = "pod token"
IMDS_TOKEN = "imds-token"
METADATA = "/latest/meta-data/iam/security-credentials/"
STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{AccessKeyId}</AccessKeyId>
<SecretAccessKey>{SecretAccessKey}</SecretAccessKey><SessionToken>{Token}</SessionToken>
<Expiration>{Expiration}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: AwsServices

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        pass

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def check(self, allowed: bool, text: Callable[[], str]) -> None:
        if not allowed:
            self.server.refused.append(f"{self.command} {self.path}")
        self.answer(200 if allowed else 403, text() if allowed else "")

    def do_PUT(self) -> None:
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        self.check(self.path == "/latest/api/token" and ttl is not None, lambda: IMDS_TOKEN)

    def do_GET(self) -> None:
        if self.path == "/container":
            self.check(self.headers.get("Authorization") == POD_TOKEN, self.server.issue_json)
            return
        known = self.headers.get("X-aws-ec2-metadata-token") == IMDS_TOKEN
        if self.path == METADATA:
            self.check(known, lambda: "instance-role")
        else:
            self.check(known and self.path == f"{METADATA}instance-role", self.server.issue_json)

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        right = (form.get("Action"), form.get("RoleArn"), form.get("WebIdentityToken")) == (
            ["AssumeRoleWithWebIdentity"], [ROLE], [JWT],
        )  # fmt: skip
        self.check(right, lambda: STS.format(**self.server.issue()))


class AwsServices(ThreadingHTTPServer):
    def __init__(self, s3: VerifyingServer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.s3 = s3
        self.issued = 0
        self.refused: list[str] = []
        self.mutex = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self.thread.start()

    def issue(self) -> dict[str, str]:
        with self.mutex:
            self.issued += 1
            token = f"session/{self.issued}+=="
            self.s3.tokens.add(token)
            end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
            return {
                "Code": "Success",
                "AccessKeyId": ACCESS_KEY,
                "SecretAccessKey": SECRET_KEY,
                "Token": token,
                "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }

    def issue_json(self) -> str:
        return json.dumps(self.issue())

    def environment(self, source: str, folder: Path) -> dict[str, str]:
        """The variables that a pod, a task or an instance has."""
        (folder / "jwt").write_text(JWT)
        (folder / "pod-token").write_text(POD_TOKEN)
        (folder / "config").write_text(
            f"[profile migrations]\nrole_arn = {ROLE}\nweb_identity_token_file = {folder}/jwt\n"
        )
        off = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL_STS": self.url}
        return {
            "web identity": off
            | {"AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "jwt"), "AWS_ROLE_ARN": ROLE},
            "profile": off
            | {"AWS_CONFIG_FILE": str(folder / "config"), "AWS_PROFILE": "migrations"},
            "container": off
            | {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.url}/container",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(folder / "pod-token"),
            },
            "instance metadata": {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{self.url}/"},
        }[source]

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()
