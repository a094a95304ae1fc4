# SPDX-License-Identifier: Apache-2.0
"""Chunks by COPY, whatever their size: the tests of kills, stale rows and refused records once more."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.copying import copies, count_copies
from harness.parcels import postgres_database
from harness.postgres_server import PostgresServer
from harness.redis_server import RedisServer
from harness.site import Site
from harness.waiting import wait_until
from harness.workers import WorkerFactory
from test_migration import (  # noqa: F401  run here again
    test_kill_9_and_duplicates_of_every_message,
    test_rows_changed_since_the_plan_are_left_alone,
)
from test_policy import (  # noqa: F401  run here again
    test_exactly_the_refused_records_are_set_aside,
)


@pytest.fixture
def site(
    redis_server: RedisServer,
    workers: WorkerFactory,
    postgres_server: PostgresServer,
    tmp_path: Path,
) -> Iterator[Site]:
    database = postgres_database(postgres_server, f"copy_{uuid.uuid4().hex[:8]}")
    count_copies(database)
    site = Site(redis_server, workers, database, tmp_path)
    site.env["SCATTER_COPY"] = "always"
    yield site
    assert copies(database) > 0


@pytest.mark.parametrize("kind", ["python", "celeryc"])
def test_arrays_where_temporary_tables_are_refused(site: Site, kind: str) -> None:
    """By an event trigger, which may refuse what the role's rights allow; said once, not for each chunk."""
    site.database.fill(3000)
    site.plan("p1")
    site.database.run(
        "CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE 'no tables today'; END $$",
        "CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE TABLE') "
        "EXECUTE FUNCTION public.refuse()",
    )
    worker = site.start(kind, 1)
    wait_until(lambda: site.all_done("p1"), "every batch done", 30)
    site.check("p1", 3000)
    assert copies(site.database) == 1
    assert worker.process.log().count("no tables today") == 1
