# SPDX-License-Identifier: Apache-2.0
"""Chunks by COPY, whatever their size: every type of value and of key, and a pooler in transaction mode."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.copying import copies, count_copies
from harness.migrations import Site
from harness.parcels import Database, postgres_database
from harness.postgres_server import PostgresServer
from harness.redis_server import RedisServer
from harness.workers import WorkerFactory
from test_paths import (  # noqa: F401  run here again
    account_table,
    test_workers_behind_pgbouncer_in_transaction_mode,
)
from test_types import (  # noqa: F401  run here again
    plugin,
    test_every_type_is_read_guarded_and_written,
    test_keys_of_every_type,
)


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    database = postgres_database(postgres_server, f"copy_{uuid.uuid4().hex[:8]}")
    count_copies(database)
    yield database
    assert copies(database) > 0


@pytest.fixture
def site(
    redis_server: RedisServer,
    workers: WorkerFactory,
    database: Database,
    tmp_path: Path,
    plugin: Path,  # noqa: F811
) -> Site:
    account_table(database)
    site = Site(redis_server, workers, database, tmp_path, [plugin])
    site.env["SCATTER_COPY"] = "always"
    return site
