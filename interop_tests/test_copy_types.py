# SPDX-License-Identifier: Apache-2.0
"""Chunks by COPY, whatever their size: every type of value and of key, and a pooler in transaction mode."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from harness.copying import copies, count_copies
from harness.migrations import Site
from harness.parcels import Database, postgres_database
from harness.postgres_server import PostgresServer
from test_paths import (  # noqa: F401  run here again
    account_table,
    test_workers_behind_pgbouncer_in_transaction_mode,
)
from test_types import (  # noqa: F401  run here again
    test_every_type_is_read_guarded_and_written,
    test_keys_of_every_type,
)


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[Database]:
    database = postgres_database(postgres_server, f"copy_{uuid.uuid4().hex[:8]}")
    count_copies(database)
    yield database
    assert copies(database) > 0


@pytest.fixture
def own_site(own_site: Site) -> Site:
    own_site.env["SCATTER_COPY"] = "always"
    return own_site


@pytest.fixture
def site(own_site: Site) -> Site:
    account_table(own_site.database)
    return own_site
