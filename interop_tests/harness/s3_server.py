# SPDX-License-Identifier: Apache-2.0
"""A private S3 server that checks signatures: SeaweedFS with an identity file."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions

from .processes import Process
from .redis_server import free_port
from .waiting import wait_until

ACCESS_KEY = "interop"
SECRET_KEY = "interop-secret"
BUCKET = "batches"


def free_port_pair() -> int:
    """A port whose number plus 10,000 is free, too: SeaweedFS puts gRPC there."""
    while True:
        port = free_port() % 20_000 + 20_000
        with socket.socket() as a, socket.socket() as b:
            try:
                a.bind(("127.0.0.1", port))
                b.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


class S3Server:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        identity = {
            "name": "interop",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        config = folder / "identities.json"
        config.write_text(json.dumps({"identities": [identity]}))
        master, volume, filer, s3 = (free_port_pair() for _ in range(4))
        self.endpoint = f"http://127.0.0.1:{s3}"
        self.process = Process(
            "weed",
            [
                Path(sys.executable).parent / "weed", "server", f"-dir={folder}", "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1", f"-master.port={master}", f"-volume.port={volume}", "-filer",
                f"-filer.port={filer}", "-s3", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}",
                "-volume.max=20", "-master.volumeSizeLimitMB=32",
            ],
            folder,
        )  # fmt: skip
        self.client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )
        wait_until(self._bucket_works, "the S3 server takes objects", 60)

    def _bucket_works(self) -> bool:
        assert self.process.alive, self.process.log_tail()
        try:
            if BUCKET not in [b["Name"] for b in self.client.list_buckets()["Buckets"]]:
                self.client.create_bucket(Bucket=BUCKET)
            self.client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
            return False
        return True

    def environment(self, secret: str = SECRET_KEY) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def stop(self) -> None:
        self.client.close()
        self.process.stop(0)
