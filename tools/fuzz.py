#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds every target of tests/fuzz under libFuzzer and runs them, two at a time, each for SECONDS_EACH.

New inputs go to build/fuzz/new/NAME and are used again in the next run; what was found goes to build/fuzz/found. The
committed corpora (tests/fuzz/corpus) are only read. Targets can be named on the command line.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/fuzz"
CORPUS = ROOT / "tests/fuzz/corpus"
AT_ONCE = 2
OPTIONS = [
    "-timeout=20",
    "-rss_limit_mb=3072",
    "-print_final_stats=1",
    "-use_value_profile=1",
]


@dataclass
class Ended:
    name: str
    status: int
    runs: str
    covered: str
    found: list[Path]


def targets() -> list[str]:
    names = sorted(f.stem.removeprefix("fuzz_") for f in (ROOT / "tests/fuzz").glob("fuzz_*.c"))
    wanted = sys.argv[1:] or names
    unknown = set(wanted) - set(names)
    if unknown:
        sys.exit(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return wanted


def build(names: list[str]) -> None:
    if not (BUILD / "build.ninja").exists():
        options = ["-Dfuzz=true", "-Db_sanitize=address,undefined", "-Db_lundef=false"]
        env = os.environ | {"CC": "clang"}
        subprocess.run(["meson", "setup", BUILD, *options], cwd=ROOT, env=env, check=True)
    programs = [f"tests/fuzz/fuzz_{name}" for name in names]
    subprocess.run(["ninja", "-C", BUILD, "--quiet", *programs], check=True)


def last(pattern: str, text: str) -> str:
    found = re.findall(pattern, text)
    return found[-1] if found else "?"


def run(name: str, seconds: int) -> Ended:
    new, found, log = BUILD / "new" / name, BUILD / "found", BUILD / f"{name}.log"
    new.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    before = set(found.glob(f"{name}-*"))
    environment = os.environ | {"UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
    argv: list[str | Path] = [
        BUILD / f"tests/fuzz/fuzz_{name}",
        *OPTIONS,
        f"-max_total_time={seconds}",
    ]
    argv += [f"-artifact_prefix={found}/{name}-", new, CORPUS / name]
    with log.open("wb") as out:
        status = subprocess.run(
            argv, stdout=out, stderr=out, env=environment, check=False
        ).returncode
    text = log.read_text(errors="replace")
    return Ended(
        name,
        status,
        last(r"stat::number_of_executed_units: (\d+)", text),
        last(r"cov: (\d+)", text),
        sorted(set(found.glob(f"{name}-*")) - before),
    )


def main() -> int:
    names = targets()
    seconds = int(os.environ.get("SECONDS_EACH", "600"))
    build(names)
    start = time.monotonic()
    failed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for ended in pool.map(lambda name: run(name, seconds), names):
            bad = ended.status != 0 or ended.found
            failed += bool(bad)
            verdict = "FOUND" if bad else "clean"
            print(f"{ended.name:12} {verdict}  runs {ended.runs:>10}  covered {ended.covered:>6}")
            for path in ended.found:
                print(f"    {path.relative_to(ROOT)}  (log: build/fuzz/{ended.name}.log)")
            sys.stdout.flush()
    minutes = (time.monotonic() - start) / 60
    print(f"fuzz: {len(names) - failed} of {len(names)} targets clean after {minutes:.0f} minutes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
