# SPDX-License-Identifier: Apache-2.0
"""scatter-plan against real servers: what it makes, what it refuses, and that a killed one never leaves half a plan.

Kills come at exact points: a Tap stands between the planner and a server, and kills the planner when its n-th chunk of
bytes was answered (the server did the work, the planner never heard). n goes up until the planner gets through.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import zstandard
from harness.parcels import MIGRATIONS, PLANNER, Database, postgres_database, sqlite_database
from harness.postgres_server import PostgresServer
from harness.redis_server import RedisServer
from harness.s3_server import BUCKET, S3Server
from harness.tap import Tap, tcp_listener, unix_client, unix_listener
from harness.waiting import wait_until
from harness.workers import ROOT

N_ROWS = 1000
BATCH = 350
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def module_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


def fill(database: Database, n: int = N_ROWS) -> None:
    if database.postgres is not None:
        database.run(
            "CREATE TABLE parcel (id bigint PRIMARY KEY, phone text, slug text, ok bool, weight numeric(8,2))",
            "INSERT INTO parcel SELECT i, '0162' || lpad(i::text, 7, '0'), chr(65 + i % 2 * 32) || i, i % 2 = 0, i / 4.0 "
            f"FROM generate_series(1, {n}) i",
        )
        return
    database.run(
        "CREATE TABLE parcel (id integer PRIMARY KEY, phone varchar(20), slug text, ok bool, weight decimal)",
        f"WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < {n}) INSERT INTO parcel "
        "SELECT i, printf('0162%07d', i), char(65 + i % 2 * 32) || i, i % 2 = 0, i / 4.0 FROM s",
    )


class Site:
    """One broker, one store, one database, and what a planner is told of them."""

    def __init__(self, redis: RedisServer, database: Database, store: str) -> None:
        self.redis = redis
        self.broker = redis.socket_url()
        self.database = database
        self.database_url = database.url
        self.store = store
        self.s3: S3Server | None = None
        self.env: dict[str, str] = {}
        redis.client().flushall()

    def argv(self, *args: str, **options: str | None) -> list[str]:
        given: dict[str, str | None] = {
            "migration": "phones.vn_renumber",
            "query": "SELECT * FROM parcel",
            "batch-size": str(BATCH),
            "format": "json",
        }
        given |= {name.replace("_", "-"): value for name, value in options.items()}
        words = [f"--{name}={value}" for name, value in given.items() if value is not None]
        return [str(PLANNER), "create", "-A", str(MIGRATIONS), *words, *args]

    def environment(self) -> dict[str, str]:
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "SCATTER_", "CELERY_"))
        }
        return inherited | {
            "SCATTER_DATABASE": self.database_url,
            "SCATTER_STORE": self.store,
            "CELERY_BROKER_URL": self.broker,
            # No credentials but those of the test.
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            **self.env,
        }

    def start(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv, env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, argv: Sequence[str], rows: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, env=self.environment(), input=rows if rows is not None else "", capture_output=True,
            text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip

    def create(self, *args: str, rows: str | None = None, **options: str | None) -> dict[str, Any]:
        done = self.run(self.argv(*args, **options), rows)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def command(self, name: str, *args: str) -> subprocess.CompletedProcess[str]:
        return self.run([str(PLANNER), name, *args])

    # What is in the store

    def objects(self, plan: str) -> dict[str, bytes]:
        if self.s3 is not None:
            prefix = self.store.split("/", 3)[3] + f"/{plan}/"
            listed = self.s3.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get(
                "Contents", []
            )
            return {
                o["Key"].removeprefix(prefix): self.s3.client.get_object(
                    Bucket=BUCKET, Key=o["Key"]
                )["Body"].read()
                for o in listed
            }
        folder = Path(self.store.removeprefix("file://")) / plan
        # A hidden file is what a killed write left behind; no reader looks at it.
        return {p.name: p.read_bytes() for p in folder.glob("*") if not p.name.startswith(".")}

    def messages(self, queue: str = "celery") -> list[dict[str, Any]]:
        found = []
        for raw in self.redis.client().lrange(queue, 0, -1):
            envelope = json.loads(raw)
            body = json.loads(base64.b64decode(envelope["body"]))
            found.append({"headers": envelope["headers"], "kwargs": body[1]})
        return found

    def check(self, plan: str, keys: Sequence[Any], queued: bool = True) -> dict[str, Any]:
        """Manifest, objects, control rows and messages all tell of the same plan, whole and once."""
        objects = self.objects(plan)
        manifest = json.loads(objects["manifest.json"])
        batches = manifest["batches"]
        assert set(objects) == {"manifest.json", *(b["object"] for b in batches)}
        seen: list[Any] = []
        for b in batches:
            assert hashlib.sha256(objects[b["object"]]).hexdigest() == b["sha256"]
            text = zstandard.ZstdDecompressor().decompressobj().decompress(objects[b["object"]])
            header, *records = [json.loads(line) for line in text.decode().splitlines()]
            assert (header["plan"], header["batch"], header["count"]) == (
                plan,
                b["batch"],
                b["count"],
            )
            assert len(records) == b["count"]
            assert (str(records[0][0]), str(records[-1][0])) == (b["first_key"], b["last_key"])
            seen += [r[0] for r in records]
        assert seen == list(keys)
        assert manifest["total"] == len(seen)
        rows = self.database.query(
            f"SELECT batch, source, sha256, records, state FROM scatter_batch WHERE plan = '{plan}' ORDER BY batch"
        )
        state = "queued" if queued else "planned"
        assert rows == [
            (b["batch"], f"{self.store}/{plan}/{b['object']}", b["sha256"], b["count"], state)
            for b in batches
        ]
        plans = self.database.query(
            f"SELECT state, total, n_batches FROM scatter_plan WHERE plan = '{plan}'"
        )
        assert plans == [(state, len(seen), len(batches))]
        if queued:
            self.check_messages(plan, batches)
        return dict(manifest)

    def check_messages(self, plan: str, batches: Sequence[dict[str, Any]]) -> None:
        sent = {}
        for message in self.messages():
            kwargs = message["kwargs"]
            assert message["headers"]["task"] == "phones.vn_renumber"
            assert message["headers"]["id"] == str(
                uuid.uuid5(uuid.NAMESPACE_URL, f"scatter:{plan}:{kwargs['batch']}")
            )
            sent[kwargs.pop("batch")] = kwargs
        assert sent == {
            b["batch"]: {
                "plan": plan, "source": f"{self.store}/{plan}/{b['object']}", "database": "default",
                "sha256": b["sha256"], "params": {},
            }
            for b in batches
        }  # fmt: skip

    def check_nothing(self) -> None:
        root = Path(self.store.removeprefix("file://"))
        assert not root.exists() or not list(root.iterdir())
        assert self.redis.client().dbsize() == 0
        tables = (
            "SELECT count(*) FROM information_schema.tables WHERE table_name = 'scatter_plan'"
            if self.database.postgres is not None
            else "SELECT count(*) FROM sqlite_master WHERE name = 'scatter_plan'"
        )
        if self.database.query(tables)[0][0]:
            assert self.database.query("SELECT count(*) FROM scatter_plan") == [(0,)]


def make_site(redis: RedisServer, database: Database, folder: Path) -> Site:
    fill(database)
    return Site(redis, database, f"file://{folder / 'store'}")


@pytest.fixture
def sqlite_site(module_redis: RedisServer, tmp_path: Path) -> Site:
    return make_site(module_redis, sqlite_database(tmp_path / "parcels.sqlite3"), tmp_path)


@pytest.fixture
def postgres_site(
    module_redis: RedisServer, postgres_server: PostgresServer, tmp_path: Path
) -> Site:
    database = postgres_database(postgres_server, f"planner_{uuid.uuid4().hex[:8]}")
    return make_site(module_redis, database, tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest) -> Site:
    name = "sqlite_site" if request.param == "sqlite" else "postgres_site"
    found = request.getfixturevalue(name)
    assert isinstance(found, Site)
    return found


ALL = range(1, N_ROWS + 1)


# ---- what it makes ----


def test_plan_is_whole_in_every_place(site: Site) -> None:
    found = site.create(created_by="me", on_finish="app.done", param="region=vn", no_enqueue=None)
    assert {k: found[k] for k in ("total", "batches", "enqueued")} == {
        "total": N_ROWS,
        "batches": 3,
        "enqueued": 3,
    }
    plan = found["plan"]
    assert plan.startswith("phones.vn_renumber-")
    site.messages()
    manifest = json.loads(site.objects(plan)["manifest.json"])
    assert manifest["params"] == {"region": "vn"}
    assert (manifest["created_by"], manifest["on_finish"], manifest["on_batch"]) == (
        "me",
        "app.done",
        None,
    )
    assert [m["kwargs"]["params"] for m in site.messages()] == [{"region": "vn"}] * 3
    # LPUSH puts the first batch where it is consumed first.
    assert [m["kwargs"]["batch"] for m in site.messages()] == [3, 2, 1]


def test_old_values_keep_their_types(site: Site) -> None:
    plan = site.create(
        columns="phone,ok,weight,slug", query="SELECT * FROM parcel WHERE id < 3;  "
    )["plan"]
    text = (
        zstandard.ZstdDecompressor()
        .decompressobj()
        .decompress(site.objects(plan)["batch-000001.ndjson.zst"])
    )
    records = [json.loads(line) for line in text.decode().splitlines()[1:]]
    weights = ["0.25", "0.50"] if site.database.postgres is not None else ["0.25", "0.5"]
    assert records == [
        [1, "01620000001", False, weights[0], "a1"],
        [2, "01620000002", True, weights[1], "A2"],
    ]


def test_two_phases(site: Site) -> None:
    assert site.create("--no-enqueue", plan="p1")["enqueued"] == 0
    assert site.messages() == []
    site.check("p1", ALL, queued=False)
    for expected in (3, 0):
        done = site.command("enqueue", "--plan", "p1", "--format", "json")
        assert json.loads(done.stdout) == {
            "plan": "p1",
            "total": N_ROWS,
            "batches": 3,
            "enqueued": expected,
        }
    site.check("p1", ALL)
    assert len(site.messages()) == 3


def test_plan_that_is_there_is_not_made_again(site: Site) -> None:
    site.create(plan="p1")
    before = site.objects("p1")
    again = site.create(plan="p1", query="SELECT * FROM parcel WHERE id < 5")
    assert (again["total"], again["enqueued"]) == (N_ROWS, 0)
    assert site.objects("p1") == before
    site.check("p1", ALL)


def test_dry_run_writes_nothing(site: Site) -> None:
    found = site.create("--dry-run")
    assert (found["total"], found["batches"], found["enqueued"], found["dry_run"]) == (
        N_ROWS,
        3,
        0,
        True,
    )
    assert (found["first_key"], found["last_key"]) == ("1", str(N_ROWS))
    assert found["sample"][0] == [1, "01620000001"]
    assert len(found["sample"]) == 5
    site.check_nothing()
    tables = (
        "SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'scatter%'"
        if site.database.postgres is not None
        else "SELECT name FROM sqlite_master WHERE name LIKE 'scatter%'"
    )
    assert site.database.query(tables) == [], "not even empty tables"


def test_no_records_is_no_plan(site: Site) -> None:
    assert site.create(query="SELECT * FROM parcel WHERE id < 0") == {
        "plan": None, "total": 0, "batches": 0, "enqueued": 0,
    }  # fmt: skip
    site.check_nothing()


def test_query_in_any_order_and_with_a_comment(site: Site) -> None:
    plan = site.create(query="SELECT phone, id FROM parcel ORDER BY phone DESC -- newest first")[
        "plan"
    ]
    site.check(plan, ALL)


def test_text_keys_come_byte_by_byte(site: Site) -> None:
    plan = site.create(key="slug", columns="phone")["plan"]
    slugs = sorted((("a" if i % 2 else "A") + str(i) for i in ALL), key=str.encode)
    site.check(plan, slugs)


def rows_text(rows: Sequence[Sequence[Any]], trailer: bool = True, count: int | None = None) -> str:
    header = {"columns": ["phone", "id"], "types": None, "trailer": trailer}
    lines = [json.dumps(header), *(json.dumps(r) for r in rows)]
    if trailer and count is not None:
        lines.append(json.dumps({"rows": count}))
    return "\n".join(lines) + "\n"


def test_rows_from_standard_input(site: Site) -> None:
    rows = [[f"0162{i:07}", i] for i in ALL]
    found = site.create("--stdin", rows=rows_text(rows, count=N_ROWS), query=None, plan="p1")
    assert found["total"] == N_ROWS
    site.check("p1", ALL)


@pytest.mark.parametrize("trailer", [True, False])
def test_sender_that_stops_half_way(site: Site, trailer: bool) -> None:
    rows = [[f"0162{i:07}", i] for i in ALL]
    text = rows_text(rows, trailer)
    done = site.run(site.argv("--stdin", query=None), text if trailer else text[:-20])
    assert done.returncode == 1
    assert "standard input" in done.stderr
    site.check_nothing()


def test_progress_lines(sqlite_site: Site) -> None:
    done = sqlite_site.run(sqlite_site.argv(progress="json"))
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["phase"] for line in lines] == sorted(
        (line["phase"] for line in lines), reverse=True
    )
    assert lines[-1] == {"phase": "enqueueing", "records": N_ROWS, "batches": 3, "total": N_ROWS}
    assert {"phase": "planning", "records": N_ROWS, "batches": 3, "total": N_ROWS} in lines


def test_status(site: Site) -> None:
    site.create(plan="p1")
    found = json.loads(site.command("status", "--plan", "p1", "--format", "json").stdout)
    assert (found["state"], found["total"], found["remaining"], found["batches"]) == (
        "queued",
        N_ROWS,
        N_ROWS,
        3,
    )
    assert f"remaining                {N_ROWS:,}" in site.command("status", "--plan", "p1").stdout


# ---- help, man page, completion ----


def commands() -> list[str]:
    text = subprocess.run([PLANNER, "--help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  ([a-z]+) +\S", text, re.M)


def options_of(command: str) -> list[str]:
    words = [str(PLANNER), command, "--help"]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  (?:-., |    )(--[a-z-]+)", text, re.M)


def completed(*words: str) -> list[str]:
    script = (
        f"source {ROOT}/packaging/completion/scatter-plan.bash; COMP_WORDS=({PLANNER} "
        f"{' '.join(words)} ''); COMP_CWORD={len(words) + 1}; _scatter_plan; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_man_page_knows_every_command_and_option() -> None:
    text = (ROOT / "packaging/scatter-plan.1").read_text().replace("\\-", "-")
    known = {*re.findall(r"--[a-z]+(?:-[a-z]+)*", re.sub(r"\\f.", " ", text))}
    options = {o for command in commands() for o in options_of(command)}
    assert len(options) > 40
    assert options - known == set()
    assert known - options == {"--help", "--version"}
    assert [c for c in commands() if not re.search(rf"^\.[A-Z]+ .*\b{c}\b", text, re.M)] == []


def test_completion_knows_what_the_program_knows() -> None:
    assert completed() == [*commands(), "--help", "--version"]
    for command in ("create", "sweep", "verify"):
        assert completed(command) == [*options_of(command), "--help"]
    assert completed("redrive", "p1", "--outcome") == ["quarantined", "stale", "skipped", "failed"]
    assert completed("create", "--query") == []
    assert completed("verify", "p1", "--top-up") == completed("verify")
    assert completed("governor")[-5:] == ["show", "set", "stop", "start", "--help"]


# ---- what it refuses: one line, exit code not 0, nothing left ----


def refused(site: Site, done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode in (1, 2), done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("scatter-plan: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    site.check_nothing()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"query": "SELECT phone FROM parcel"}, ["no key column", '"id"', "phone", "--key"]),
        ({"query": "SELECT id FROM parcel"}, ["no column", '"phone"', "--columns"]),
        ({"query": "SELEC 1"}, ["query is refused"]),
        ({"query": "SELECT * FROM parsel"}, ["query is refused", "parsel"]),
        ({"query": "SELECT 7 AS id, phone FROM parcel"}, ['key "7"', "twice"]),
        ({"query": "SELECT nullif(id, 900) AS id, phone FROM parcel"}, ["NULL", "WHERE id IS NOT NULL"]),
        ({"migration": "phones.nope"}, ["phones.nope", "phones.vn_renumber", "--migration"]),
        ({"table": "parsel"}, ["parsel"]),
        ({"columns": "slug"}, ["--columns must have", "phone"]),
        ({"columns": "phone,nope"}, ["nope"]),
        ({"plan": "../up"}, ["plan id"]),
        ({"store": "file:///nowhere/at/all"}, ["/nowhere/at does not exist", "store URL"]),
        ({"store": "ftp://x"}, ["s3://bucket/prefix or file:///dir"]),
        ({"store": "s3://bucket"}, ["no AWS credentials", "set AWS_ACCESS_KEY_ID"]),
        ({"broker": "redis://127.0.0.1:1/0"}, ["127.0.0.1:1"]),
        ({"broker": "amqp://h"}, ["Redis"]),
        ({"database-url": "postgresql://postgres@127.0.0.1:1/x"}, ["127.0.0.1", "port 1"]),
        ({"database-url": "sqlite:////nowhere/x"}, ["/nowhere/x"]),
        ({"param": "x"}, ["NAME=VALUE"]),
        ({"batch-size": "0"}, ["--batch-size"]),
    ],
    ids=lambda v: next(iter(v.values()))[:40] if isinstance(v, dict) else "",
)  # fmt: skip
def test_mistakes(site: Site, options: dict[str, str], words: Sequence[str]) -> None:
    refused(site, site.run(site.argv(**({"plan": "p1"} | options))), *words)


def test_two_columns_of_one_name(postgres_site: Site) -> None:
    # SQLite gives the second one another name by itself.
    done = postgres_site.run(postgres_site.argv(query="SELECT id, id, phone FROM parcel"))
    refused(postgres_site, done, 'two columns named "id"', "AS")


def test_missing_plugin(sqlite_site: Site) -> None:
    refused(sqlite_site, sqlite_site.run(sqlite_site.argv("-A", "./nope.so")), "nope.so")


def test_python_migration_needs_its_description(sqlite_site: Site) -> None:
    done = sqlite_site.run(sqlite_site.argv(migration="py.only", table="parcel", key="id"))
    refused(sqlite_site, done, "--table, --key and --columns")
    found = sqlite_site.create(migration="py.only", table="parcel", key="id", columns="phone,slug")
    assert found["total"] == N_ROWS


def test_plan_id_of_another_migration(sqlite_site: Site) -> None:
    sqlite_site.create(plan="p1")
    done = sqlite_site.run(
        sqlite_site.argv(plan="p1", migration="py", table="parcel", key="id", columns="phone")
    )
    assert done.returncode == 1
    assert "plan p1 exists already, for migration phones.vn_renumber" in done.stderr


def test_manifest_that_is_damaged(sqlite_site: Site) -> None:
    folder = Path(sqlite_site.store.removeprefix("file://")) / "p1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"format": 1}')
    done = sqlite_site.run(sqlite_site.argv(plan="p1"))
    assert done.returncode == 1
    assert 'manifest.json: manifest: "plan" is missing: choose another --plan' in done.stderr
    assert (folder / "manifest.json").read_text() == '{"format": 1}'


def test_read_only_database(postgres_site: Site, postgres_server: PostgresServer) -> None:
    postgres_site.database.run(
        "ALTER DATABASE " + postgres_site.database.name + " SET default_transaction_read_only = on"
    )
    done = postgres_site.run(postgres_site.argv())
    refused(postgres_site, done, "read-only")


def test_user_without_the_right_to_update(
    postgres_site: Site, postgres_server: PostgresServer
) -> None:
    name = f"reader_{uuid.uuid4().hex[:8]}"
    postgres_site.database.run(f"CREATE ROLE {name} LOGIN", f"GRANT SELECT ON parcel TO {name}")
    postgres_site.database_url = postgres_server.url(postgres_site.database.name, name)
    refused(postgres_site, postgres_site.run(postgres_site.argv()), "parcel")


@pytest.mark.parametrize("planned", [False, True], ids=["no tables", "tables"])
def test_commands_on_no_plan(site: Site, planned: bool) -> None:
    if planned:
        site.create(plan="p1")
    for name in (
        "status", "enqueue", "pause", "resume", "cancel", "drain", "sweep", "redrive", "undo", "verify",
        "report", "audit",
    ):  # fmt: skip
        done = site.command(name, "--plan", "nope")
        assert (done.returncode, done.stdout) == (1, ""), (name, done)
        assert done.stderr.startswith("scatter-plan: "), done.stderr
        assert done.stderr.endswith("there is no plan nope in this database\n"), (name, done.stderr)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("set p1", "nothing to set"),
        ("set p1 rate=fast", "rate is a number above 0, or none"),
        ("set p1 rate=inf", "rate is a number above 0, or none"),
        ("set p1 workers=0.5", "workers is a whole number from 1 to"),
        ("set p1 chunk_ms=60001", "chunk_ms is a whole number from 1 to 60000"),
        ("set p1 speed=1", "rate, chunk_ms and workers"),
        ("governor faster", "show, set, stop and start"),
        ("governor stop now", "now: nothing can stand behind stop"),
        ("redrive p1 --as a/b", "plan id"),
        ("redrive p1 --on-finish {x", "--on-finish"),
    ],
)
def test_mistakes_about_a_plan(sqlite_site: Site, words: str, text: str) -> None:
    sqlite_site.create(plan="p1")
    sqlite_site.database.run(
        "INSERT INTO scatter_outcome (plan, batch, position, record_key, outcome) "
        "VALUES ('p1', 1, 0, '1', 'quarantined')"
    )
    done = sqlite_site.command(*words.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert text in done.stderr
    assert sqlite_site.database.query(
        "SELECT rate, chunk_ms, max_workers FROM scatter_plan WHERE plan = 'p1'"
    ) == [(None, None, None)]


# ---- kill -9 ----


def run_tapped(site: Site, argv: Sequence[str], tap: Tap) -> bool:
    """Whether the planner got through."""
    process = site.start(argv)
    tap.victim = process
    tap.victim_known.set()
    _, errors = process.communicate(timeout=DEADLINE_S)
    tap.close()
    if tap.killed:
        return False
    assert process.returncode == 0, errors
    return True


# The second run finds other records and cuts fewer batches: a mixture of two runs would show.
OTHER = {"query": "SELECT * FROM parcel WHERE id > 10", "batch_size": "600"}
KEPT = list(ALL)
FRESH = list(range(11, N_ROWS + 1))


def finish_and_check(site: Site, plan: str) -> None:
    """The next run finishes that very plan, or makes a clean one."""
    committed = "manifest.json" in site.objects(plan)
    site.create(plan=plan, **OTHER)
    site.check(plan, KEPT if committed else FRESH)
    site.redis.client().flushall()


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_step_of_the_store(
    sqlite_site: Site, s3_server: S3Server, before: bool
) -> None:
    site = sqlite_site
    site.s3 = s3_server
    site.store = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    direct = s3_server.environment()
    port = int(s3_server.endpoint.rsplit(":", 1)[1])
    for n in range(1, 200):
        listener = tcp_listener()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        tap = Tap(lambda: socket.create_connection(("127.0.0.1", port)), listener, n, before)
        site.env = direct | {"AWS_ENDPOINT_URL": endpoint}
        through = run_tapped(site, site.argv(plan=f"p{n}"), tap)
        site.env = direct
        finish_and_check(site, f"p{n}")
        if through:
            assert n > 8
            return
    pytest.fail("the planner never got through")


def test_killed_at_every_step_of_the_database(postgres_site: Site, tmp_path: Path) -> None:
    site = postgres_site
    assert site.database.postgres is not None
    direct = site.database_url
    real = str(site.database.postgres.folder / ".s.PGSQL.5432")
    folder = tmp_path / "tap"
    folder.mkdir()
    for n in range(1, 300):
        tap = Tap(
            lambda: unix_client(real), unix_listener(folder / ".s.PGSQL.5432"), n, before=False
        )
        site.database_url = f"postgresql://postgres@/{site.database.name}?host={folder}"
        through = run_tapped(site, site.argv(plan=f"p{n}"), tap)
        site.database_url = direct
        finish_and_check(site, f"p{n}")
        if through:
            assert n > 8
            return
    pytest.fail("the planner never got through")


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_step_of_the_broker(
    sqlite_site: Site, module_redis: RedisServer, tmp_path: Path, before: bool
) -> None:
    site = sqlite_site
    direct = site.broker
    path = tmp_path / "tap.sock"
    for n in range(1, 100):
        tap = Tap(
            lambda: unix_client(str(module_redis.socket_path)),
            unix_listener(path),
            n,
            before=before,
        )
        site.broker = f"redis+socket://{path}"
        through = run_tapped(site, site.argv(plan=f"p{n}"), tap)
        site.broker = direct
        finish_and_check(site, f"p{n}")
        if through:
            assert n > 2
            return
    pytest.fail("the planner never got through")


def test_killed_at_random_moments(postgres_site: Site) -> None:
    """The same plan id is killed again and again, then finished: no point of time leaves half a plan."""
    site = postgres_site
    n = 60_000
    site.database.run(
        "INSERT INTO parcel (id, phone) SELECT i, '0162' || lpad(i::text, 7, '0') "
        f"FROM generate_series({N_ROWS + 1}, {n}) i"
    )
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    for _ in range(10):
        process = site.start(site.argv(plan="p1", batch_size="1000"))
        try:
            process.communicate(timeout=chance.uniform(0.01, 0.3))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    site.create(plan="p1", batch_size="1000")
    site.check("p1", range(1, n + 1))


def test_terminated_planner_takes_its_objects_back(site: Site) -> None:
    process = subprocess.Popen(
        site.argv("--stdin", plan="p1", query=None), env=site.environment(), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(rows_text([[f"0162{i:07}", i] for i in range(500)]))
    process.stdin.flush()
    folder = Path(site.store.removeprefix("file://")) / "p1"
    wait_for((folder / "batch-000001.ndjson.zst").exists, process)
    process.terminate()
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + 15
    assert errors == "scatter-plan: interrupted\n"
    site.check_nothing()


def test_two_planners_on_one_plan_id(postgres_site: Site) -> None:
    """Whoever comes second overwrites the first one's marker; the first gives up before its commit point."""
    site = postgres_site
    folder = Path(site.store.removeprefix("file://")) / "p1"
    with psycopg.connect(site.database_url) as holder:
        # The first planner's query waits for the lock; its marker is there by then.
        holder.execute("SELECT pg_advisory_xact_lock(7)")
        query = "SELECT p.* FROM parcel p, (SELECT pg_advisory_xact_lock(7) OFFSET 0) l"
        first = site.start(site.argv(plan="p1", query=query))
        wait_for((folder / "planning.json").exists, first)
        site.create(plan="p1")
        holder.rollback()
    _, errors = first.communicate(timeout=DEADLINE_S)
    assert first.returncode == 1
    assert "another scatter-plan is making plan p1" in errors
    site.check("p1", ALL)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    def look() -> bool:
        assert process.poll() is None, process.communicate()
        return condition()

    wait_until(look, "the planner is at work")
