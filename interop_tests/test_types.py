# SPDX-License-Identifier: Apache-2.0
"""Every type of value and of key makes the whole way: planned, guarded, written, by workers of either kind."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable

from harness.migrations import Site
from harness.parcels import Database, scatter_plan
from harness.waiting import wait_until

KINDS = ("python", "celeryc")

# Column, its type in PostgreSQL and in SQLite, and values.
TYPES = {
    "flag": ("boolean", "boolean", ("true", "false")),
    "small": ("smallint", "smallint", ("-32768", "7")),
    "big": ("bigint", "bigint", ("9223372036854775807", "-1")),
    "exact": ("numeric(30,10)", "decimal", ("12345678901234567890.0000000001", "0.5")),
    "real": ("double precision", "real", ("0.1", "-1e300")),
    "word": ("text", "text", ("'Đặng \"q\" \\ {a,b} ''x'''", "''")),
    "padded": ("char(8)", "char(8)", ("'ab'", "'a b'")),
    "folded": ("citext", "text", ("'MiXed'", "'x'")),
    "day": ("date", "date", ("'2024-02-29'", "'1999-12-31'")),
    "moment": ("timestamp", "datetime", ("'2024-02-29 12:34:56.789'", "'1999-12-31 00:00:00'")),
    "zoned": ("timestamptz", "datetime", ("'2024-02-29 23:34:56.789+07'", "'1999-12-31 00:00:00+00'")),
    "span": ("interval", "bigint", ("'1 day 02:03:04.5'", "'-3 days'")),
    "bytes": ("bytea", "blob", ("'\\x00ff5c6e'", "'\\x'")),
    "doc": ("json", "text", ("'{\"b\":  1, \"a\": [1.50, null]}'", "'\"\"'")),
    "docb": ("jsonb", "text", ("'{\"b\": 1, \"a\": [1.50, null]}'", "'[]'")),
    "list": ("integer[]", "text", ("'{1,NULL,3}'", "'{}'")),
    "words": ("text[]", "text", ("'{\"a b\",\"q\\\"\",NULL,\"\"}'", "'{{a,b},{c,d}}'")),
    "ident": ("uuid", "char(32)", ("'2f6a4b1e-0f4e-4d0e-9f43-5d4d3c2b1a00'", "'00000000-0000-0000-0000-000000000000'")),
    "mood": ("mood", "text", ("'sad'", "'so so'")),
}  # fmt: skip
SQLITE_VALUES = {
    "span": ("93784500000", "-259200000000"),
    "bytes": ("x'00ff5c6e'", "x''"),
    "exact": ("12345.5", "0.5"),
}


def fill_types(database: Database) -> None:
    postgres = database.postgres is not None
    columns = []
    for name, (pg, sqlite, _) in TYPES.items():
        columns += [
            f"{name} {pg if postgres else sqlite}",
            f"{name}_new {pg if postgres else sqlite}",
        ]
    if postgres:
        database.run("CREATE EXTENSION citext", "CREATE TYPE mood AS ENUM ('sad', 'so so', 'well')")
    database.run(f"CREATE TABLE sample (id bigint PRIMARY KEY, {', '.join(columns)})")
    names = ", ".join(TYPES)
    for i in range(2):
        values = [
            (v if postgres else SQLITE_VALUES.get(name, v))[i] for name, (_, _, v) in TYPES.items()
        ]
        database.run(f"INSERT INTO sample (id, {names}) VALUES ({i + 1}, {', '.join(values)})")
    database.run("INSERT INTO sample (id) VALUES (3)")


def test_every_type_is_read_guarded_and_written(own_site: Site) -> None:
    fill_types(own_site.database)
    for kind in KINDS:
        query = f"SELECT id, {', '.join(TYPES)} FROM sample"
        own_site.plan(kind, "interop.copy_types", query, 10)
        worker = own_site.start(kind, 1)
        wait_until(lambda: own_site.all_done(kind), "every batch done", 30)  # noqa: B023
        worker.stop()
        # NULL copied over NULL is a change as well: the twin was not read.
        counts = own_site.database.counts(kind)
        assert (counts["position"], counts["stale"], counts["quarantined"]) == (3, 0, 0)
        check_twins(own_site.database)
        own_site.database.run("UPDATE sample SET " + ", ".join(f"{n}_new = NULL" for n in TYPES))


def check_twins(database: Database) -> None:
    """Every value arrived as it was, down to its storage class in SQLite."""
    same = "IS NOT DISTINCT FROM" if database.postgres else "IS"
    text = "{0}::text" if database.postgres else "typeof({0}) || quote({0})"
    for name in TYPES:
        twin = f"{name}_new"
        wrong = database.query(
            f"SELECT id, {name}, {twin} FROM sample "
            f"WHERE NOT ({text.format(name)} {same} {text.format(twin)})"
        )
        assert wrong == [], name


# Kind of key: its columns as both databases declare them, and how the i-th key is written.
KeyOf = Callable[[int], list[str]]
KEYS: dict[str, tuple[tuple[str, ...], KeyOf]] = {
    "uuid": (("k uuid",), lambda i: [f"'{uuid.uuid5(uuid.NAMESPACE_URL, str(i))}'"]),
    "text": (("k text",), lambda i: ["'" + ("é", "E", "f", "a b", "Z", "_")[i % 6] + f"{i}'"]),
    "bigint": (("k bigint",), lambda i: [str(i * 1_000_000_007 - 9_000_000_000)]),
    "date": (("k date",), lambda i: [f"'20{i % 90 + 10:02}-{i % 12 + 1:02}-{i // 90 + 1:02}'"]),
    "numeric": (("k numeric(12,2)",), lambda i: [f"{i * 37 % 211 - 100}.5"]),
    "pair": (
        ("region text", "number integer"),
        lambda i: ["'" + ('b"', "B", "ä,")[i % 3] + "'", str(i // 3 * 7 - 100)],
    ),
}


def fill_keys(
    database: Database, table: str, columns: tuple[str, ...], n: int, key_of: KeyOf
) -> list[str]:
    names = [c.split()[0] for c in columns]
    database.run(
        f"CREATE TABLE {table} ({', '.join(columns)}, word text, changes int NOT NULL DEFAULT 0, "
        f"PRIMARY KEY ({', '.join(names)}))",
        *(
            f"INSERT INTO {table} ({', '.join(names)}, word) VALUES ({', '.join(key_of(i))}, 'w{i}')"
            for i in range(n)
        ),
    )
    database.count_changes(table, "word")
    return names


def test_keys_of_every_type(own_site: Site) -> None:
    queries = {}
    for plan, (columns, key_of) in KEYS.items():
        names = fill_keys(own_site.database, f"keyed_{plan}", columns, 200, key_of)
        keyed = ("--table", f"keyed_{plan}", "--key", ",".join(names), "--columns", "word")
        queries[plan] = (f"SELECT {', '.join(names)}, word FROM keyed_{plan}", keyed)
        own_site.plan(plan, "interop.upper", queries[plan][0], 20, *keyed)
        own_site.database.run(f"UPDATE keyed_{plan} SET word = 'mine' WHERE word = 'w7'")
    for kind in KINDS:
        own_site.start(kind, 1)
    for plan, (query, keyed) in queries.items():
        wait_until(lambda: own_site.all_done(plan), f"every batch of {plan} done", 30)  # noqa: B023
        counts = own_site.database.counts(plan)
        assert (counts["position"], counts["stale"], counts["quarantined"]) == (200, 1, 0), plan
        wrong = own_site.database.query(
            f"SELECT word, changes FROM keyed_{plan} WHERE changes <> 1 OR word <> upper(word)"
        )
        assert wrong == [("mine", 1)], plan

        twice = f"{query} UNION ALL {query} WHERE word = 'W150'"
        options = own_site.create_options(f"{plan}-twice", "interop.upper", twice, 20, *keyed)
        refused = scatter_plan(*options, env=os.environ | own_site.env)
        assert refused.returncode == 1, plan
        assert "comes twice" in refused.stderr, plan
    pair = own_site.database.query("SELECT record_key FROM scatter_outcome WHERE plan = 'pair'")
    assert json.loads(pair[0][0]) == ["B", "-86"]
