# SPDX-License-Identifier: Apache-2.0
"""Workers under test: Celery 5.7 (this interpreter), 5.6, Debian's Celery 5.2 and celeryc, with one interface."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .processes import Process

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = Path(os.environ.get("CELERYC_BUILD", ROOT / "build")).resolve()
CELERYC = BUILD / "celeryc"
EXAMPLES = BUILD / "examples.so"
PYTHONS = {
    "python": sys.executable,
    "python-5.6": str(ROOT / "build/venv-5.6/bin/python"),
    "debian": "/usr/bin/python3",
}
READY_S = 30.0


def compile_plugin(out: Path, folder: Path, *libraries: str) -> Path:
    """From the sources of a folder, with the public headers and nothing else of the project."""
    flags = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    include = ROOT / "celeryc/include"
    sources = sorted(folder.glob("*.c"))
    subprocess.run(["cc", *flags, "-I", include, *sources, "-o", out, *libraries], check=True)
    return out


def build_plugin(folder: Path) -> Path:
    return compile_plugin(folder / "interop.so", ROOT / "interop_tests/plugin")


def celeryc(
    *args: str | Path, env: dict[str, str] | None = None, timeout: float = 20
) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CELERY_", "SCATTER_"))}
    return subprocess.run(
        [str(CELERYC), *map(str, args)],
        env=clean | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def build_program(source: Path, folder: Path) -> Path:
    """A program with the public headers and libceleryc.so, and nothing else."""
    out = folder / source.stem
    libraries = CELERYC.resolve().parent
    subprocess.run(
        [
            "cc",
            "-std=c11",
            "-D_GNU_SOURCE",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-I",
            str(ROOT / "celeryc/include"),
            str(source),
            "-o",
            str(out),
            f"-L{libraries}",
            f"-Wl,-rpath,{libraries}",
            "-lceleryc",
        ],
        check=True,
    )
    return out


class Worker:
    """`kind` is python, python-5.6, debian or celeryc; `process` is its master."""

    def __init__(self, kind: str, node: str, process: Process) -> None:
        self.kind = kind
        self.node = node
        self.process = process

    def wait_ready(self) -> Worker:
        self.process.wait_for_log(rf"{re.escape(self.node)} ready\.", READY_S)
        return self

    def received(self, task_ids: Iterable[str]) -> set[str]:
        """Which of the tasks this worker's log says it has received."""
        seen = set(re.findall(r"Task [\w.]+\[([^\]]+)\] received", self.process.log()))
        return seen & set(task_ids)

    def stop(self) -> None:
        """celeryc is asked to go; a Python worker would take two seconds for that and is not what is tested."""
        if self.kind == "celeryc":
            self.process.stop()
        else:
            self.process.stop(0)


class WorkerFactory:
    """Starts workers of any kind in folders of their own and stops what it started."""

    def __init__(self, folder: Path, plugins: Sequence[Path]) -> None:
        self.folder = folder
        self.plugins = list(plugins)
        self.workers: list[Worker] = []
        self.counter = 0

    def start(
        self,
        kind: str,
        broker: str,
        backend: str | None = None,
        *,
        queues: Sequence[str] = ("celery",),
        concurrency: int = 2,
        pool: str = "prefork",
        host: str = "interop",
        settings: Mapping[str, Any] | None = None,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        plugins: Sequence[Path] | None = None,
        app: str = "interop_app",
        gossip: bool = False,
        mingle: bool = False,
        wrapper: Sequence[str] = (),
        wait: bool = True,
    ) -> Worker:
        self.counter += 1
        name = f"{kind}{self.counter}"
        node = f"{name}@{host}"
        folder = self.folder / name
        folder.mkdir(parents=True)
        common = [
            "-Q",
            ",".join(queues),
            "-c",
            str(concurrency),
            "-P",
            pool,
            "-n",
            node,
            "-l",
            "INFO",
        ]
        full_env = {
            "CELERY_BROKER_URL": broker,
            "CELERY_RESULT_BACKEND": backend or broker,
            **(env or {}),
        }
        if kind == "celeryc":
            argv: list[str | Path] = [CELERYC, "worker"]
            for plugin in self.plugins if plugins is None else plugins:
                argv += ["-A", plugin]
            argv += common
            if settings:
                config = folder / "celeryconfig.json"
                config.write_text(json.dumps(dict(settings)))
                argv += ["--config", config]
        else:
            argv = [
                PYTHONS[kind],
                "-m",
                "celery",
                "--workdir",
                HERE,
                "-A",
                app,
                "worker",
                *common,
                *([] if gossip else ["--without-gossip"]),
                *([] if mingle else ["--without-mingle"]),
            ]
            # The tree under test, wherever an installed django_scatter comes from.
            source = HERE.parents[1] / "django_cmd" / "src"
            full_env["PYTHONPATH"] = f"{HERE.parent}{os.pathsep}{source}"
            full_env["INTEROP_SETTINGS"] = json.dumps(dict(settings or {}))
        argv += options
        worker = Worker(kind, node, Process(name, [*wrapper, *argv], folder, full_env))
        self.workers.append(worker)
        return worker.wait_ready() if wait else worker

    def stop_all(self) -> None:
        for worker in self.workers:
            if worker.kind == "celeryc" and worker.process.alive:
                worker.process.send_signal(15)
        for worker in self.workers:
            worker.stop()
        self.workers.clear()
