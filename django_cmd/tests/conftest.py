# SPDX-License-Identifier: Apache-2.0
"""Databases of the tests: an SQLite file of each test's own, and a database of its own in a private PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "scatter_test_settings")

import django

django.setup()

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections

from django_scatter import policy
from servers import Postgres

VENDORS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("postgres"), {"fsync": "off"})
    yield server
    server.stop()


def use_database(entry: dict[str, Any]) -> None:
    """Points the alias `default` at another database."""
    connections["default"].close()
    del connections["default"]
    connections.settings["default"] = {**connections.settings["default"], **entry}


def make_tables() -> None:
    call_command("migrate", verbosity=0)
    with connections["default"].schema_editor() as editor:
        from scatter_test_app.models import Line, Parcel, Shipment

        for model in (Line, Parcel, Shipment):
            editor.create_model(model)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite3"
    use_database({"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)})
    make_tables()
    connections["default"].close()
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Postgres) -> Postgres:
    use_database(postgres_entry(postgres_server, "scatter"))
    make_tables()
    connections["default"].close()
    return postgres_server


def postgres_entry(server: Postgres, name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": "scatter",
        "HOST": str(server.folder),
    }


@pytest.fixture
def sqlite(sqlite_template: Path, tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "db.sqlite3"
    shutil.copy(sqlite_template, path)
    use_database({"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)})
    yield "sqlite"
    connections["default"].close()


@pytest.fixture
def postgresql(postgres_template: Postgres) -> Iterator[str]:
    with psycopg.connect(postgres_template.url("postgres"), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS of_test")
        admin.execute("CREATE DATABASE of_test TEMPLATE scatter")
    use_database(postgres_entry(postgres_template, "of_test"))
    yield "postgresql"
    connections["default"].close()


@pytest.fixture(params=VENDORS)
def database(request: pytest.FixtureRequest) -> str:
    """Each test that takes it runs on both kinds of database; the alias is `default`."""
    vendor: str = request.getfixturevalue(request.param)
    return vendor


@pytest.fixture(autouse=True)
def no_breaker_left() -> None:
    """A worker's process remembers what it tried for a plan; the tests' plans have one name."""
    policy._breakers.clear()


@dataclass
class StubPlanner:
    """A program in place of scatter-plan that notes how it was called and prints what it is told to."""

    path: Path
    calls_path: Path

    def says(self, printed: Any, stderr: str = "", status: int = 0, read: bool = True) -> None:
        text = printed if isinstance(printed, str) else json.dumps(printed)
        self.path.with_suffix(".json").write_text(
            json.dumps({"stdout": text, "stderr": stderr, "status": status, "read": read})
        )

    @property
    def calls(self) -> list[dict[str, Any]]:
        if not self.calls_path.exists():
            return []
        return [json.loads(line) for line in self.calls_path.read_text().splitlines()]


STUB = """#!{python}
import json, os, sys
told = json.load(open({told!r}))
stdin = sys.stdin.read() if told["read"] else ""
with open({calls!r}, "a") as f:
    f.write(json.dumps({{"argv": sys.argv[1:], "stdin": stdin, "env": dict(os.environ)}}) + "\\n")
sys.stderr.write(told["stderr"])
sys.stdout.write(told["stdout"])
sys.exit(told["status"])
"""


@pytest.fixture
def planner(tmp_path: Path, settings_of: dict[str, Any]) -> StubPlanner:
    path, calls = tmp_path / "scatter-plan", tmp_path / "calls"
    stub = StubPlanner(path, calls)
    path.write_text(
        STUB.format(python=sys.executable, told=str(path.with_suffix(".json")), calls=str(calls))
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    settings_of["BINARY"] = str(path)
    stub.says({"plan": "p1", "total": 10, "batches": 2, "enqueued": 2})
    return stub


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """settings.SCATTER of the test, free to be changed."""
    from django.conf import settings

    found = {"STORE": f"file://{tmp_path}/store", "BROKER": "redis://broker:6379/0"}
    monkeypatch.setattr(settings, "SCATTER", found)
    return found
