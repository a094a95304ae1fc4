# SPDX-License-Identifier: Apache-2.0
"""A table of parcels in either database, whose trigger counts how often a phone was changed."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .phones import renumbered, sample
from .postgres_server import PostgresServer
from .workers import BUILD

MIGRATIONS = BUILD / "migrations.so"
PLANNER = BUILD / "scatter-plan"
QUERY = "SELECT id, phone FROM parcel ORDER BY id"


@dataclass
class Database:
    """`url` for planner and celeryc; `django` the environment of scatter_app."""

    url: str
    django: dict[str, str]
    postgres: PostgresServer | None = None
    name: str = ""

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        if self.postgres is not None:
            with self.postgres.connect(self.name) as c:
                return list(c.execute(sql.encode()).fetchall())
        connection = sqlite3.connect(self.name, timeout=20)
        try:
            return list(connection.execute(sql))
        finally:
            connection.close()

    def run(self, *statements: str) -> None:
        if self.postgres is not None:
            with self.postgres.connect(self.name) as c:
                for statement in statements:
                    c.execute(statement.encode())
            return
        connection = sqlite3.connect(self.name, timeout=20)
        try:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        finally:
            connection.close()

    def fill(self, n: int, slow_s: float = 0) -> None:
        """n parcels; with slow_s each change lasts that long (PostgreSQL)."""
        rows = [(i, sample(i)) for i in range(1, n + 1)]
        self.run(
            "CREATE TABLE parcel (id bigint PRIMARY KEY, phone text, changes int NOT NULL DEFAULT 0)"
        )
        if self.postgres is not None:
            with (
                self.postgres.connect(self.name) as c,
                c.cursor() as cursor,
                cursor.copy("COPY parcel (id, phone) FROM STDIN") as copy,
            ):
                for row in rows:
                    copy.write_row(row)
            nap = f"PERFORM pg_sleep({slow_s});" if slow_s else ""
            self.run(
                "CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$BEGIN {nap} NEW.changes := OLD.changes + 1; RETURN NEW; END$$",
                "CREATE TRIGGER counted BEFORE UPDATE OF phone ON parcel FOR EACH ROW EXECUTE FUNCTION counted()",
            )
            return
        connection = sqlite3.connect(self.name)
        connection.executemany("INSERT INTO parcel (id, phone) VALUES (?, ?)", rows)
        connection.execute(
            "CREATE TRIGGER counted AFTER UPDATE OF phone ON parcel "
            "BEGIN UPDATE parcel SET changes = changes + 1 WHERE id = OLD.id; END"
        )
        connection.commit()
        connection.close()

    def count_changes(self, table: str, column: str) -> None:
        """A trigger that counts in `changes` how often the column was written."""
        if self.postgres is not None:
            self.run(
                f"CREATE FUNCTION counted_{table}() RETURNS trigger LANGUAGE plpgsql AS "
                "$$BEGIN NEW.changes := OLD.changes + 1; RETURN NEW; END$$",
                f"CREATE TRIGGER counted_{table} BEFORE UPDATE OF {column} ON {table} "
                f"FOR EACH ROW EXECUTE FUNCTION counted_{table}()",
            )
            return
        self.run(
            f"CREATE TRIGGER counted_{table} AFTER UPDATE OF {column} ON {table} BEGIN "
            f"UPDATE {table} SET changes = changes + 1 WHERE rowid = OLD.rowid; END"
        )

    def batches(self, plan: str) -> dict[str, int]:
        """How many batches are in each state."""
        rows = self.query(
            f"SELECT state, count(*) FROM scatter_batch WHERE plan = '{plan}' GROUP BY state"
        )
        return dict(rows)

    def counts(self, plan: str) -> dict[str, int]:
        names = ("planned", "position", "unchanged", "stale", "skipped", "quarantined")
        row = self.query(
            "SELECT sum(records), sum(position), sum(unchanged), sum(stale), sum(skipped), sum(quarantined) "
            f"FROM scatter_batch WHERE plan = '{plan}'"
        )[0]
        return {name: int(value) for name, value in zip(names, row)}

    def check_parcels(self, done: bool = True) -> None:
        """Every number right, every change made exactly once (or none at all)."""
        rows = self.query("SELECT id, phone, changes FROM parcel ORDER BY id")
        for i, phone, changes in rows:
            old = sample(i)
            new = renumbered(old) if done else old
            assert (phone, changes) == (new, int(new != old)), (i, old, phone, changes)


def sqlite_database(path: Path) -> Database:
    django = {"INTEROP_ENGINE": "sqlite3", "INTEROP_NAME": str(path)}
    return Database(f"sqlite://{path}", django, None, str(path))


def postgres_database(server: PostgresServer, name: str) -> Database:
    django = {
        "INTEROP_ENGINE": "postgresql",
        "INTEROP_NAME": name,
        "INTEROP_HOST": str(server.folder),
    }
    return Database(server.create(name), django, server, name)


def scatter_plan(
    *args: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PLANNER), *map(str, args)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=env,
    )


def create_options(
    database: Database,
    store: str,
    broker: str,
    plan: str,
    batch_size: int,
    query: str = QUERY,
    migration: str = "phones.vn_renumber",
) -> Sequence[str]:
    return [
        "create",
        "--migration",
        migration,
        "-A",
        str(MIGRATIONS),
        "--query",
        query,
        "--database-url",
        database.url,
        "--store",
        store,
        "-b",
        broker,
        "--queue",
        "celery",
        "--batch-size",
        str(batch_size),
        "--plan",
        plan,
        "--progress",
        "none",
    ]
