# SPDX-License-Identifier: Apache-2.0
"""The client under test, as a process: tests/scaler/kube_probe.c."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from .cluster import ROOT

PROBE = ROOT / "build/obj/tests/scaler/kube_probe"
CODES = ["ok", "unreachable", "auth", "config", "conflict", "not-found", "denied"]


class Result(dict[str, Any]):
    @property
    def code(self) -> str:
        number = int(self["code"])
        assert number >= 0, self
        return CODES[number]

    @property
    def error(self) -> str:
        return str(self["error"])

    def ok(self) -> Result:
        assert self.code == "ok", self
        return self


class Probe:
    def __init__(self, env: dict[str, str] | None = None, **options: object) -> None:
        inherited = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith("KUBE")
            and k not in ("POD_NAMESPACE", "HOME")
            and "proxy" not in k.lower()
        }
        self.popen = subprocess.Popen(
            [str(PROBE), *(f"{k}={v}" for k, v in options.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**inherited, **(env or {})},
            text=True,
        )
        self.opened = self._read()

    def _read(self) -> Result:
        assert self.popen.stdout is not None
        return Result(json.loads(self.popen.stdout.readline()))

    def __call__(self, *words: object) -> Result:
        assert self.popen.stdin is not None
        self.popen.stdin.write(" ".join(str(w) for w in words) + "\n")
        self.popen.stdin.flush()
        return self._read()

    def close(self) -> int:
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.close()
        code = self.popen.wait(30)
        self.popen.stdout.close()
        return code


def service_account(folder: Path, token: str, ca: Path, namespace: str) -> Path:
    """The files that Kubernetes puts into a pod."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token").write_text(token)
    (folder / "ca.crt").write_bytes(ca.read_bytes())
    (folder / "namespace").write_text(namespace)
    return folder
