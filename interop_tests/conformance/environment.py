# SPDX-License-Identifier: Apache-2.0
"""A virtual environment with one release of Celery, and the source distribution of that release, which carries the suite."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.workers import BUILD

FOLDER = BUILD / "conformance"
# pydantic: two tasks of the suite; setuptools and wheel: pip unpacks source distributions with them.
PACKAGES = ["redis", "pydantic", "pytest", "pytest-timeout", "setuptools", "wheel"]


@dataclass(frozen=True)
class Environment:
    version: str
    python: Path
    source: Path


def _run(*argv: str | Path) -> None:
    done = subprocess.run(
        [str(a) for a in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"conformance: {argv[0]} failed:\n{done.stdout}")


def _pip(python: Path, *argv: str | Path) -> None:
    _run(python, "-m", "pip", "--disable-pip-version-check", "-q", *argv)


def _download(python: Path, version: str, folder: Path) -> Path:
    """The source distribution; "latest" is the newest release."""
    wanted = "celery" if version == "latest" else f"celery=={version}"
    _pip(
        python, "download", "--no-deps", "--no-binary", "celery", "--no-build-isolation",
        "-d", folder, wanted,
    )  # fmt: skip
    (archive,) = folder.glob("celery-*.tar.gz")
    return archive


def prepare(version: str) -> Environment:
    """Made once for each release, then used again."""
    ready = _at(FOLDER / f"celery-{version}")
    if ready is not None:
        return ready
    print(f"conformance: fetching Celery {version}", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        archive = _download(Path(sys.executable), version, Path(name))
        release = archive.name.removeprefix("celery-").removesuffix(".tar.gz")
        folder = FOLDER / f"celery-{release}"
        ready = _at(folder)
        if ready is not None:
            return ready
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _run("tar", "-xzf", archive, "-C", folder, "--no-same-owner", "--strip-components=1",
             "--one-top-level=source")  # fmt: skip
    _run(sys.executable, "-m", "venv", folder / "venv")
    _pip(folder / "venv/bin/python", "install", *PACKAGES, f"celery=={release}")
    (folder / "ready").touch()
    ready = _at(folder)
    assert ready is not None
    return ready


def _at(folder: Path) -> Environment | None:
    if not (folder / "ready").exists():
        return None
    version = folder.name.removeprefix("celery-")
    return Environment(version, folder / "venv/bin/python", folder / "source")
