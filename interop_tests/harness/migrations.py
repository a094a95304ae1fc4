# SPDX-License-Identifier: Apache-2.0
"""One Redis, one store, one database and workers of both kinds for the tests' own migrations."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from .parcels import Database, create_options, postgres_database, scatter_plan, sqlite_database
from .redis_server import RedisServer
from .workers import ROOT, Worker, WorkerFactory, compile_plugin


def test_migrations(folder: Path) -> Path:
    """The migrations in C; their twins are in scatter_app.py."""
    return compile_plugin(folder / "migrations.so", ROOT / "interop_tests/migrations")


test_migrations.__test__ = False  # type: ignore[attr-defined]


def databases_of(request: pytest.FixtureRequest, folder: Path) -> Database:
    if request.param == "sqlite":
        return sqlite_database(folder / "test.sqlite3")
    server = request.getfixturevalue("postgres_server")
    return postgres_database(server, f"test_{uuid.uuid4().hex[:8]}")


class Site:
    def __init__(
        self,
        redis: RedisServer,
        workers: WorkerFactory,
        database: Database,
        folder: Path,
        plugins: Sequence[Path],
    ) -> None:
        self.redis = redis
        self.url = redis.socket_url()
        self.workers = workers
        self.database = database
        self.plugins = plugins
        self.store = f"file://{folder / 'store'}"
        self.env = {"SCATTER_LEASE": "3s"}
        (folder / "store").mkdir()

    def create_options(
        self, plan: str, migration: str, query: str, batch_size: int, *more: str
    ) -> list[str]:
        options = create_options(
            self.database, self.store, self.url, plan, batch_size, query, migration
        )
        for plugin in self.plugins:
            options = [*options, "-A", str(plugin)]
        return [*options, "--format", "json", *more]

    def plan(
        self, plan: str, migration: str, query: str, batch_size: int, *more: str
    ) -> dict[str, object]:
        options = self.create_options(plan, migration, query, batch_size, *more)
        done = scatter_plan(*options, env=os.environ | self.env)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert isinstance(report, dict)
        return report

    def send_twins(self, times: int) -> None:
        """Every message of the queue so many times more."""
        r = self.redis.client()
        for raw in r.lrange("celery", 0, -1) * times:
            twin = json.loads(raw)
            twin["properties"]["delivery_tag"] = str(uuid.uuid4())
            r.lpush("celery", json.dumps(twin))

    def start(self, kind: str, concurrency: int = 1, options: Sequence[str] = ()) -> Worker:
        env = dict(self.env)
        if kind == "celeryc":
            env["SCATTER_DATABASE"] = self.database.url
            return self.workers.start(
                kind,
                self.url,
                concurrency=concurrency,
                env=env,
                plugins=self.plugins,
                options=options,
            )
        env.update(self.database.django)
        return self.workers.start(
            kind, self.url, concurrency=concurrency, env=env, app="scatter_app", options=options
        )

    def all_done(self, plan: str) -> bool:
        return set(self.database.batches(plan)) == {"done"}
