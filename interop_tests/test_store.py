# SPDX-License-Identifier: Apache-2.0
"""Objects in S3, written by scatter-plan: on a real server that checks signatures, and on one that checks them with
botocore, for what the real one cannot be asked (session tokens, the bucket in the host name, another region)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.parcels import MIGRATIONS, PLANNER, sqlite_database
from harness.redis_server import free_port
from harness.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from harness.s3_verifying import VerifyingServer

N_ROWS = 100
TOKEN = "a/session+token=="


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture
def verifying_server() -> Iterator[VerifyingServer]:
    server = VerifyingServer("eu-west-3", TOKEN)
    yield server
    server.stop()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    database = sqlite_database(tmp_path / "parcels.sqlite3")
    database.fill(N_ROWS)
    return database.url


def plan(
    database_url: str, store: str, env: dict[str, str], name: str = "p1", *more: str
) -> subprocess.CompletedProcess[str]:
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "SCATTER_", "CELERY_"))
    }
    return subprocess.run(
        [
            str(PLANNER), "create", "--migration", "phones.vn_renumber", "-A", str(MIGRATIONS),
            "--query", "SELECT id, phone FROM parcel", "--batch-size", "60", "--plan", name,
            "--store", store, "--database-url", database_url, "--no-enqueue", "--format", "json", *more,
        ],
        env=inherited | env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def planned(database_url: str, store: str, env: dict[str, str], name: str = "p1") -> None:
    done = plan(database_url, store, env, name)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["batches"] == 2


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1
    assert done.stderr.startswith("scatter-plan: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr
    assert SECRET_KEY not in done.stderr


@pytest.mark.parametrize("folder", ["plain", "with space/and+plus=(é)~", ""])
def test_objects_on_a_real_server(s3_server: S3Server, database_url: str, folder: str) -> None:
    prefix = f"{uuid.uuid4().hex}/{folder}".rstrip("/")
    planned(database_url, f"s3://{BUCKET}/{prefix}", s3_server.environment())
    listed = s3_server.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    assert [o["Key"] for o in listed] == [
        f"{prefix}/p1/{name}"
        for name in ("batch-000001.ndjson.zst", "batch-000002.ndjson.zst", "manifest.json")
    ]
    found = s3_server.client.get_object(Bucket=BUCKET, Key=listed[0]["Key"])
    assert found["ContentType"] == "application/zstd"
    manifest = json.loads(
        s3_server.client.get_object(Bucket=BUCKET, Key=listed[2]["Key"])["Body"].read()
    )
    assert hashlib.sha256(found["Body"].read()).hexdigest() == manifest["batches"][0]["sha256"]


def test_wrong_secret(s3_server: S3Server, database_url: str) -> None:
    done = plan(database_url, f"s3://{BUCKET}/{uuid.uuid4().hex}", s3_server.environment("wrong"))
    refused(done, "SignatureDoesNotMatch", "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")


def test_unknown_key(s3_server: S3Server, database_url: str) -> None:
    env = s3_server.environment() | {"AWS_ACCESS_KEY_ID": "nobody"}
    done = plan(database_url, f"s3://{BUCKET}/{uuid.uuid4().hex}", env)
    refused(done, "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")


def test_bucket_that_is_not_there(s3_server: S3Server, database_url: str) -> None:
    done = plan(database_url, "s3://no-such-bucket/x", s3_server.environment())
    refused(done, 'bucket "no-such-bucket" does not exist', "create it, or correct the store URL")


def test_nobody_listens(database_url: str) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    env = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    refused(
        plan(database_url, "s3://bucket", env),
        endpoint,
        "Connection refused",
        "check AWS_ENDPOINT_URL",
    )


def verified_env(server: VerifyingServer, host: str = "127.0.0.1", **more: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{server.port}",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",  # the S3 one goes first
        "AWS_REGION": server.region,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        **({"AWS_SESSION_TOKEN": server.token} if server.token else {}),
        **more,
    }


def names(server: VerifyingServer) -> list[str]:
    assert server.refused == []
    return sorted(server.objects)


def test_session_token_and_region_are_signed(
    verifying_server: VerifyingServer, database_url: str
) -> None:
    planned(database_url, "s3://bucket/a b/é", verified_env(verifying_server))
    assert names(verifying_server)[0] == "127.0.0.1/bucket/a b/é/p1/batch-000001.ndjson.zst"
    assert len(names(verifying_server)) == 3


def test_bucket_in_the_host_name(verifying_server: VerifyingServer, database_url: str) -> None:
    # libcurl itself resolves *.localhost.
    env = verified_env(verifying_server, "localhost", SCATTER_S3_ADDRESSING="virtual")
    planned(database_url, "s3://bucket/pre", env)
    assert names(verifying_server)[0] == "bucket.localhost/pre/p1/batch-000001.ndjson.zst"


def test_wrong_region(verifying_server: VerifyingServer, database_url: str) -> None:
    done = plan(database_url, "s3://bucket", verified_env(verifying_server, AWS_REGION="us-west-2"))
    refused(done, "us-west-2", "set AWS_REGION")


def test_expired_token(verifying_server: VerifyingServer, database_url: str) -> None:
    done = plan(
        database_url, "s3://bucket", verified_env(verifying_server, AWS_SESSION_TOKEN="old")
    )
    refused(done, "InvalidToken", "check AWS_SESSION_TOKEN")
