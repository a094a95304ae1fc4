# SPDX-License-Identifier: Apache-2.0
"""TLS to a real Redis, beside Celery with the very same URLs and settings."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from harness.certificates import Authority
from harness.client import Client
from harness.parcels import MIGRATIONS, create_options, scatter_plan, sqlite_database
from harness.redis_server import RedisServer, free_port
from harness.waiting import wait_until
from harness.workers import CELERYC, WorkerFactory

MakeClient = Callable[..., Client]
KINDS = ["python", "debian", "celeryc"]


class TlsServer:
    """Listens in TLS alone (and on its Unix socket, for the test)."""

    def __init__(self, folder: Path, authority: Authority, *, clients: bool, host: str) -> None:
        certificate = authority.issue("server", host)
        self.port = free_port()
        self.authority = authority
        self.redis = RedisServer(
            folder,
            options=[
                *("--port", "0"),
                *("--tls-port", str(self.port)),
                *("--tls-cert-file", str(certificate)),
                *("--tls-key-file", str(certificate.with_suffix(".key"))),
                *("--tls-ca-cert-file", str(authority.pem)),
                *("--tls-auth-clients", "yes" if clients else "no"),
            ],
        )

    def url(self, **query: str | Path) -> str:
        text = f"rediss://127.0.0.1:{self.port}/0"
        return f"{text}?{urlencode({k: str(v) for k, v in query.items()})}" if query else text


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def tls_server(tmp_path: Path, authority: Authority) -> Iterator[TlsServer]:
    server = TlsServer(tmp_path / "redis", authority, clients=False, host="127.0.0.1")
    yield server
    server.redis.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_the_url_says_it_all(
    kind: str, tls_server: TlsServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    """Celery demands ssl_cert_reqs in the URL of a result backend."""
    url = tls_server.url(ssl_cert_reqs="required", ssl_ca_certs=tls_server.authority.pem)
    workers.start(kind, url)
    version = "debian-5.2" if kind == "debian" else "celery-5.7"
    assert make_client(url, version=version).call("examples.add", 2, 3).value == 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_settings_say_it(
    kind: str, tls_server: TlsServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    # Python's settings hold the constant ssl.CERT_REQUIRED, which is 2; JSON may say that or the word.
    options = {"ssl_cert_reqs": 2, "ssl_ca_certs": str(tls_server.authority.pem)}
    settings = {"broker_use_ssl": options, "redis_backend_use_ssl": options}
    workers.start(kind, tls_server.url(), settings=settings)
    assert make_client(tls_server.url(), **settings).call("examples.add", 2, 3).value == 5


def test_workers_of_both_kinds_share_a_queue(
    tls_server: TlsServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    url = tls_server.url(ssl_cert_reqs="required", ssl_ca_certs=tls_server.authority.pem)
    both = [workers.start(kind, url) for kind in ("python", "celeryc")]
    client = make_client(url)
    ids = [client.send("examples.sleep", 0.01) for _ in range(200)]
    assert all(client.get(task_id).state == "SUCCESS" for task_id in ids)
    assert all(worker.received(ids) for worker in both)


def test_celeryc_verifies_by_default(
    tls_server: TlsServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    """Better than Celery, whose broker connection verifies nothing with such a URL: a server that the system does not trust
    is refused, with the way out, and tried again."""
    worker = workers.start("celeryc", tls_server.url(), wait=False)
    line = worker.process.wait_for_log("certificate is not trusted.*")
    assert "ssl_ca_certs" in line
    worker.process.wait_for_log(r"\(2/100\)")
    assert worker.process.alive
    url = tls_server.url(ssl_ca_certs=tls_server.authority.pem)
    workers.start("celeryc", url)
    client = make_client(
        tls_server.url(ssl_cert_reqs="required", ssl_ca_certs=tls_server.authority.pem)
    )
    assert client.call("examples.add", 1, 1).value == 2


@pytest.mark.parametrize("kind", ["python", "celeryc"])
def test_another_ca_is_refused(
    kind: str, tls_server: TlsServer, workers: WorkerFactory, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    url = tls_server.url(ssl_cert_reqs="required", ssl_ca_certs=other.pem)
    worker = workers.start(kind, url, wait=False)
    worker.process.wait_for_log("(?i)Cannot connect to rediss://.*certificate")


def test_another_host_is_refused(
    authority: Authority, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    server = TlsServer(tmp_path / "redis", authority, clients=False, host="redis.example")
    try:
        url = server.url(ssl_cert_reqs="required", ssl_ca_certs=authority.pem)
        worker = workers.start("celeryc", url, wait=False)
        worker.process.wait_for_log("certificate is not for 127.0.0.1.*ssl_check_hostname")
        lax = url + "&ssl_check_hostname=false"
        workers.start("celeryc", lax)
        done = run_celeryc("call", "examples.add", "--args", "[1, 2]", "--wait", url=lax)
        assert done.stdout == "3\n", done.stderr
    finally:
        workers.stop_all()
        server.redis.stop()


@pytest.mark.parametrize("kind", ["python", "celeryc"])
def test_client_certificates(
    kind: str,
    authority: Authority,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
) -> None:
    server = TlsServer(tmp_path / "redis", authority, clients=True, host="127.0.0.1")
    try:
        trust: dict[str, str | Path] = {
            "ssl_cert_reqs": "required",
            "ssl_ca_certs": authority.pem,
        }
        if kind == "celeryc":
            worker = workers.start(kind, server.url(**trust), wait=False)
            worker.process.wait_for_log("Cannot connect to rediss://.*ssl_certfile and ssl_keyfile")
        mine = authority.issue("client")
        url = server.url(**trust, ssl_certfile=mine, ssl_keyfile=mine.with_suffix(".key"))
        workers.start(kind, url)
        assert make_client(url).call("examples.add", 2, 3).value == 5
    finally:
        workers.stop_all()
        server.redis.stop()


def run_celeryc(*args: str, url: str) -> subprocess.CompletedProcess[str]:
    env: dict[str, Any] = {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}
    return subprocess.run(
        [str(CELERYC), *args], env=env, capture_output=True, text=True, timeout=30, check=False
    )


def test_the_command_line(tls_server: TlsServer, workers: WorkerFactory) -> None:
    url = tls_server.url(ssl_ca_certs=tls_server.authority.pem)
    worker = workers.start("celeryc", url)
    done = run_celeryc("call", "examples.add", "--args", "[2, 3]", "--wait", url=url)
    assert done.stdout == "5\n", done.stderr
    worker.stop()
    sent = run_celeryc("call", "examples.add", "--args", "[2, 3]", url=url)
    assert sent.returncode == 0, sent.stderr
    assert "Purged 1 message" in run_celeryc("purge", "-f", url=url).stdout
    refused = run_celeryc("result", "x", url=tls_server.url())
    assert refused.returncode == 1
    assert "ssl_ca_certs" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["python", "celeryc"])
def test_the_sweep_has_the_settings_of_its_worker(
    kind: str, authority: Authority, workers: WorkerFactory, tmp_path: Path
) -> None:
    """A message that Redis lost is sent again by the program beside the worker, which wants a certificate as well."""
    server = TlsServer(tmp_path / "redis", authority, clients=True, host="127.0.0.1")
    try:
        mine = authority.issue("client")
        options = {
            "ssl_cert_reqs": 2,
            "ssl_ca_certs": str(authority.pem),
            "ssl_certfile": str(mine),
            "ssl_keyfile": str(mine.with_suffix(".key")),
        }
        settings = {
            "broker_use_ssl": options,
            "redis_backend_use_ssl": options,
            "broker_transport_options": {"global_keyprefix": "tls."},
        }
        database = sqlite_database(tmp_path / "parcels.sqlite3")
        database.fill(10)
        (tmp_path / "store").mkdir()
        store = f"file://{tmp_path / 'store'}"
        planned = scatter_plan(
            *create_options(database, store, server.url(), "p1", 10),
            "--on-planned",
            "scatter_app.seen",
            *("--global-keyprefix", "tls."),
            env={"SCATTER_BROKER_OPTIONS": json.dumps(options)},
        )
        assert planned.returncode == 0, planned.stderr
        redis = server.redis.client()
        assert redis.llen("tls.celery") == 2  # the batch's message, and the callback
        redis.flushall()
        env = {"SCATTER_SWEEP": "1s", "SCATTER_DATABASE": database.url, **database.django}
        worker = workers.start(
            kind, server.url(), settings=settings, env=env, plugins=[MIGRATIONS], app="scatter_app"
        )
        wait_until(lambda: database.batches("p1") == {"done": 1}, "the sweep sends it again", 30)
        assert "certificate" not in worker.process.log()
        database.check_parcels()
    finally:
        workers.stop_all()
        server.redis.stop()
