# SPDX-License-Identifier: Apache-2.0
"""One line of progress: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

BAR_WIDTH = 24
TTY_EVERY_S = 0.1
PLAIN_EVERY_S = 5.0
RATE_WINDOW_S = 10.0
SHORT_S = 0.3  # a rate over less says nothing


class Output(Protocol):
    """What a Django command's stdout and stderr are."""

    def write(self, msg: str = "", *, ending: str | None = None) -> object: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...


def duration(seconds: float) -> str:
    """0:07, 12:30, 1:02:03."""
    whole = max(0, round(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class Progress:
    """Shows how far a phase is. The rate is that of the last seconds, so that a pause shows."""

    def __init__(
        self,
        out: Output,
        label: str,
        total: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out = out
        self.label = label
        self.total = total
        self.clock = clock
        self.tty = out.isatty()
        self.seen: deque[tuple[float, int]] = deque()
        self.shown_at: float | None = None
        self.begun = clock()
        self.last = ""

    def update(self, done: int, note: str = "") -> None:
        now = self.clock()
        self.seen.append((now, done))
        while len(self.seen) > 2 and now - self.seen[0][0] > RATE_WINDOW_S:
            self.seen.popleft()
        every = TTY_EVERY_S if self.tty else PLAIN_EVERY_S
        if self.shown_at is None or now - self.shown_at >= every:
            self.show(self.line(done, note))
            self.shown_at = now

    def finish(self, done: int, note: str = "") -> None:
        """The last state of the line, with the rate of the whole phase."""
        took = self.clock() - self.begun
        rate = f"{done / took:,.0f}/s" if took >= SHORT_S else ""
        parts = [f"{self.label}: {done:,} records", note, rate, f"in {duration(took)}"]
        self.show(", ".join(p for p in parts if p))
        if self.tty:
            self.out.write("", ending="\n")
            self.out.flush()

    def rate(self) -> float | None:
        """Records per second of late; None when it cannot be told yet."""
        (first_at, first), (last_at, last) = self.seen[0], self.seen[-1]
        return (last - first) / (last_at - first_at) if last_at - first_at >= SHORT_S else None

    def line(self, done: int, note: str) -> str:
        rate = self.rate()
        speed = "" if rate is None else f"{rate:,.0f}/s"
        if not self.total:
            parts = [f"{self.label}: {done:,} records", note, speed]
            return ", ".join(p for p in parts if p)
        share = min(1.0, done / self.total)
        left = ""
        if rate is not None:
            left = duration((self.total - done) / rate) + " left" if rate > 0 else "waiting"
        bar = ""
        if self.tty:
            filled = int(share * BAR_WIDTH)
            bar = f" [{'#' * filled}{'.' * (BAR_WIDTH - filled)}]"
        head = f"{self.label}:{bar} {share:4.0%} {done:,}/{self.total:,}"
        return ", ".join(p for p in (head, note, speed, left) if p)

    def show(self, line: str) -> None:
        if not self.tty:
            if line != self.last:
                self.out.write(line, ending="\n")
        else:
            width = shutil.get_terminal_size().columns - 1
            self.out.write("\r" + line[:width] + "\x1b[K", ending="")
        self.last = line
        self.out.flush()
