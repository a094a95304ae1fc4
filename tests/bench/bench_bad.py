#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What records that the database refuses cost: a plan with a few of them beside the same plan without, in alternating rounds.

The bad ones are spread evenly, in three classes of which one (a division by zero inside of a check) says nothing about the
record. Every round has a database of its own; its checkpoint is done before, autovacuum is off on the table, and
fsync is on. Time is that of the plan, from its first claim to its end; CPU is that of the server and the workers
together, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "interop_tests"))

from harness import planted  # noqa: E402  found by the path above
from harness.parcels import create_options, postgres_database, scatter_plan  # noqa: E402
from harness.postgres_server import PostgresServer  # noqa: E402
from harness.redis_server import RedisServer  # noqa: E402
from harness.site import Site  # noqa: E402
from harness.workers import WorkerFactory  # noqa: E402

SETTINGS = ("fsync=on", "shared_buffers=512MB", "max_wal_size=8GB", "checkpoint_timeout=1h")
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Of a living process, the children that it has waited for, and its living descendants."""
    proc = Path(f"/proc/{pid}")
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    children = (proc / f"task/{pid}/children").read_text().split()
    return sum(map(int, fields[11:15])) / TICKS + sum(cpu_s(int(child)) for child in children)


class Bench:
    def __init__(
        self, folder: Path, kind: str, rows: int, batch_size: int, more: list[str]
    ) -> None:
        self.folder = folder
        self.kind = kind
        self.rows = rows
        self.batch_size = batch_size
        self.server = PostgresServer([*SETTINGS, *more])
        self.redis = RedisServer(folder / "redis")

    def close(self) -> None:
        self.redis.stop()
        self.server.stop()

    def wait(self, name: str) -> None:
        """Seldom asked, and on one connection: a backend costs milliseconds of CPU."""
        with self.server.connect(name) as c:
            while c.execute("SELECT 1 FROM scatter_plan WHERE finished_at IS NULL").fetchone():
                time.sleep(0.2)

    def round(self, bad: int) -> tuple[float, float]:
        """Seconds and CPU seconds of one plan, with so many bad records of each class."""
        name = f"bench_{uuid.uuid4().hex[:8]}"
        folder = self.folder / name
        folder.mkdir()
        database = postgres_database(self.server, name)
        workers = WorkerFactory(folder / "workers", [])
        site = Site(self.redis, workers, database, folder)
        site.env = {}
        try:
            planted.fill(database, self.rows, bad)
            query = planted.QUERY_TO.format(n=self.rows)
            options = create_options(database, site.store, site.url, "p1", self.batch_size, query)
            done = scatter_plan(*options, env=os.environ | site.env)
            if done.returncode != 0:
                sys.exit(done.stderr)
            database.run("CHECKPOINT")
            before = cpu_s(self.server.process.popen.pid)
            worker = site.start(self.kind)

            self.wait(name)
            cpu = sum(cpu_s(p.popen.pid) for p in (self.server.process, worker.process)) - before
            state, seconds = database.query(
                "SELECT state, extract(epoch FROM finished_at - started_at) FROM scatter_plan"
            )[0]
            aside = sum(planted.outcomes(database, "p1").values())
            if (state, aside) != ("finished", 3 * bad):
                sys.exit(f"the plan is {state}, {aside} records were set aside")
            return float(seconds), cpu
        finally:
            workers.stop_all()
            with self.server.connect("postgres") as c:
                c.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
            shutil.rmtree(folder)
            self.redis.client().flushdb()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", choices=["celeryc", "python"], default="celeryc")
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--bad", type=int, default=33, help="records of each of the three classes")
    parser.add_argument("--batch-size", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="a setting of the server")
    args = parser.parse_args()
    took: dict[int, list[tuple[float, float]]] = {0: [], args.bad: []}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), args.kind, args.rows, args.batch_size, args.set)
        try:
            for i in range(args.rounds):
                for bad in (0, args.bad) if i % 2 == 0 else (args.bad, 0):
                    took[bad].append(bench.round(bad))
                    seconds, cpu = took[bad][-1]
                    print(f"{3 * bad:5} refused: {seconds:7.2f} s, CPU {cpu:7.2f} s", flush=True)
        finally:
            bench.close()
    clean, dirty = (
        [statistics.median(values) for values in zip(*took[bad])] for bad in (0, args.bad)
    )
    print(
        f"{args.kind}, {args.rows:,} records, {3 * args.bad} refused: "
        f"{dirty[0]:.2f} s beside {clean[0]:.2f} s ({(dirty[0] / clean[0] - 1) * 100:+.1f} %), "
        f"CPU {dirty[1]:.2f} s beside {clean[1]:.2f} s ({(dirty[1] / clean[1] - 1) * 100:+.1f} %)"
    )


if __name__ == "__main__":
    main()
