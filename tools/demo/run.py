#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make demo: the whole pipeline on private servers, with a worker killed on the way, and every record checked.

    run.py [--db sqlite|postgres] [--s3] [--rows N] [--data phones|flights] [--keep]

Redis and the target database start in a folder of their own; a Django project (project/) fills a table; then
`manage.py scatter_plan ... --watch` plans and follows the migration while two celeryc workers and one Python Celery
worker share its queue. One celeryc is killed with SIGKILL in the middle of a batch. Exit status 0 means that every
record was checked and none was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cases
import servers

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build"
PROJECT = Path(__file__).resolve().parent / "project"
QUEUE = "parcels"
VICTIM = "c1@demo"
READY_S = 30.0


def say(text: str) -> None:
    print(text, flush=True)


class Demo:
    """The servers, workers and programs of one run; everything is stopped by close()."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.began = time.monotonic()
        self.stack = contextlib.ExitStack()
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.case: cases.Case = cases.CASES[options.data](BUILD, options.rows)

    def close(self) -> None:
        """Workers are asked all at once, and waited for before their servers go."""
        for process in self.workers.values():
            if process.poll() is None:
                process.terminate()
                self.stack.callback(servers.stop, process)
        self.stack.close()

    def since_start(self) -> str:
        return f"{time.monotonic() - self.began:5.1f} s"

    def note(self, text: str) -> None:
        # A progress bar of scatter_plan may stand in the line.
        say(("\n" if sys.stdout.isatty() else "") + f"[{self.since_start()}] {text}")

    # ---- servers ----

    def start_servers(self) -> None:
        redis = servers.Redis(self.folder / "redis")
        self.stack.callback(redis.stop)
        self.broker = redis.url()
        if self.options.db == "postgres":
            # Durable as in production; larger WAL so that a short demo is not all checkpoints.
            postgres = servers.Postgres(self.folder / "postgres", {"max_wal_size": "4GB"})
            self.stack.callback(postgres.stop)
            self.database = postgres.url()
        else:
            self.database = f"sqlite://{self.folder / 'demo.sqlite3'}"
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "demo.settings",
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
            "DEMO_DATABASE": self.database,
            "DEMO_BROKER": self.broker,
            "DEMO_STORE": f"file://{self.folder / 'store'}",
            "DEMO_PLUGINS": str(BUILD / "migrations.so"),
            "DEMO_PLANNER": str(BUILD / "scatter-plan"),
            "SCATTER_DATABASE": self.database,
        }
        (self.folder / "store").mkdir()
        if self.options.s3:
            s3 = servers.SeaweedFS(self.folder / "s3")
            self.stack.callback(s3.stop)
            self.environment |= {"DEMO_STORE": f"s3://{s3.bucket}/demo", **s3.environment()}
        kinds = ["Redis", "PostgreSQL" if self.options.db == "postgres" else "SQLite"]
        self.note(f"servers are up: {', '.join(kinds + ['S3'] * self.options.s3)}")

    # ---- Django ----

    def manage(self, *arguments: str) -> None:
        argv = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            argv, cwd=PROJECT, env=self.environment, stdin=subprocess.DEVNULL, check=False
        )
        if done.returncode != 0:
            raise servers.ServerError(
                f"manage.py {' '.join(arguments)} ended with {done.returncode}"
            )

    def fill(self) -> None:
        self.manage("migrate", "--verbosity", "0")
        count = self.case.fill(self.database)
        self.note(f"{count:,} rows in table {self.case.table}")

    # ---- workers ----

    def start_workers(self) -> None:
        for name in ("c1", "c2"):
            argv = [
                str(BUILD / "celeryc"), "worker", "-A", str(BUILD / "migrations.so"),
                "-b", self.broker, "-Q", QUEUE, "-c", "1", "-n", f"{name}@demo", "-l", "info",
            ]  # fmt: skip
            self.start_worker(f"{name}@demo", argv)
        argv = [
            sys.executable, "-m", "celery", "-A", "demo", "worker", "-Q", QUEUE, "-c", "1",
            "-n", "python@demo", "-l", "info",
        ]  # fmt: skip
        self.start_worker("python@demo", argv)

    def start_worker(self, name: str, argv: list[str]) -> None:
        log = self.folder / f"{name}.log"
        self.workers[name] = servers.spawn(argv, log, cwd=PROJECT, env=self.environment)

    def await_workers(self) -> None:
        for name, process in self.workers.items():
            log = self.folder / f"{name}.log"
            servers.wait_for(
                name,
                lambda log=log: log.exists() and b"ready." in log.read_bytes(),  # type: ignore[misc]
                process,
                log,
                READY_S,
            )
        self.note("workers are ready: two celeryc, one Python Celery, one queue")

    # ---- the run ----

    def run(self) -> bool:
        self.start_servers()
        self.fill()
        self.start_workers()
        self.await_workers()
        planning = self.start_planning()
        killer = Killer(self)
        killer.start()
        self.case.prepare_check()
        status = planning.wait()
        killer.stop()
        if status != 0:
            raise servers.ServerError(f"manage.py scatter_plan ended with status {status}")
        return self.report(killer)

    def start_planning(self) -> subprocess.Popen[bytes]:
        arguments = self.case.plan_arguments()
        self.note("manage.py scatter_plan " + " ".join(arguments) + " --watch")
        process = subprocess.Popen(
            [sys.executable, "manage.py", "scatter_plan", *arguments, "--watch"],
            cwd=PROJECT, env=self.environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.stack.callback(servers.stop, process, signal.SIGINT)
        return process

    def report(self, killer: Killer) -> bool:
        self.note("checking every record")
        problems = self.case.check(self.database)
        if killer.killed is None:
            problems.append("no worker was killed in the middle of a batch")
        else:
            say(killer.killed)
        for line in self.case.report_lines():
            say(line)
        for problem in problems[:20]:
            say(f"WRONG: {problem}")
        verdict = "everything is as it must be" if not problems else f"{len(problems)} problems"
        self.note(verdict)
        return not problems


class Killer(threading.Thread):
    """Kills one celeryc while it is in the middle of a batch. To be sure of the middle, the worker's processes are
    stopped first, and go on when the control tables do not say so after all."""

    def __init__(self, demo: Demo) -> None:
        super().__init__(name="killer", daemon=True)
        self.demo = demo
        self.ended = threading.Event()
        self.killed: str | None = None

    def run(self) -> None:
        process = self.demo.workers[VICTIM]
        with cases.reader(self.demo.database) as ask:
            while not self.ended.wait(0.003) and process.poll() is None:
                if middle_of_batch(ask) is None:
                    continue
                family = [process.pid, *descendants(process.pid)]
                signal_all(family, signal.SIGSTOP)
                found = middle_of_batch(ask)
                if found is not None:
                    process.kill()
                    self.killed = (
                        f"{VICTIM} was killed with SIGKILL in the middle of batch {found[0]}, with the "
                        f"checkpoint at {found[1]:,} of {found[2]:,}; another worker went on from there"
                    )
                    self.demo.note(
                        f"{VICTIM} is killed with SIGKILL in the middle of batch {found[0]}"
                    )
                signal_all(family, signal.SIGCONT)

    def stop(self) -> None:
        self.ended.set()
        self.join()


def middle_of_batch(ask: cases.Ask) -> tuple[int, int, int] | None:
    found = ask(
        "SELECT batch, position, records FROM scatter_batch WHERE state = 'running' "
        f"AND worker = '{VICTIM}' AND position > 0 AND position < records"
    )
    return (int(found[0][0]), int(found[0][1]), int(found[0][2])) if found else None


def descendants(pid: int) -> Iterator[int]:
    """Children of a process, and theirs."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                yield int(child)
                yield from descendants(int(child))


def signal_all(pids: list[int], sig: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--db", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--s3", action="store_true", help="batch files in a private SeaweedFS")
    parser.add_argument("--rows", type=int, help="parcels (100,000); flights: the first N")
    parser.add_argument("--data", choices=tuple(cases.CASES), default="phones")
    parser.add_argument("--keep", action="store_true", help="keep the folder with data and logs")
    options = parser.parse_args(argv)
    if options.rows is not None and options.rows < 1:
        parser.error(f"--rows {options.rows} is less than 1")
    return options


def main(argv: list[str]) -> int:
    options = parse(argv)
    (BUILD / "demo").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=BUILD / "demo"))
    demo = Demo(options, folder)
    good = False
    # Asked to end, we stop what we started.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        good = demo.run()
    except servers.ServerError as e:
        say(f"demo: {e}")
    except KeyboardInterrupt:
        say("demo: interrupted")
    finally:
        demo.close()
        if good and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            say(f"data and logs are in {folder.relative_to(ROOT)}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
