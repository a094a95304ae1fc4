# SPDX-License-Identifier: Apache-2.0
"""One Redis, one store, one database, and workers of both kinds for migrations."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

from .fleet import nothing_left
from .parcels import MIGRATIONS, Database, create_options, scatter_plan
from .redis_server import RedisServer
from .workers import EXAMPLES, Worker, WorkerFactory

BATCH = 300
LEASE = "3s"


class Site:
    """One Redis, one store, one database and workers of both kinds for migrations."""

    def __init__(
        self, redis: RedisServer, workers: WorkerFactory, database: Database, folder: Path
    ) -> None:
        self.redis = redis
        self.url = redis.socket_url()
        self.workers = workers
        self.database = database
        self.store = f"file://{folder / 'store'}"
        self.env = {"SCATTER_LEASE": LEASE}
        (folder / "store").mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """Of scatter-plan; chords among callbacks need the workers' result backend."""
        return os.environ | self.env | {"CELERY_RESULT_BACKEND": self.url}

    def options(self, plan: str, batch_size: int = BATCH) -> list[str]:
        return [*create_options(self.database, self.store, self.url, plan, batch_size)]

    def plan(self, plan: str, batch_size: int = BATCH, *more: str) -> dict[str, object]:
        options = self.options(plan, batch_size)
        done = scatter_plan(*options, "--format", "json", *more, env=self.environment)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert isinstance(report, dict)
        return report

    def send_twins(self) -> int:
        """Every message of the queue once more; how many there were."""
        r = self.redis.client()
        messages = r.lrange("celery", 0, -1)
        for raw in messages:
            twin = json.loads(raw)
            twin["properties"]["delivery_tag"] = str(uuid.uuid4())
            r.lpush("celery", json.dumps(twin))
        return len(messages)

    def start(self, kind: str, concurrency: int = 2, *options: str) -> Worker:
        env = dict(self.env)
        if kind == "celeryc":
            env["SCATTER_DATABASE"] = self.database.url
            return self.workers.start(
                kind,
                self.url,
                concurrency=concurrency,
                env=env,
                plugins=[MIGRATIONS, EXAMPLES],
                options=options,
            )
        env.update(self.database.django)
        return self.workers.start(
            kind,
            self.url,
            concurrency=concurrency,
            env=env,
            app="scatter_app",
            options=options,
        )

    def all_done(self, plan: str) -> bool:
        return set(self.database.batches(plan)) == {"done"}

    def check(self, plan: str, n_rows: int) -> None:
        counts = self.database.counts(plan)
        assert counts["planned"] == counts["position"] == n_rows
        assert counts["stale"] == counts["skipped"] == counts["quarantined"] == 0
        self.database.check_parcels()
        nothing_left(self.redis, 0, 40)
