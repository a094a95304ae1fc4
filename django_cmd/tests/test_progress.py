# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io

from django_scatter.progress import Progress, duration


class Screen(io.StringIO):
    """A Django output wrapper, as far as Progress uses it."""

    def __init__(self, tty: bool) -> None:
        super().__init__()
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty

    def write(self, msg: str = "", *, ending: str | None = None) -> int:
        return super().write(msg + ("\n" if ending is None else ending))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_durations() -> None:
    assert [duration(s) for s in (0, 7.4, 750, 3723)] == ["0:00", "0:07", "12:30", "1:02:03"]


def test_bar_with_rate_and_time_left() -> None:
    screen, clock = Screen(tty=True), Clock()
    progress = Progress(screen, "running", 1000, clock)
    progress.update(0)
    clock.now += 2
    progress.update(500, "3 stale")
    assert (
        "[############............]  50% 500/1,000, 3 stale, 250/s, 0:02 left" in screen.getvalue()
    )
    assert screen.getvalue().startswith("\r")


def test_plain_lines_are_few() -> None:
    screen, clock = Screen(tty=False), Clock()
    progress = Progress(screen, "planning", None, clock)
    for n in range(100):
        clock.now += 0.1
        progress.update(n * 10)
    progress.finish(1000, "10 batches")
    lines = screen.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[-1] == "planning: 1,000 records, 10 batches, 100/s, in 0:10"
    assert "\r" not in screen.getvalue()


def test_rate_forgets_what_is_long_past() -> None:
    screen, clock = Screen(tty=False), Clock()
    progress = Progress(screen, "running", 100_000, clock)
    progress.update(0)
    clock.now += 1
    progress.update(50_000)
    for _ in range(30):
        clock.now += 1
        progress.update(50_000)
    assert progress.rate() == 0
    assert "waiting" in progress.line(50_000, "")
