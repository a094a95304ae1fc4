# SPDX-License-Identifier: Apache-2.0
"""Fixtures are named after the process they own. Behaviour tests take `fleet` (which workers) and `client` (which Celery
sends), and run for each pair; the marks `fleets` and `clients` narrow that down, with the reason in the test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import processes
from harness.client import Client
from harness.fleet import FLEETS, Fleet
from harness.migrations import Site as OwnSite
from harness.migrations import databases_of, test_migrations
from harness.parcels import Database, postgres_database, sqlite_database
from harness.postgres_server import PostgresServer
from harness.redis_server import RedisServer
from harness.site import Site
from harness.waiting import DeadlineError, wait_until
from harness.workers import EXAMPLES, WorkerFactory, build_plugin


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fleets(*names): run with these fleets only")
    config.addinivalue_line("markers", "chaos: the long form of a test, run by `make chaos` alone")
    config.addinivalue_line("markers", "clients(*versions): run with these client versions only")


# Which Celery sends to which workers: every release to celeryc, alone and beside workers of that release.
PAIRS = [
    ("python", "celery-5.7"),
    ("debian", "debian-5.2"),
    ("celeryc", "celery-5.7"),
    ("celeryc", "debian-5.2"),
    ("both", "celery-5.7"),
    ("both-debian", "debian-5.2"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fleet" not in metafunc.fixturenames:
        return
    fleets = metafunc.definition.get_closest_marker("fleets")
    clients = metafunc.definition.get_closest_marker("clients")
    pairs = [
        (fleet, client)
        for fleet, client in PAIRS
        if (fleets is None or fleet in fleets.args) and (clients is None or client in clients.args)
    ]
    metafunc.parametrize(
        ("fleet", "client_version"),
        pairs,
        indirect=["fleet"],
        scope="session",
        ids=["-".join(pair) for pair in pairs],
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        for process in processes.running:
            report.sections.append(
                (f"log of {process.name} (pid {process.pid})", process.log_tail())
            )
    return report


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """At the end of the session nothing that it started, at any depth, is alive."""
    yield
    left: dict[int, str] = {}

    def gone() -> bool:
        left.clear()
        left.update(processes.marked_pids(processes.SESSION_MARK, processes.session_id))
        return not left

    try:
        wait_until(gone, "the end of every process of the session", 10.0)
    except DeadlineError:
        pytest.fail(f"processes left behind: {left}")


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [EXAMPLES, build_plugin(tmp_path_factory.mktemp("plugin"))]


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def fleet(
    request: pytest.FixtureRequest,
    shared_redis: RedisServer,
    plugins: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Fleet]:
    kind = request.param
    factory = WorkerFactory(tmp_path_factory.mktemp(f"fleet-{kind}"), plugins)
    made = None
    try:
        made = Fleet(kind, shared_redis, 1 + list(FLEETS).index(kind), factory)
        yield made
    finally:
        if made is not None:
            made.close()
        factory.stop_all()


@pytest.fixture
def client(fleet: Fleet, client_version: str) -> Iterator[Client]:
    yield fleet.client(client_version)
    fleet.settle()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """For tests that need a Redis of their own."""
    server = RedisServer(tmp_path / "redis")
    yield server
    server.stop()


@pytest.fixture
def workers(tmp_path: Path, plugins: list[Path]) -> Iterator[WorkerFactory]:
    """For tests that need workers of their own; stopped at the end."""
    factory = WorkerFactory(tmp_path / "workers", plugins)
    yield factory
    factory.stop_all()


@pytest.fixture
def make_client() -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def make(
        broker: str, backend: str | None = None, version: str = "celery-5.7", **settings: Any
    ) -> Client:
        made.append(Client(version, broker, backend or broker, settings))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return sqlite_database(tmp_path / "parcels.sqlite3")
    server = request.getfixturevalue("postgres_server")
    return postgres_database(server, f"parcels_{uuid.uuid4().hex[:8]}")


@pytest.fixture
def site(
    redis_server: RedisServer, workers: WorkerFactory, database: Database, tmp_path: Path
) -> Site:
    return Site(redis_server, workers, database, tmp_path)


@pytest.fixture(scope="session")
def own_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return test_migrations(tmp_path_factory.mktemp("migrations"))


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return databases_of(request, tmp_path)


@pytest.fixture
def own_site(
    redis_server: RedisServer,
    workers: WorkerFactory,
    empty_database: Database,
    tmp_path: Path,
    own_plugin: Path,
) -> OwnSite:
    """For the tests' own migrations, on a database without tables."""
    return OwnSite(redis_server, workers, empty_database, tmp_path, [own_plugin])
