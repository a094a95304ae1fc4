# SPDX-License-Identifier: Apache-2.0
"""Write errors.txt as C tables: errors.py INPUT OUTPUT."""

from __future__ import annotations

import sys
from pathlib import Path

ACTIONS = {
    "retry": "DB_ACT_RETRY",
    "quarantine": "DB_ACT_QUARANTINE",
    "skip": "DB_ACT_SKIP",
    "fail-batch": "DB_ACT_FAIL_BATCH",
    "fail-plan": "DB_ACT_FAIL_PLAN",
}


def text(word: str) -> str:
    """A C string; * is the beginning of everything."""
    return '"' + ("" if word == "*" else word) + '"'


def main() -> None:
    source, output = sys.argv[1:]
    tables: dict[str, list[str]] = {"state": [], "error": [], "above": [], "is": []}
    for line in Path(source).read_text(encoding="utf-8").splitlines():
        kind, *words = line.split("#")[0].split() or [""]
        if kind == "state":
            beginning, action, name = words
            tables[kind].append(f"{{{text(beginning)}, {ACTIONS[action]}, {text(name)}}}")
        elif kind == "error":
            name, action = words
            tables[kind].append(f"{{{text(name)}, {ACTIONS[action]}}}")
        elif kind == "above":
            name, *beginnings = words
            tables[kind] += [f"{{{text(name)}, {text(b)}}}" for b in beginnings]
        elif kind == "is":
            tables[kind].append("{" + ", ".join(text(w) for w in words) + "}")
        elif kind:
            sys.exit(f"{source}: {kind!r} is no kind of line")
    lines = ["/* Made from planner/schema/errors.txt at build time. */", "#pragma once"]
    for kind, columns in (
        ("state", "const char *beginning; enum db_action action; const char *name;"),
        ("error", "const char *name; enum db_action action;"),
        ("above", "const char *name, *beginning;"),
        ("is", "const char *name, *parent;"),
    ):
        rows = ",\n    ".join(tables[kind])
        lines.append(f"static const struct {{ {columns} }} {kind}_table[] = {{\n    {rows}}};")
    Path(output).write_text("\n".join(lines) + "\n", encoding="utf-8")


main()
