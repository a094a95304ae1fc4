# SPDX-License-Identifier: Apache-2.0
"""A C program with the client library (program/driver.c), driven from a test."""

from __future__ import annotations

import json
import os
import select
import subprocess
from pathlib import Path
from typing import Any

from .processes import PROCESS_MARK, SESSION_MARK, session_id

REPLY_S = 60.0


class Program:
    def __init__(
        self, path: Path, broker: str, backend: str = "", settings: dict[str, Any] | None = None
    ) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("CELERY_")}
        self.popen = subprocess.Popen(
            [path, broker, backend, json.dumps(settings or {})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env | {SESSION_MARK: session_id, PROCESS_MARK: "program"},
        )

    def tell(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line.encode() + b"\n")
        self.popen.stdin.flush()

    def answer(self) -> Any:
        assert self.popen.stdout is not None
        ready, _, _ = select.select([self.popen.stdout], [], [], REPLY_S)
        assert ready, "the program is silent"
        line = self.popen.stdout.readline()
        assert line, f"the program ended with {self.popen.wait()}"
        return json.loads(line)

    def ask(self, line: str) -> Any:
        self.tell(line)
        return self.answer()

    def apply(self, signature: Any) -> Any:
        return self.ask("apply " + json.dumps(signature))

    def wait(self, seconds: float = 20.0) -> dict[str, Any]:
        answer = self.ask(f"wait {seconds}")
        assert isinstance(answer, dict)
        return answer

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: object, error: object, where: object) -> None:
        if kind is None:
            self.close()
            return
        self.popen.kill()
        self.popen.communicate()

    def close(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        code = self.popen.wait(10)
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        assert code == 0
