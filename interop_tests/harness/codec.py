# SPDX-License-Identifier: Apache-2.0
"""celeryc's serializers and message writers at the end of a pipe (tests/message/codec.c)."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from harness.workers import BUILD

PLACES = ["obj/tests/message/message_codec", "tests/message/message_codec"]


class RefusedError(Exception):
    pass


class Codec:
    def __init__(self) -> None:
        program = next((BUILD / p for p in PLACES if (BUILD / p).exists()), None)
        assert program, f"none of {PLACES} in {BUILD}: build the tests first"
        self.program: Path = program
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, op: str, data: bytes, argument: str = "") -> bytes:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin
        assert stdout
        request = op.encode() + argument.encode() + b"\0" + data
        stdin.write(struct.pack("<I", len(request)) + request)
        stdin.flush()
        head = stdout.read(4)
        assert len(head) == 4, f"{self.program.name} died: {self.process.wait(10)}"
        answer = stdout.read(struct.unpack("<I", head)[0])
        if answer[:1] == b"-":
            raise RefusedError(answer[1:].decode())
        return answer[1:]

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)
