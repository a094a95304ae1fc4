#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""celeryc beside Celery prefork: throughput, Redis CPU, memory and round trip, in alternating rounds of one run.

What is measured, for each worker in turn, on a private redis-server (Unix socket, append-only file, fsync every second):

  tasks/s      a queue of examples.add(2, 2) messages appears at once (RENAME); from that moment until every result record
               is stored. Default settings: early ack, results kept, JSON, -c 2, log level WARNING.
  Redis CPU    INFO used_cpu_user + used_cpu_sys over the same time, per task. The driver's own polls (DBSIZE, 50 a second)
               are in it for both.
  round trip   one message into the queue of an idle worker until its result's PUBLISH arrives, with one light client on
               two raw connections; the worker is idle for 4 ms before each.
  memory       PSS of a worker with 10 slots after it has run tasks on them: master and all descendants.

A figure is the median of its rounds; a ratio is the quotient of medians. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = Path(os.environ.get("CELERYC_BUILD", ROOT / "build")).resolve()
GOALS = {"ratio": 15.0, "redis_us": 40.0, "p50_ms": 0.6, "pss_mb": 25.0}
IDLE_S = 0.004
DEADLINE_S = 120.0


class Raw:
    """A Redis connection with nothing between us and the socket, so that the client's time is small and the same."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.file: IO[bytes] = self.socket.makefile("rb")

    def send(self, *commands: tuple[bytes | str | int, ...]) -> None:
        out = []
        for command in commands:
            out.append(b"*%d\r\n" % len(command))
            for word in command:
                data = word if isinstance(word, bytes) else str(word).encode()
                out.append(b"$%d\r\n%s\r\n" % (len(data), data))
        self.socket.sendall(b"".join(out))

    def reply(self) -> Any:
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self.file.read(size + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        raise RuntimeError(f"Redis said {line!r}")

    def call(self, *command: bytes | str | int) -> Any:
        self.send(command)
        return self.reply()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class Redis:
    def __init__(self, folder: Path, options: list[str]) -> None:
        self.path = folder / "redis.sock"
        argv = [
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            self.path,
            "--dir",
            folder,
            "--save",
            "",
            *options,
        ]
        self.log = (folder / "redis.log").open("wb")
        self.process = subprocess.Popen([str(a) for a in argv], stdout=self.log, stderr=self.log)
        self.raw = wait_for(self._connect, "redis-server")

    def _connect(self) -> Raw | None:
        try:
            return Raw(self.path)
        except OSError:
            return None

    def cpu_s(self) -> float:
        fields = dict(
            line.split(":", 1)
            for line in self.raw.call("INFO", "cpu").decode().splitlines()
            if ":" in line
        )
        return float(fields["used_cpu_user"]) + float(fields["used_cpu_sys"])

    def stop(self) -> None:
        self.raw.close()
        self.process.terminate()
        self.process.wait()
        self.log.close()


def wait_for(condition: Any, what: str, every_s: float = 0.02) -> Any:
    end = time.monotonic() + DEADLINE_S
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise SystemExit(f"bench: {what} did not come within {DEADLINE_S:g} s")
        time.sleep(every_s)


BODY = base64.b64encode(
    b'[[2, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
).decode()


def message(task_id: str) -> bytes:
    """examples.add(2, 2) as Celery 5.7 writes it."""
    return (
        f'{{"body": "{BODY}", "content-encoding": "utf-8", "content-type": "application/json", "headers": {{"lang": "py", '
        f'"task": "examples.add", "id": "{task_id}", "shadow": null, "eta": null, "expires": null, "group": null, '
        f'"group_index": null, "retries": 0, "timelimit": [null, null], "root_id": "{task_id}", "parent_id": null, '
        f'"argsrepr": "(2, 2)", "kwargsrepr": "{{}}", "origin": "gen1@bench", "ignore_result": false, '
        f'"replaced_task_nesting": 0, "stamped_headers": null, "stamps": {{}}}}, "properties": {{"correlation_id": '
        f'"{task_id}", "reply_to": "ed2d2ddc-5f57-39e7-9189-4528bf8e75b6", "delivery_mode": 2, "delivery_info": '
        f'{{"exchange": "", "routing_key": "celery"}}, "priority": 0, "body_encoding": "base64", "delivery_tag": '
        f'"{uuid.uuid4()}"}}}}'
    ).encode()


class Worker:
    """`celery` or `celeryc`, with -c slots, ready when made; stopped with its whole process group."""

    def __init__(self, kind: str, redis: Redis, folder: Path, slots: int) -> None:
        common = ["worker", "-c", str(slots), "-P", "prefork", "-Q", "celery", "-l", "WARNING"]
        if kind == "celery":
            argv = [
                sys.executable,
                "-m",
                "celery",
                "--workdir",
                str(HERE),
                "-A",
                "bench_app",
                *common,
            ]
        else:
            argv = [str(BUILD / "celeryc"), *common, "-A", str(BUILD / "examples.so")]
        url = f"redis+socket://{redis.path}"
        env = {k: v for k, v in os.environ.items() if not k.startswith("CELERY_")}
        env |= {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}
        self.redis = redis
        self.log_path = folder / f"{kind}-{uuid.uuid4().hex[:6]}.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                argv, stdout=log, stderr=log, env=env, start_new_session=True
            )
        try:
            self.run(slots * 20)
        except BaseException:
            self.stop()
            raise

    def run(self, n: int) -> float:
        """Drains n tasks; the seconds from their appearance to the last stored result."""
        raw = self.redis.raw
        ids = [str(uuid.uuid4()) for _ in range(n)]
        for start in range(0, n, 1000):
            raw.send(("LPUSH", "filling", *(message(i) for i in ids[start : start + 1000])))
            raw.reply()
        results = [f"celery-task-meta-{i}" for i in ids]
        others = raw.call("DBSIZE") - 1
        begun = time.monotonic()
        raw.call("RENAME", "filling", "celery")

        def drained() -> bool:
            if self.process.poll() is not None:
                raise SystemExit(f"bench: worker ended:\n{self.log_path.read_text()[-3000:]}")
            # Other keys come and go (unacked, the queue itself); when it may be all, every result is looked for.
            if raw.call("DBSIZE") < others + n - 4:
                return False
            found = 0
            for start in range(0, n, 1000):
                found += raw.call("EXISTS", *results[start : start + 1000])
            return found == n

        wait_for(drained, f"the end of {n} tasks")
        took = time.monotonic() - begun
        for start in range(0, n, 1000):
            raw.call("UNLINK", *results[start : start + 1000])
        return took

    def round_trips_ms(self, n: int) -> list[float]:
        sender, listener = Raw(self.redis.path), Raw(self.redis.path)
        listener.call("PSUBSCRIBE", "celery-task-meta-*")
        times = []
        for _ in range(n):
            task_id = str(uuid.uuid4())
            data = message(task_id)
            time.sleep(IDLE_S)
            begun = time.perf_counter()
            sender.send(("LPUSH", "celery", data))
            published = listener.reply()
            times.append((time.perf_counter() - begun) * 1000)
            sender.reply()
            if published[2] != b"celery-task-meta-" + task_id.encode():
                raise SystemExit(f"bench: a result of another task: {published[2]!r}")
        sender.close()
        listener.close()
        return times

    def pss_mb(self) -> tuple[float, int]:
        """PSS of the process tree, and the number of processes."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parents[int(entry.name)] = int(
                        (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    )
        tree = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
            tree |= more
        total_kb = 0
        for pid in tree:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total_kb += int(line.split()[1])
        return total_kb / 1024, len(tree)

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Figures:
    tasks_per_s: list[float] = field(default_factory=list)
    redis_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    pss_mb: list[float] = field(default_factory=list)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in vars(self).items() if values}


def one_round(
    kind: str, redis: Redis, folder: Path, args: argparse.Namespace, out: Figures
) -> None:
    n = args.tasks if kind == "celeryc" else args.celery_tasks
    redis.raw.call("FLUSHALL")
    worker = Worker(kind, redis, folder, args.concurrency)
    try:
        cpu = redis.cpu_s()
        took = worker.run(n)
        out.redis_us.append((redis.cpu_s() - cpu) / n * 1e6)
        out.tasks_per_s.append(n / took)
        times = sorted(worker.round_trips_ms(args.round_trips))
        out.p50_ms.append(times[len(times) // 2])
        out.p99_ms.append(times[min(len(times) - 1, len(times) * 99 // 100)])
    finally:
        worker.stop()


def memory(kind: str, redis: Redis, folder: Path, out: Figures) -> None:
    redis.raw.call("FLUSHALL")
    worker = Worker(kind, redis, folder, 10)
    try:
        worker.run(500)
        out.pss_mb.append(worker.pss_mb()[0])
    finally:
        worker.stop()


ROWS = [
    ("tasks/s", "tasks_per_s", "{:,.0f}"),
    ("Redis CPU per task, us", "redis_us", "{:,.1f}"),
    ("idle round trip p50, ms", "p50_ms", "{:.3f}"),
    ("idle round trip p99, ms", "p99_ms", "{:.3f}"),
    ("PSS with 10 slots, MB", "pss_mb", "{:.1f}"),
]


def goals_met(medians: dict[str, dict[str, float]]) -> dict[str, bool]:
    ours = medians["celeryc"]
    met = {name: ours[name] < GOALS[name] for name in ("redis_us", "p50_ms", "pss_mb")}
    if "celery" in medians:
        met["ratio"] = ours["tasks_per_s"] >= GOALS["ratio"] * medians["celery"]["tasks_per_s"]
    return met


def print_table(figures: dict[str, Figures]) -> None:
    medians = {kind: f.medians() for kind, f in figures.items()}
    print(
        f"\n{'':26}"
        + "".join(f"{kind:>12}" for kind in medians)
        + f"{'ratio':>9}   rounds of celeryc"
    )
    for title, name, form in ROWS:
        line = f"{title:26}" + "".join(f"{form.format(m[name]):>12}" for m in medians.values())
        if len(medians) == 2:
            line += f"{medians['celeryc'][name] / medians['celery'][name]:>9.3g}"
        if "celeryc" in figures:
            line += "   " + " ".join(form.format(v) for v in getattr(figures["celeryc"], name))
        print(line)
    if "celeryc" in medians:
        met = goals_met(medians)
        print(
            "goals: "
            + ", ".join(
                f"{name} {'met' if ok else 'MISSED'} ({GOALS[name]:g})" for name, ok in met.items()
            )
        )


def main() -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--tasks", type=int, default=40_000, help="a round of celeryc")
    p.add_argument("--celery-tasks", type=int, default=3_000, help="a round of Celery")
    p.add_argument("--round-trips", type=int, default=300, help="a round of each")
    p.add_argument("-c", "--concurrency", type=int, default=2)
    p.add_argument("--only", choices=["celery", "celeryc"])
    p.add_argument("--no-aof", action="store_true", help="Redis without its append-only file")
    p.add_argument("--json", type=Path, help="also write every figure to this file")
    p.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    args = p.parse_args()

    options = (
        []
        if args.no_aof
        else [
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--auto-aof-rewrite-percentage",
            "0",
        ]
    )
    kinds = [args.only] if args.only else ["celery", "celeryc"]
    figures = {kind: Figures() for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        redis = Redis(folder, options)
        try:
            for i in range(args.rounds):
                for kind in kinds:
                    one_round(kind, redis, folder, args, figures[kind])
                    memory(kind, redis, folder, figures[kind])
                    last = {n: round(v[-1], 3) for n, v in vars(figures[kind]).items()}
                    print(f"round {i + 1} {kind:8} {last}", flush=True)
        finally:
            redis.stop()
    print_table(figures)
    medians = {kind: f.medians() for kind, f in figures.items()}
    met = goals_met(medians) if "celeryc" in medians else {}
    if args.json:
        document = {
            "medians": medians,
            "rounds": {k: vars(f) for k, f in figures.items()},
            "goals": GOALS,
            "met": met,
        }
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if args.check and not all(met.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
