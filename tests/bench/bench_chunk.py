#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The values of a chunk as arrays (unnest) beside COPY, in alternating rounds, on a PostgreSQL of its own.

What is measured is one call of the worker's code that applies a chunk, with all it brings (fence, checkpoint, orders, COMMIT):
`chunk_driver` for C, django_scatter's control for Python. Each figure is the median of its rounds; the ratio says how many
times as long as COPY the arrays take, above 1 COPY is quicker. Beside the time stands the CPU time of the server's process,
which other work on the machine disturbs less. The server does not wait for its disk (fsync off).
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import queue
import socket
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "interop_tests"))
sys.path.insert(0, str(ROOT / "django_cmd/src"))

import psycopg  # noqa: E402  found by the paths above
from harness.postgres_server import PostgresServer  # noqa: E402

DRIVER = ROOT / "build/obj/tests/bench/chunk_driver"
SIZES = (500, 1_000, 2_000, 5_000, 10_000, 20_000)
ALWAYS, NEVER = 1, 2  # of SCATTER_COPY, as celeryc/db/db.h numbers them


@dataclass(frozen=True)
class Shape:
    name: str
    columns: int
    width: int  # bytes of a value
    records: int
    indexes: tuple[str, ...]


SHAPES = {
    "narrow": Shape("narrow", 1, 15, 300_000, ("c0", "other")),
    "wide": Shape("wide", 8, 125, 60_000, ()),
}


def fill(server: PostgresServer, name: str, shape: Shape) -> None:
    """A table `bench` as chunk_driver wants it; nothing is vacuumed behind our back."""
    columns = "".join(f", c{k} text" for k in range(shape.columns))
    values = "".join(
        f", rpad(lpad(g::text, 10, '0') || '.{k:03}.000000', {shape.width}, 'x')"
        for k in range(shape.columns)
    )
    with server.connect(name) as c:
        for sql in (
            f"CREATE TABLE bench (id bigint PRIMARY KEY, other bigint{columns}) WITH (autovacuum_enabled = off)",
            f"INSERT INTO bench SELECT g, g::bigint * 7919 % 1000003{values} FROM generate_series(1, {shape.records}) AS g",
            *(f"CREATE INDEX ON bench ({index})" for index in shape.indexes),
            "VACUUM ANALYZE bench",
        ):
            c.execute(sql.encode())


class Line:
    """In a process of its own: a TCP port in front of the server's socket that holds back every byte for delay_s in
    each direction."""

    def __init__(self, target: str, delay_s: float) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.process = multiprocessing.get_context("fork").Process(
            target=self._serve, args=(target, delay_s), daemon=True
        )
        self.process.start()
        self.listener.close()

    def _serve(self, target: str, delay_s: float) -> None:
        while True:
            near, _ = self.listener.accept()
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far = socket.socket(socket.AF_UNIX)
            far.connect(target)
            for source, sink in ((near, far), (far, near)):
                held: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                threading.Thread(
                    target=self._read, args=(source, held, delay_s), daemon=True
                ).start()
                threading.Thread(target=self._write, args=(sink, held), daemon=True).start()

    @staticmethod
    def _read(
        source: socket.socket, held: queue.SimpleQueue[tuple[float, bytes]], delay_s: float
    ) -> None:
        """Reading never waits for the delay, so that only the distance is played, not a narrow line."""
        data = b"-"
        while data:
            try:
                data = source.recv(1 << 18)
            except OSError:
                data = b""
            held.put((time.monotonic() + delay_s, data))

    @staticmethod
    def _write(sink: socket.socket, held: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = held.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)

    def close(self) -> None:
        self.process.kill()
        self.process.join()


@dataclass(frozen=True)
class Address:
    name: str
    host: str
    port: int


class Native:
    """chunk_driver; its values are made outside of what it measures."""

    def __init__(self, address: Address, shape: Shape) -> None:
        url = (
            f"host={address.host} port={address.port} user=postgres dbname={address.name} "
            "sslmode=disable gssencmode=disable"
        )
        self.process = subprocess.Popen(
            [DRIVER, url, str(shape.columns), str(shape.width), str(shape.records)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, way: int, rows: int, chunks: int) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{way} {rows} {chunks}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("chunk_driver ended")
        return float(answer)

    def close(self) -> None:
        self.process.communicate()


class Python:
    """The control of django_scatter on a Django connection."""

    def __init__(self, address: Address, shape: Shape) -> None:
        from django.db import connections

        from django_scatter.chunk import Target
        from django_scatter.claims import BatchRow, PlanRow, claim_batch
        from django_scatter.control import open_control

        self.shape = shape
        connections.settings["bench"] = connections.settings["default"] | {
            "NAME": address.name,
            "HOST": address.host,
            "PORT": str(address.port),
        }
        self.connection = connections.create_connection("bench")
        self.control: Any = open_control(self.connection, 600_000)
        self.control.ensure_schema()
        self.columns = [f"c{k}" for k in range(shape.columns)]
        self.control.prepare(Target("bench", ["id"], self.columns, self.columns))
        plan = PlanRow("bench", "bench", "bench", "id", "[]", "bench", "default", "{}", 1, "")
        claim = claim_batch(
            self.control, plan, BatchRow(1, "file:///bench", "0", 1 << 40), "bench", "bench", True
        )
        self.token, self.position = claim.token, claim.position
        self.generation = [0] * (shape.records + 1)
        self.at = 0

    def value(self, record: int, column: int) -> str:
        return f"{record:010}.{column:03}.{self.generation[record]:06}".ljust(self.shape.width, "x")

    def rows(self, n: int) -> list[Any]:
        from django_scatter.chunk import Outcome, Row

        if self.at + n > self.shape.records:
            self.at = 0
        made = []
        for i in range(n):
            record = self.at + i + 1
            old = [self.value(record, k) for k in range(len(self.columns))]
            self.generation[record] += 1
            fresh = {c: self.value(record, k) for k, c in enumerate(self.columns)}
            made.append(Row(Outcome.CHANGED, self.position + i, [str(record), *old], fresh))  # type: ignore[arg-type]
        self.at += n
        return made

    def run(self, way: int, rows: int, chunks: int) -> float:
        from django_scatter.chunk import Chunk

        self.control.copy = "always" if way == ALWAYS else "never"
        took = 0.0
        for _ in range(chunks):
            chunk = Chunk("bench", 1, self.token, self.position, self.rows(rows), "bench")
            began = time.perf_counter()
            self.control.apply(chunk)
            took += time.perf_counter() - began
            self.position += rows
        return took

    def close(self) -> None:
        self.connection.close()


KINDS: dict[str, Callable[[Address, Shape], Native | Python]] = {"C": Native, "Python": Python}


def server_process(watch: psycopg.Connection[Any], database: str) -> Path:
    """The one process that works for our worker."""
    ((pid,),) = watch.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = %s", (database,)
    ).fetchall()
    return Path(f"/proc/{pid}/schedstat")


def cpu_s(process: Path) -> float:
    return int(process.read_text().split()[0]) / 1e9


def bloat(watch: psycopg.Connection[Any]) -> dict[str, int]:
    tables = ("pg_attribute", "pg_class", "pg_type", "pg_depend", "pg_index")
    return {
        t: int(watch.execute("SELECT pg_total_relation_size(%s::regclass)", (t,)).fetchall()[0][0])
        for t in tables
    }


@contextlib.contextmanager
def worker(
    server: PostgresServer, kind: str, shape: Shape, delay_s: float
) -> Iterator[tuple[str, Native | Python]]:
    """A database of its own, and the worker on it; through the line when there is a delay."""
    name = f"bench_{uuid.uuid4().hex}"
    server.create(name)
    fill(server, name, shape)
    line = Line(f"{server.folder}/.s.PGSQL.5432", delay_s) if delay_s else None
    address = Address(name, str(server.folder), 5432)
    one = KINDS[kind](Address(name, "127.0.0.1", line.port) if line else address, shape)
    try:
        yield name, one
    finally:
        one.close()
        if line:
            line.close()


def measure(
    server: PostgresServer, kind: str, shape: Shape, delay_s: float, args: argparse.Namespace
) -> None:
    with worker(server, kind, shape, delay_s) as (name, one), server.connect("postgres") as watch:
        for way in (NEVER, ALWAYS):
            one.run(way, 1_000, 2)  # caches are filled, types looked up
        process = server_process(watch, name)
        for size in args.sizes:
            chunks = max(1, args.records // size)
            took: dict[int, list[float]] = {NEVER: [], ALWAYS: []}
            cpu: dict[int, list[float]] = {NEVER: [], ALWAYS: []}
            for turn in range(args.rounds):
                for way in (NEVER, ALWAYS) if turn % 2 else (ALWAYS, NEVER):
                    before = cpu_s(process)
                    took[way].append(one.run(way, size, chunks) / chunks)
                    cpu[way].append((cpu_s(process) - before) / chunks)
            arrays, copy = (statistics.median(took[way]) for way in (NEVER, ALWAYS))
            cpu_arrays, cpu_copy = (statistics.median(cpu[way]) for way in (NEVER, ALWAYS))
            print(
                f"{kind:7}{shape.name:8}{delay_s * 2000:4.1f} ms{size:8,}{arrays * 1000:9.1f} ms{copy * 1000:9.1f} ms"
                f"{arrays / copy:7.2f}{cpu_arrays / size * 1e6:10.1f} us{cpu_copy / size * 1e6:8.1f} us"
                f"{cpu_arrays / cpu_copy:7.2f}",
                flush=True,
            )
            with server.connect(name) as c:
                c.execute("VACUUM bench")


def measure_catalogue(server: PostgresServer, shape: Shape) -> None:
    chunks = 200
    with worker(server, "C", shape, 0) as (name, one), server.connect(name) as watch:
        one.run(ALWAYS, 10, 2)
        before = bloat(watch)
        one.run(ALWAYS, 10, chunks)
        grown = {t: (after - before[t]) / chunks for t, after in bloat(watch).items()}
    told = ", ".join(f"{t} {n:,.0f}" for t, n in grown.items())
    print(
        f"{shape.name}: the catalogue grows by {sum(grown.values()):,.0f} bytes a chunk by COPY until it is vacuumed ({told})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=list(SIZES), help="changes of a chunk"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--records", type=int, default=10_000, help="changes of one measurement, at least a chunk"
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--round-trip-ms", type=float, nargs="+", default=[0, 0.5])
    args = parser.parse_args()
    server = PostgresServer()
    try:
        with server.connect("postgres") as c:
            for setting in ("shared_buffers = '1GB'", "max_wal_size = '8GB'", "autovacuum = off"):
                c.execute(f"ALTER SYSTEM SET {setting}".encode())
        server.restart()
        if "Python" in args.kinds:
            set_up_django(server)
        print("                             a chunk by:              server's CPU, a row by:")
        print(
            "worker shape   trip    rows      arrays        COPY  ratio      arrays       COPY  ratio"
        )
        for kind in args.kinds:
            for name in args.shapes:
                for trip_ms in args.round_trip_ms:
                    measure(server, kind, SHAPES[name], trip_ms / 2000, args)
        for name in args.shapes:
            measure_catalogue(server, SHAPES[name])
    finally:
        server.stop()


def set_up_django(server: PostgresServer) -> None:
    import django
    from django.conf import settings

    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": "postgres",
                "HOST": str(server.folder),
                "USER": "postgres",
            }
        },
        INSTALLED_APPS=[],
        USE_TZ=True,
    )
    django.setup()


if __name__ == "__main__":
    main()
