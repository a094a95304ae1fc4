#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""scatter-plan with one upload at a time beside several, on a real S3 server, in alternating rounds.

The server is SeaweedFS on the loopback interface; between it and the planner stands a line that holds back every byte for
half of the round trip in each direction, as the distance to a cloud does. What is measured is the whole command: reading,
compressing and writing the batches of a plan, then its manifest. A figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "interop_tests"))

from harness.parcels import MIGRATIONS, PLANNER, sqlite_database  # noqa: E402  found by the path above
from harness.s3_server import BUCKET, S3Server  # noqa: E402


class Line:
    """Passes bytes on after delay_s; one task for each direction of each connection."""

    def __init__(self, target_port: int, delay_s: float) -> None:
        self.target_port = target_port
        self.delay_s = delay_s
        self.port = 0
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.thread.start()
        self.ready.wait()

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.done = asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        await self.done.wait()
        server.close()

    async def _client(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, there = await asyncio.open_connection("127.0.0.1", self.target_port, limit=1 << 20)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(self._pass(near, there), self._pass(far, back))
        for writer in (there, back):
            writer.close()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Reading never waits for the delay, so that only the distance is played, not a narrow line."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            while True:
                data = await source.read(1 << 16)
                queue.put_nowait((self.loop.time() + self.delay_s, data))
                if not data:
                    return

        async def write() -> None:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0, due - self.loop.time()))
                if not data:
                    target.close()
                    return
                target.write(data)

        await asyncio.gather(read(), write())

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.done.set)
        self.thread.join()


def plan_s(server: S3Server, port: int, folder: Path, batch_size: int, parallel: int) -> float:
    """Seconds for one plan of the table in folder."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "SCATTER_"))}
    env = keep | server.environment() | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    start = time.monotonic()
    done = subprocess.run(
        [
            str(PLANNER), "create", "--migration", "phones.vn_renumber", "-A", str(MIGRATIONS),
            "--query", "SELECT id, phone FROM parcel", "--batch-size", str(batch_size), "--no-enqueue",
            "--store", f"s3://{BUCKET}/{uuid.uuid4().hex}", "--database-url", f"sqlite://{folder}/parcels.sqlite3",
            "--upload-parallel", str(parallel), "--format", "json",
        ],
        env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    took = time.monotonic() - start
    if done.returncode != 0:
        sys.exit(done.stderr)
    assert json.loads(done.stdout)["batches"] > 0
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--round-trip-ms", type=float, default=30)
    parser.add_argument("--parallel", type=int, nargs="+", default=[1, 4, 8, 16])
    args = parser.parse_args()
    if 1 not in args.parallel:
        args.parallel.insert(0, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sqlite_database(folder / "parcels.sqlite3").fill(args.rows)
        server = S3Server(folder / "s3")
        line = Line(int(server.endpoint.rsplit(":", 1)[1]), args.round_trip_ms / 2000)
        try:
            took: dict[int, list[float]] = {n: [] for n in args.parallel}
            for _ in range(args.rounds):
                for n, times in took.items():
                    times.append(plan_s(server, line.port, folder, args.batch_size, n))
        finally:
            line.close()
            server.stop()
    batches = -(-args.rows // args.batch_size)
    serial = statistics.median(took[1])
    print(f"{args.rows:,} records, {batches} batches, round trip {args.round_trip_ms:g} ms")
    print("uploads at a time   seconds   batches/s   ratio")
    for n, times in took.items():
        median = statistics.median(times)
        print(f"{n:17}   {median:7.2f}   {batches / median:9.1f}   {serial / median:5.2f}")


if __name__ == "__main__":
    main()
