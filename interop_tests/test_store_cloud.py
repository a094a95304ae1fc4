# SPDX-License-Identifier: Apache-2.0
"""The store as it is used in a cloud: credentials of roles, written with by scatter-plan and read with by a Python worker
(botocore, whose order and variables are the measure); faults, proxies, a private authority, KMS keys."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.aws_services import POD_TOKEN, AwsServices
from harness.certificates import Authority
from harness.connect_proxy import ConnectProxy
from harness.parcels import sqlite_database
from harness.redis_server import RedisServer
from harness.s3_server import ACCESS_KEY, SECRET_KEY
from harness.s3_verifying import VerifyingServer
from harness.site import Site
from harness.waiting import wait_until
from harness.workers import WorkerFactory
from test_store import N_ROWS, plan, planned, refused

from django_scatter import store
from django_scatter.errors import ScatterError

URL = "s3://bucket/pre"
BATCH = "127.0.0.1/bucket/pre/p1/batch-000001.ndjson.zst"
NO_ROLES = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}


@pytest.fixture
def s3() -> Iterator[VerifyingServer]:
    server = VerifyingServer()
    yield server
    server.stop()


@pytest.fixture
def services(s3: VerifyingServer) -> Iterator[AwsServices]:
    server = AwsServices(s3)
    yield server
    server.stop()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    database = sqlite_database(tmp_path / "parcels.sqlite3")
    database.fill(N_ROWS)
    return database.url


def endpoint(s3: VerifyingServer) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{s3.port}", "HOME": "/nonexistent"}


def keys() -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def use(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    for name in [n for n in os.environ if n.startswith(("AWS_", "SCATTER_S3_"))]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)


SOURCES = ["web identity", "profile", "container", "instance metadata"]


@pytest.mark.parametrize("source", SOURCES)
def test_the_credentials_of_a_role(
    source: str,
    s3: VerifyingServer,
    services: AwsServices,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = endpoint(s3) | services.environment(source, tmp_path)
    planned(database_url, URL, env)
    assert (len(s3.objects), s3.refused, services.refused) == (3, [], [])
    assert services.issued == 1  # for nine stores in nine threads
    assert s3.headers[BATCH]["x-amz-security-token"] == "session/1+=="
    use(monkeypatch, env)
    for _ in range(2):
        assert store.fetch(f"{URL}/p1/batch-000001.ndjson.zst") == s3.objects[BATCH]
    assert services.issued == 2


def test_a_worker_process_asks_once_for_all_its_batches(
    s3: VerifyingServer,
    services: AwsServices,
    redis_server: RedisServer,
    workers: WorkerFactory,
    tmp_path: Path,
) -> None:
    site = Site(redis_server, workers, sqlite_database(tmp_path / "parcels.sqlite3"), tmp_path)
    site.env |= endpoint(s3) | services.environment("container", tmp_path)
    site.store = URL
    site.database.fill(2400)
    site.plan("p1")
    site.start("celeryc", 2)
    wait_until(lambda: site.all_done("p1"), "every batch done", 30)
    site.check("p1", 2400)
    assert services.issued <= 3, "the planner and two processes"
    assert (s3.refused, services.refused) == ([], [])


def test_a_token_that_expires_before_its_time(
    s3: VerifyingServer,
    services: AwsServices,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = endpoint(s3) | services.environment("container", tmp_path)
    s3.faults = [None, (400, "ExpiredToken")]
    planned(database_url, URL, env)
    assert (s3.refused, services.issued) == (["ExpiredToken"], 2)
    s3.faults = [(400, "ExpiredToken")] * 9
    done = plan(database_url, URL, env, "p2")
    refused(done, "ExpiredToken", "the container endpoint gives credentials that have expired")
    assert "session/" not in done.stderr
    assert POD_TOKEN not in done.stderr
    use(monkeypatch, env)
    s3.faults = [(400, "ExpiredToken")]
    before = services.issued
    assert store.fetch(f"{URL}/p1/batch-000001.ndjson.zst") == s3.objects[BATCH]
    assert services.issued == before + 2


def test_faults_that_pass(
    s3: VerifyingServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [(503, "SlowDown"), (503, "SlowDown"), "reset", (500, "InternalError")]
    s3.faults = [None, *faults, None, "reset"]
    planned(database_url, URL, endpoint(s3) | keys())
    assert s3.faults == []
    assert len(s3.objects) == 3
    assert list(s3.objects)[-1].endswith("/manifest.json")
    use(monkeypatch, endpoint(s3) | keys())
    s3.faults = [(503, "SlowDown"), "reset"]
    assert store.fetch(f"{URL}/p1/batch-000001.ndjson.zst") == s3.objects[BATCH]


def test_batches_are_written_side_by_side_and_the_manifest_last(
    s3: VerifyingServer, database_url: str
) -> None:
    """Batches meet in threes at the server: fewer at a time would wait for ever there."""
    s3.barrier = threading.Barrier(3, timeout=20)
    env = endpoint(s3) | keys()
    done = plan(database_url, URL, env, "p1", "--batch-size", "17", "--upload-parallel", "3")
    assert done.returncode == 0, done.stderr
    assert [name.rsplit("/", 1)[1] for name in sorted(s3.objects)] == [
        *(f"batch-{i:06}.ndjson.zst" for i in range(1, 7)),
        "manifest.json",
    ]
    assert list(s3.objects)[-1].endswith("/manifest.json")


def test_a_key_of_kms(s3: VerifyingServer, database_url: str) -> None:
    key = "arn:aws:kms:eu-west-3:1:key/1234"
    env = endpoint(s3) | keys() | {
        "SCATTER_S3_SSE": "aws:kms", "SCATTER_S3_SSE_KMS_KEY_ID": key,
        "SCATTER_S3_STORAGE_CLASS": "STANDARD_IA",
    }  # fmt: skip
    planned(database_url, URL, env)
    assert s3.refused == []
    for headers in s3.headers.values():
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == key
        assert headers["x-amz-storage-class"] == "STANDARD_IA"


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    server = ConnectProxy()
    yield server
    server.stop()


def test_a_private_authority_and_a_proxy(
    database_url: str, proxy: ConnectProxy, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    s3 = VerifyingServer(certificate=authority.issue("s3", "127.0.0.1"))
    try:
        env = endpoint(s3) | keys() | {"AWS_ENDPOINT_URL_S3": f"https://127.0.0.1:{s3.port}"}
        refused(plan(database_url, URL, env), "check AWS_CA_BUNDLE")
        env["AWS_CA_BUNDLE"] = str(authority.pem)
        planned(database_url, URL, env | {"NO_PROXY": "127.0.0.1"})
        assert proxy.asked == []
        through = {"HTTPS_PROXY": proxy.url, "NO_PROXY": ""}
        planned(database_url, URL, env | through, "p2")
        assert set(proxy.asked) == {f"127.0.0.1:{s3.port}"}
        assert len(s3.objects) == 6
    finally:
        s3.stop()


def test_nobody_gives_credentials(
    s3: VerifyingServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = endpoint(s3) | NO_ROLES
    refused(
        plan(database_url, URL, env),
        "no AWS credentials (environment: AWS_ACCESS_KEY_ID is not set;",
        "instance metadata: AWS_EC2_METADATA_DISABLED is true): set AWS_ACCESS_KEY_ID",
    )
    use(monkeypatch, env)
    with pytest.raises(ScatterError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or"):
        store.fetch(f"{URL}/p1/batch-000001.ndjson.zst")
