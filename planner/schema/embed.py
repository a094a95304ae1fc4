# SPDX-License-Identifier: Apache-2.0
"""Write SQL files as C string constants: embed.py OUTPUT NAME=FILE..."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    output, *inputs = sys.argv[1:]
    lines = ["/* Made from planner/schema at build time. */", "#pragma once"]
    for item in inputs:
        name, _, path = item.partition("=")
        lines.append(f"static const char {name}[] =")
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            escaped = line.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'    "{escaped}\\n"')
        lines[-1] += ";"
    Path(output).write_text("\n".join(lines) + "\n", encoding="utf-8")


main()
