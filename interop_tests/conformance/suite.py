# SPDX-License-Identifier: Apache-2.0
"""pytest plugin: the suite against workers that already run, instead of one in the test process.

It is loaded before the suite's conftest.py and puts a wait for ping replies in the place of the function that would start a
worker. The suite's tests, fixtures and client code stay as they are. What tests expect of their own process, the worker's
node name and pid, its memory, its task_received signal, is taken to the real workers (remote.py, tap.py)."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery.contrib.testing.worker as testing_worker
import celery.result
import pytest
from celery.signals import task_received

from conformance.remote import Finished, Overlay, Pool, RevokedStamps
from conformance.table import left_out_because, load_left_out
from conformance.tap import Tap

pytest_plugins = ["celery.contrib.pytest"]  # the suite's base fixtures

TEST_LIMIT_S = 240.0  # upstream: 300, and 20 for one test that needs more at a concurrency of 1


class Records:
    """What became of each test; passed, failed, error, skipped, xfailed, xpassed or left out."""

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, Any]] = {}

    def leave_out(self, node_id: str, reason: str) -> None:
        self.tests[node_id] = {"id": node_id, "outcome": "left out", "why": reason}

    def fail_file(self, report: Any) -> None:
        """None of its tests is known: the file stands for them."""
        self.tests[report.nodeid] = {
            "id": report.nodeid,
            "outcome": "error",
            "why": _short(report),
        }

    def add(self, report: Any) -> None:
        r = self.tests.setdefault(
            report.nodeid, {"id": report.nodeid, "outcome": None, "seconds": 0.0, "why": None}
        )
        is_subtest = hasattr(report, "context")
        if report.failed:
            r["why"] = r["why"] or _short(report)
            r["outcome"] = "failed" if report.when == "call" else r["outcome"] or "error"
        if is_subtest:
            return
        r["seconds"] = round(r["seconds"] + report.duration, 3)
        if hasattr(report, "wasxfail"):
            r["outcome"] = "xfailed" if report.skipped else "xpassed"
        elif report.skipped:
            r["outcome"] = "skipped"
        elif report.when == "call" and r["outcome"] is None:
            r["outcome"] = "passed"

    def write(self, path: Path, summary: dict[str, Any]) -> None:
        lines = [{"summary": summary}, *self.tests.values()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _short(report: Any) -> str:
    crash = getattr(getattr(report, "longrepr", None), "reprcrash", None)
    return str(crash or report.longreprtext).strip()[-600:]


records = Records()
pool: Pool
tap: Tap


# ---- set-up ----


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kind", required=True, help="which workers: python, celeryc or mixed")
    parser.addoption("--workers", type=int, required=True, help="how many must answer")
    parser.addoption("--left-out", type=Path, required=True, help="tests that are not run")
    parser.addoption("--results", type=Path, required=True, help="one JSON line for each test")


def pytest_configure(config: pytest.Config) -> None:
    global pool, tap  # noqa: PLW0603
    pool = Pool(config.getoption("workers"))
    tap = Tap(os.environ["TEST_BROKER"])
    config.addinivalue_line("markers", "flaky: of pytest-rerunfailures; nothing is run again here")
    setattr(testing_worker, "start_worker", external_worker)  # noqa: B010
    _let_results_wait_for_tap(celery.result.AsyncResult)
    _let_results_wait_for_tap(celery.result.ResultSet)


def _let_results_wait_for_tap(cls: Any) -> None:
    """A worker in the test process would have sent its signals by the time a result is there."""
    original = cls.get

    def get(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        finally:
            if task_received.receivers:
                tap.sync()

    cls.get = get


@contextlib.contextmanager
def external_worker(app: Any, *_args: Any, **_kwargs: Any) -> Iterator[None]:
    """In the place of celery.contrib.testing.worker.start_worker."""
    app.finalize()
    app.set_current()
    app.set_default()
    pool.meet(app)
    tap.node = pool.nodes[0]
    for name, module in list(sys.modules.items()):
        if name.startswith("t.integration.") and hasattr(module, "NODENAME"):
            setattr(module, "NODENAME", pool.name)  # noqa: B010
    yield
    pool.part(app)


# ---- pytest's hooks ----


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Whole files are not even imported: some need libraries of other backends."""
    files = {pattern for pattern, _ in load_left_out(config.getoption("left_out"), "all")}
    return True if f"t/integration/{collection_path.name}" in files else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    listed = load_left_out(config.getoption("left_out"), config.getoption("kind"))
    kept = []
    for item in items:
        reason = left_out_because(listed, item.nodeid)
        if reason is None:
            kept.append(item)
        else:
            records.leave_out(item.nodeid, reason)
        item.add_marker(pytest.mark.timeout(TEST_LIMIT_S), append=False)
    items[:] = kept
    for name, module in list(sys.modules.items()):
        if name == "t.integration.test_inspect":
            setattr(module, "os", Overlay(os, getpid=lambda: pool.pid))  # noqa: B010
        if name.startswith("t.integration.") and hasattr(module, "worker_state"):
            state = Overlay(
                module.worker_state,
                revoked_stamps=RevokedStamps(pool),
                successful_requests=Finished(pool),
            )
            setattr(module, "worker_state", state)  # noqa: B010


@pytest.fixture(autouse=True)
def _conformance(request: pytest.FixtureRequest) -> None:
    gc.collect()  # results of earlier tests end their subscriptions now, not while this test counts them
    # A test that makes a Worker object in this process leaves this set.
    celery.result._set_task_join_will_block(False)  # type: ignore[attr-defined]
    if "app" in request.fixturenames:
        tap.app = request.getfixturevalue("app")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    tap.sync()  # what earlier tests sent is not shown to this one
    return (yield)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        records.fail_file(report)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    records.add(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    summary = {"exit": int(exitstatus), "handled": pool.handled, "tap_errors": tap.errors}
    records.write(session.config.getoption("results"), summary)
