#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""clang-tidy over C sources, one process per core, with a memory of what was clean.

tidy.py BUILD SOURCE...   The memory (BUILD/.tidy) holds, for each source, a hash of its preprocessed dependencies:
the file, every header of the tree and .clang-tidy. A source that is not in the compilation database is an error,
because it would silently go unchecked.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tree_hash() -> str:
    digest = hashlib.sha256()
    headers = sorted(p for top in ("celeryc", "planner", "k8s") for p in (ROOT / top).rglob("*.h"))
    for path in [ROOT / ".clang-tidy", *headers]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check(build: Path, source: str) -> tuple[str, int, str]:
    done = subprocess.run(
        ["clang-tidy", "--quiet", "-p", str(build), str(ROOT / source)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return source, done.returncode, done.stdout


def main(argv: list[str]) -> int:
    build, sources = Path(argv[0]), argv[1:]
    memory = build / ".tidy"
    known = json.loads(memory.read_text()) if memory.exists() else {}
    database = json.loads((build / "compile_commands.json").read_text())
    compiled = {
        os.path.relpath((Path(e["directory"]) / e["file"]).resolve(), ROOT) for e in database
    }
    lost = [s for s in sources if s not in compiled]
    for source in lost:
        print(f"{source}: is built by no meson.build")
    base = tree_hash()
    hashes = {
        s: hashlib.sha256(base.encode() + (ROOT / s).read_bytes()).hexdigest() for s in sources
    }
    wanted = [s for s in sources if s in compiled and known.get(s) != hashes[s]]
    failed = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for source, status, text in pool.map(lambda s: check(build, s), wanted):
            if status == 0:
                known[source] = hashes[source]
            else:
                failed += 1
                print(f"{source}:\n{text}")
    memory.write_text(json.dumps({s: known[s] for s in sources if s in known}))
    print(f"clang-tidy: {len(sources) - failed - len(lost)} of {len(sources)} sources clean")
    return 1 if failed or lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
