#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs every test of the tree and ends with one plain line of totals.

Unit tests and the replay of the fuzz corpora run in build/asan (ASan, UBSan); the Python tests run the programs of
the normal build. Steps can be named on the command line: layers unit django interop.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
# Interop tests mostly wait for other processes, so that there is room for one more than there are cores.
AT_ONCE = min(8, (os.cpu_count() or 1) + 1)
TAP_LINE = re.compile(r"^\s*(not )?ok\b(?!.*# SKIP)", re.MULTILINE)


class Totals:
    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def add(self, passed: int, failed: int) -> None:
        self.passed += passed
        self.failed += failed


def run(*argv: str | Path, env: dict[str, str] | None = None) -> int:
    sys.stdout.flush()
    return subprocess.run(
        [str(a) for a in argv],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
        check=False,
    ).returncode


def build(directory: Path, *options: str) -> bool:
    """Configures once, then builds; ninja's own output stays on a quiet line per failure."""
    if not (directory / "build.ninja").exists() and run("meson", "setup", directory, *options) != 0:
        return False
    return run("ninja", "-C", directory, "--quiet") == 0


def tap_counts(log: Path) -> tuple[int, int]:
    """Counts single test points in meson's log; a program without a TAP line counts as one."""
    passed = failed = 0
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        points = TAP_LINE.findall(entry.get("stdout") or "")
        bad = sum(1 for p in points if p)
        good = len(points) - bad
        ended_well = entry["result"] in ("OK", "EXPECTEDFAIL", "SKIP")
        if not points:
            good, bad = (1, 0) if ended_well else (0, 1)
        elif not ended_well and bad == 0:
            bad = 1
        passed += good
        failed += bad
    return passed, failed


def step_layers(totals: Totals) -> None:
    ok = run(sys.executable, "tools/check_layers.py") == 0
    totals.add(int(ok), int(not ok))


def step_unit(totals: Totals) -> None:
    directory = BUILD / "asan"
    if not build(directory, "-Db_sanitize=address,undefined", "-Db_lundef=false"):
        totals.add(0, 1)
        return
    log = directory / "meson-logs" / "testlog.json"
    log.unlink(missing_ok=True)
    status = run("meson", "test", "-C", directory, "--no-rebuild", "--print-errorlogs")
    passed, failed = tap_counts(log) if log.exists() else (0, 0)
    totals.add(passed, failed or int(status != 0))


def pytest_counts(report: Path) -> tuple[int, int]:
    passed = failed = 0
    for suite in ET.parse(report).getroot().iter("testsuite"):
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        failed += bad
        passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
    return passed, failed


def run_pytest(totals: Totals, folder: str, *options: str) -> None:
    helpers = (
        "tests/canvas/canvas_oracle",
        "tests/message/message_codec",
        "tests/scaler/kube_probe",
    )
    if run("make", "build") != 0 or run("ninja", "-C", BUILD / "obj", "--quiet", *helpers) != 0:
        totals.add(0, 1)
        return
    report = BUILD / f"pytest-{folder.replace('/', '-')}.xml"
    report.unlink(missing_ok=True)
    python = BUILD / "venv/bin/python"
    status = run(python, "-m", "pytest", "-q", folder, f"--junitxml={report}", *options)
    passed, failed = pytest_counts(report) if report.exists() else (0, 0)
    totals.add(passed, failed or int(status != 0))


STEPS: dict[str, Callable[[Totals], None]] = {
    "layers": step_layers,
    "unit": step_unit,
    "django": lambda totals: run_pytest(totals, "django_cmd/tests"),
    "interop": lambda totals: run_pytest(
        totals, "interop_tests", "-n", str(AT_ONCE), "--dist", "loadfile"
    ),
}


def main(argv: list[str]) -> int:
    unknown = [name for name in argv if name not in STEPS]
    if unknown:
        print(f"run_tests: no step named {', '.join(unknown)}; there are {', '.join(STEPS)}")
        return 2
    totals = Totals()
    summary = []
    for name in argv or STEPS:
        print(f"== {name}")
        step, begun = Totals(), time.monotonic()
        STEPS[name](step)
        totals.add(step.passed, step.failed)
        took = time.monotonic() - begun
        summary.append(f"{name:8} {step.passed:5} passed {step.failed:4} failed {took:7.1f} s")
    print("\n".join(["==", *summary]))
    print(f"{totals.passed} passed, {totals.failed} failed")
    return 1 if totals.failed or not totals.passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
