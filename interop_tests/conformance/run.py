# SPDX-License-Identifier: Apache-2.0
"""Runs Celery's t/integration against a Python worker, against celeryc and against both on one queue, side by side on
private Redis servers, and compares: a test that passes with the Python worker must pass with the others."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.processes import Process
from harness.redis_server import RedisServer
from harness.workers import CELERYC, Worker, WorkerFactory, compile_plugin

from conformance.environment import FOLDER, Environment, prepare
from conformance.table import (
    BASELINE,
    FAILED,
    Outcomes,
    complaints,
    load,
    load_left_out,
    table,
    unusable,
)

HERE = Path(__file__).resolve().parent
LEFT_OUT = HERE / "left_out.txt"
KINDS = {"python": ("python",), "celeryc": ("celeryc",), "mixed": ("celeryc", "python")}
SUITE_S = 3600.0  # a run takes 22 minutes; nearly all of that is sleep
# What the suite gives its own worker. One task at a time: a task of its own counts attempts in its process.
SETTINGS = {"result_extended": True, "worker_hijack_root_logger": False, "worker_log_color": False}


class Suite:
    """One run with one kind of workers, in a folder of its own."""

    def __init__(self, kind: str, environment: Environment, plugin: Path, folder: Path) -> None:
        self.kind = kind
        self.environment = environment
        self.plugin = plugin
        self.folder = folder
        self.results = folder / "results.jsonl"

    def _start_worker(self, kind: str, factory: WorkerFactory, env: dict[str, str]) -> Worker:
        url = env["TEST_BROKER"]
        if kind == "celeryc":
            return factory.start(kind, url, concurrency=1, settings=SETTINGS, env=env, wait=False)
        node = "python@interop"
        argv: list[str | Path] = [self.environment.python, "-m", "conformance.python_worker",
                "-c", "1", "-n", node, "-l", "INFO", "--without-mingle", "--without-gossip"]  # fmt: skip
        worker = Worker(kind, node, Process("python", argv, self.folder / "python", env))
        factory.workers.append(worker)
        return worker

    def run(self, arguments: Sequence[str]) -> Outcomes:
        server = RedisServer(self.folder / "redis")
        factory = WorkerFactory(self.folder, [self.plugin])
        env = {
            "TEST_BROKER": server.url(),
            "TEST_BACKEND": server.url(),
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(server.port),
            "PYTHONPATH": f"{HERE.parent}:{self.environment.source}",
        }
        try:
            members = KINDS[self.kind]
            workers = [self._start_worker(member, factory, env) for member in members]
            for worker in workers:
                worker.wait_ready()
            self._pytest(len(workers), arguments, env)
            for worker in workers:
                if not worker.process.alive:
                    raise SystemExit(f"{worker.node} ended:\n{worker.process.log_tail()}")
        finally:
            factory.stop_all()
            server.stop()
        return load(self.kind, self.results)

    def _pytest(self, n_workers: int, arguments: Sequence[str], env: dict[str, str]) -> None:
        chosen = [a for a in arguments if "::" in a or a.endswith(".py")]
        suite = [] if chosen else ["t/integration"]
        source = self.environment.source
        argv = [self.environment.python, "-m", "pytest", "-p", "conformance.suite", "-v", "--tb=short",
                "-p", "no:cacheprovider", "-W", "ignore", "-o", "xfail_strict=false",
                "--continue-on-collection-errors", "--kind", self.kind, "--workers", n_workers,
                "--left-out", LEFT_OUT, "--results", self.results, "-c", source / "pyproject.toml",
                *[source / a for a in suite],
                *[str(source / a) if a in chosen else a for a in arguments]]  # fmt: skip
        process = Process("pytest", [str(a) for a in argv], self.folder, env)
        try:
            process.wait(SUITE_S)
        finally:
            process.stop(0)
        if not self.results.exists():
            raise SystemExit(f"{self.kind}: the suite did not run:\n{process.log_tail()}")


def build(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "conformance.so"
    return compile_plugin(out, HERE / "plugin", "-ljansson", "-lhiredis")


def report(baseline: Outcomes | None, all_outcomes: list[Outcomes], whole: bool) -> int:
    """Prints the table and the complaints; returns how many those are."""
    print(table(all_outcomes))
    found = unusable(baseline) if baseline and whole else []
    for o in all_outcomes:
        shares = ", ".join(f"{node} {n}" for node, n in sorted(o.handled.items()))
        print(f"{o.kind}: tasks handled: {shares or 'none'}")
        if o.kind == BASELINE:
            failed = [test for test, outcome in o.tests.items() if outcome in FAILED]
            for test in failed:
                print(f"{o.kind}: fails, so it is not asked of the others: {test}")
        else:
            n_workers = len(KINDS[o.kind]) if whole else 0
            found += complaints(baseline, o, load_left_out(LEFT_OUT, o.kind), n_workers)
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(found)} worse than the baseline", flush=True)
    return len(found)


def run_round(
    args: argparse.Namespace, environment: Environment, plugin: Path, folder: Path, rest: list[str]
) -> int:
    begun = time.monotonic()
    print(f"conformance: {', '.join(args.kinds)} at once; logs in {folder}", flush=True)
    suites = [Suite(kind, environment, plugin, folder / kind) for kind in args.kinds]
    with ThreadPoolExecutor(len(suites)) as threads:
        all_outcomes = list(threads.map(lambda s: s.run(rest), suites))
    baseline = next((o for o in all_outcomes if o.kind == BASELINE), None)
    if baseline is None and args.baseline is not None:
        baseline = load(BASELINE, args.baseline)
        print(f"conformance: the baseline is that of {args.baseline}, not run now")
        if rest:  # of a selection
            ran = {t for o in all_outcomes for t in o.tests}
            baseline.tests = {t: o for t, o in baseline.tests.items() if t in ran}
    elif baseline is None:
        print("conformance: no baseline; every failure counts")
    n_worse = report(baseline, all_outcomes, whole=not rest)
    print(f"conformance: {time.monotonic() - begun:.0f} s", flush=True)
    return n_worse


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Further arguments go to pytest: -k EXPR, node ids, -x."
    )
    parser.add_argument("--celery", default="5.7.0", help='a release, or "latest"')
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"some of {','.join(KINDS)}")
    parser.add_argument("--rounds", type=int, default=1, help="how often in a row")
    parser.add_argument("--baseline", type=Path, help="results.jsonl of a Python worker's run")
    args, rest = parser.parse_known_args(argv)
    args.kinds = args.kinds.split(",")
    if not set(args.kinds) <= set(KINDS):
        parser.error(f"kinds are {', '.join(KINDS)}")
    if not CELERYC.exists():
        parser.error(f"{CELERYC} is not there: make build")
    environment = prepare(args.celery)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    plugin = build(FOLDER / "plugin")
    n_worse = [
        run_round(args, environment, plugin, FOLDER / "runs" / f"{stamp}-{n}", rest)
        for n in range(1, args.rounds + 1)
    ]
    print(f"Celery {environment.version}: worse than the baseline by round: {n_worse}")
    return 1 if any(n_worse) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
