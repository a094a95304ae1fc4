# SPDX-License-Identifier: Apache-2.0
"""Randomized faults over 50,000 records on C and Python workers: each record changes exactly once, every run ends by
itself, the audit holds, and the report tells what the tables hold.

A seed says what happens when (harness/faults.py). The long form makes FAULT_RUNS (200) runs on FAULT_JOBS (3) sets of
servers and workers, and prints a line for each; one that failed is run again alone with

    FAULT_SEED=<seed> FAULT_RUNS=1 make chaos TESTS=interop_tests/test_faults.py
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness.faults import FAULTS, FaultSite, Story, run

FAILURES_LISTED = 5


def test_faults(tmp_path: Path) -> None:
    """Two runs, each with all five faults."""
    site = FaultSite(tmp_path / "faults")
    try:
        for seed in (1, 2):
            run(site, seed)
    finally:
        site.close()


class Runs:
    """The seeds that are still to be run, shared by the jobs."""

    def __init__(self, folder: Path, first: int, n: int) -> None:
        self.folder = folder
        self.n = n
        self.seeds = iter(range(first, first + n))
        self.numbers = itertools.count(1)
        self.stories: list[Story] = []
        self.failures: list[str] = []
        self.began = time.monotonic()

    def job(self, name: str) -> None:
        """Servers and workers are started by this thread and end before it does: they would die with it. A run that
        failed is followed by another on fresh ones."""
        for site_number in itertools.count(1):
            site = FaultSite(self.folder / f"{name}-{site_number}")
            try:
                if not self.run_all(site):
                    return
            finally:
                site.close()

    def run_all(self, site: FaultSite) -> bool:
        """Whether there may be more to do."""
        for seed in self.seeds:
            try:
                story = run(site, seed)
            except Exception as e:  # noqa: BLE001  whatever it was, the others go on
                self.failures.append(f"seed {seed} ({type(e).__name__}): {e}")
                self.say(f"seed {seed} FAILED: {str(e)[:300]}")
                return len(self.failures) < FAILURES_LISTED
            self.stories.append(story)
            self.say(str(story))
        return False

    def say(self, text: str) -> None:
        seconds = time.monotonic() - self.began
        print(f"[{next(self.numbers)}/{self.n} {seconds:5.0f} s] {text}", flush=True)

    def summary(self) -> str:
        struck, shares = Counter[str](), Counter[str]()
        for story in self.stories:
            struck.update(story.struck)
            shares.update(story.shares)
        return (
            f"{len(self.stories)} runs, {len(self.failures)} failed; faults that hit an open plan: "
            f"{dict(struck)}; batches claimed again {sum(s.again for s in self.stories)}, "
            f"by both kinds {sum(s.both for s in self.stories)}; records {dict(shares)}"
        )


@pytest.mark.chaos
@pytest.mark.timeout(0)  # each run has a deadline of its own
def test_many_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, n = int(os.environ.get("FAULT_SEED", "100")), int(os.environ.get("FAULT_RUNS", "200"))
    jobs = min(n, int(os.environ.get("FAULT_JOBS", "3")))
    runs = Runs(tmp_path, first, n)
    with capsys.disabled(), ThreadPoolExecutor(jobs) as pool:
        print(f"\nseeds {first} to {first + n - 1}", flush=True)
        for made in [pool.submit(runs.job, f"site{i}") for i in range(jobs)]:
            made.result()
        print(runs.summary(), flush=True)
    assert not runs.failures, "\n\n".join(runs.failures)
    assert len(runs.stories) == n
    if n >= 20:  # faults that come after the end prove nothing
        for name in FAULTS:
            assert sum(1 for s in runs.stories if s.struck[name]) > n / 2, name
        assert all(sum(s.shares[kind] for s in runs.stories) for kind in ("celeryc", "python"))
        assert sum(s.both for s in runs.stories) > 0
