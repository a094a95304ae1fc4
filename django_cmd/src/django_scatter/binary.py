# SPDX-License-Identifier: Apache-2.0
"""Finds a native program: in the package, beside the interpreter, in the user's scheme, on PATH."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from django_scatter import conf
from django_scatter.errors import ScatterError


def places() -> Iterator[Path]:
    """Directories to look in, best first."""
    yield Path(__file__).resolve().parent / "bin"
    yield Path(sysconfig.get_path("scripts"))
    yield Path(sysconfig.get_path("scripts", vars={"base": sys.base_prefix}))
    scheme = (
        sysconfig.get_preferred_scheme("user")
        if hasattr(sysconfig, "get_preferred_scheme")
        else "posix_user"
    )
    yield Path(sysconfig.get_path("scripts", scheme=scheme))


def find_binary(name: str = "scatter-plan") -> str:
    """The program's path. A file named in SCATTER["BINARY"] is the only one considered."""
    given = conf.scatter_settings().get("BINARY")
    if given:
        path = Path(os.fspath(given))
        if not os.access(path, os.X_OK) or path.is_dir():
            raise ScatterError(
                f'SCATTER["BINARY"] is {path}, which is not a program that can be run'
            )
        return str(path)
    looked: list[str] = []
    for directory in places():
        candidate = directory / name
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
        looked.append(str(candidate))
    found = shutil.which(name)
    if found:
        return found
    looked.append(f"PATH ({os.environ.get('PATH', '')})")
    raise ScatterError(
        f"{name} was not found. Looked at:\n  " + "\n  ".join(looked) + "\n"
        'Install celeryc, or name the program in SCATTER = {"BINARY": "/path/to/scatter-plan"}'
    )
