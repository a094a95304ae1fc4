#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""clang-tidy over C sources, one process per core, with a memory of what was clean.

tidy.py BUILD SOURCE...   The memory (BUILD/.tidy) holds, for each source that was clean, a hash of it, of the
headers that ninja saw it include, and of .clang-tidy. A source that is not in the compilation database is an error,
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


def headers_of(build: Path) -> dict[str, list[str]]:
    """Object file -> what it was compiled from, as ninja recorded it."""
    listed = subprocess.run(
        ["ninja", "-C", str(build), "--quiet", "-t", "deps"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in listed.splitlines():
        if line.startswith("    "):
            current.append(line.strip())
        elif ": " in line:
            current = found.setdefault(line.split(":", 1)[0], [])
    return found


def hash_of(build: Path, source: str, dependencies: list[str]) -> str:
    """The configuration, the source and the headers of the tree that it includes."""
    digest = hashlib.sha256((ROOT / ".clang-tidy").read_bytes())
    for name in sorted({str(ROOT / source), *(str((build / d).resolve()) for d in dependencies)}):
        path = Path(name)
        if path.is_relative_to(ROOT) and path.is_file():
            digest.update(name.encode() + b"\0" + path.read_bytes())
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
        os.path.relpath((Path(e["directory"]) / e["file"]).resolve(), ROOT): e["output"]
        for e in database
    }
    lost = [s for s in sources if s not in compiled]
    for source in lost:
        print(f"{source}: is built by no meson.build")
    dependencies = headers_of(build)
    hashes = {
        s: hash_of(build, s, dependencies.get(compiled[s], [])) for s in sources if s in compiled
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
