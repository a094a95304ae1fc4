#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the direction of includes against tools/layers.txt.

A private header (x_priv.h) may be included by its own folder only, and hiredis by one file. Prints one line per
violation, with file and line.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')
TOPS = ("celeryc", "planner", "k8s")


class Layers:
    """The table: folder -> folders it may include; library prefix -> folders and files that may include it."""

    def __init__(self, text: str) -> None:
        self.folders: dict[str, set[str]] = {}
        self.libraries: dict[str, list[str]] = {}
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.split("#", 1)[0].strip()
            if not line:
                continue
            name, colon, allowed = line.partition(":")
            if not colon:
                raise SystemExit(f"layers.txt:{number}: no colon")
            if name.startswith("library "):
                self.libraries[name.removeprefix("library ").strip()] = allowed.split()
            else:
                self.folders[name.strip()] = {
                    f if f in ("public", "planner") or "/" in f else f"celeryc/{f}"
                    for f in allowed.split()
                }


def folder_of(path: str) -> str:
    """celeryc/redis/conn.h -> celeryc/redis; planner/x.h -> planner; the public headers -> public."""
    parts = path.split("/")
    if path.startswith("celeryc/include/"):
        return "public"
    return "planner" if parts[0] == "planner" else "/".join(parts[:2])


def target_of(quoted: bool, name: str, source: Path) -> str | None:
    """The folder that an include belongs to, or None when it is none of ours."""
    if (ROOT / name).is_file() and name.startswith(TOPS):
        return folder_of(name)
    if name.startswith("celeryc/"):
        return "public"
    if quoted and (source.parent / name).is_file():
        return folder_of(str((source.parent / name).resolve().relative_to(ROOT)))
    return None


def check_include(layers: Layers, path: Path, quoted: bool, name: str) -> str | None:
    relative = str(path.relative_to(ROOT))
    own = folder_of(relative)
    target = target_of(quoted, name, path)
    if target is not None:
        if target == own:
            return None
        if target not in layers.folders.get(own, set()):
            return f"{own} must not include {target} ({name})"
        if name.endswith("_priv.h"):
            return f"{name} is private to {target}"
        return None
    for library, allowed in layers.libraries.items():
        if name.startswith(library) and not any(
            relative == a or relative.startswith(a + "/") for a in allowed
        ):
            return f"<{name}> belongs to {', '.join(allowed)}"
    return None


def check_tree(layers: Layers) -> list[str]:
    found: list[str] = []
    hiredis: set[str] = set()
    files = [p for top in TOPS for s in ("*.c", "*.h") for p in sorted((ROOT / top).rglob(s))]
    for path in files:
        relative = str(path.relative_to(ROOT))
        if folder_of(relative) not in {*layers.folders, "public"}:
            found.append(f"{relative}:1: folder {folder_of(relative)} is not in tools/layers.txt")
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = INCLUDE.match(line)
            if match is None:
                continue
            if match[2].startswith("hiredis"):
                hiredis.add(relative)
            complaint = check_include(layers, path, match[1] == '"', match[2])
            if complaint is not None:
                found.append(f"{relative}:{number}: {complaint}")
    if len(hiredis) > 1:
        found.append(f"hiredis is included by more than one file: {', '.join(sorted(hiredis))}")
    return found


def main() -> int:
    found = check_tree(Layers((ROOT / "tools/layers.txt").read_text(encoding="utf-8")))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
