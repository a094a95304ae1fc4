# SPDX-License-Identifier: Apache-2.0
"""A process that a test owns: own process group, own folder, log file, stopped by pid.

Every process carries two marks in its environment, one for the session and one of its own. Descendants inherit them, so
that orphans are found by reading /proc even when their parent is gone.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from .waiting import wait_until

SESSION_MARK = "INTEROP_SESSION"
PROCESS_MARK = "INTEROP_PROCESS"
LOG_TAIL_BYTES = 8_000
LOG_LINE = 300

session_id = uuid.uuid4().hex
running: list[Process] = []


def marked_pids(name: str, value: str) -> dict[int, str]:
    """The living processes whose environment holds name=value: pid -> command line."""
    needle = f"{name}={value}".encode()
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if needle not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            state = re.search(r"^State:\s+(\S)", (entry / "status").read_text(), re.MULTILINE)
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if state is not None and state.group(1) not in "ZX":
            found[int(entry.name)] = command.strip()
    return found


class Process:
    """Started at once; `stop` sends TERM, then KILL to what is left of its own group."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        folder: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.folder = folder
        # Whatever ends the session, even SIGKILL, takes its processes along.
        self.argv = ["setpriv", "--pdeathsig", "KILL", *(str(arg) for arg in argv)]
        self.log_path = folder / f"{name}.log"
        self.mark = uuid.uuid4().hex
        full_env = {
            k: v for k, v in os.environ.items() if not k.startswith(("CELERY_", "SCATTER_"))
        }
        full_env.update(
            {SESSION_MARK: session_id, PROCESS_MARK: self.mark, "PYTHONUNBUFFERED": "1"}
        )
        full_env.update(env or {})
        with self.log_path.open("ab") as log:
            self.popen = subprocess.Popen(
                self.argv,
                cwd=folder,
                env=full_env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.popen.pid
        self.stopped = False
        running.append(self)

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    @property
    def returncode(self) -> int | None:
        return self.popen.poll()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def log_tail(self) -> str:
        lines = (
            self.log_path.read_bytes()[-10 * LOG_TAIL_BYTES :].decode(errors="replace").splitlines()
        )
        return "\n".join(line[:LOG_LINE] for line in lines)[-LOG_TAIL_BYTES:]

    def wait_for_log(self, pattern: str, deadline_s: float = 30.0) -> str:
        """Wait until a line of the log matches; an early end of the process fails at once."""
        regex = re.compile(pattern, re.MULTILINE)

        def look() -> str | None:
            found = regex.search(self.log())
            if found is None and not self.alive and regex.search(self.log()) is None:
                raise AssertionError(
                    f"{self.name} ended with {self.returncode} before {pattern!r}:\n{self.log_tail()}"
                )
            return found.group(0) if found else None

        found = wait_until(look, f"{pattern!r} in the log of {self.name}", deadline_s)
        assert found is not None
        return found

    def wait_for_namespace(self) -> None:
        """Until it has left our network namespace."""
        ours = Path("/proc/self/ns/net").readlink()
        path = Path(f"/proc/{self.pid}/ns/net")
        wait_until(lambda: path.readlink() != ours, f"{self.name} is in a namespace of its own")

    def send_signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def wait(self, deadline_s: float = 20.0) -> int:
        """The exit code; the process must end by itself within the deadline."""
        wait_until(lambda: not self.alive, f"end of {self.name}", deadline_s)
        code = self.returncode
        assert code is not None
        return code

    def kill_9(self) -> None:
        """SIGKILL to the leader alone, as the kernel's OOM killer would do it."""
        self.popen.kill()
        self.wait()

    def descendants(self) -> dict[int, str]:
        return {
            pid: line
            for pid, line in marked_pids(PROCESS_MARK, self.mark).items()
            if pid != self.pid
        }

    def stop(self, deadline_s: float = 15.0) -> None:
        """TERM and up to `deadline_s` to end, then KILL for what is left of the group; 0: KILL at once."""
        if self.stopped:  # the number may be another process's by now
            return
        self.stopped = True
        if self.alive and deadline_s > 0:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(deadline_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait()
        if self in running:
            running.remove(self)
