# SPDX-License-Identifier: Apache-2.0
"""Bounded waiting: the only place of the interop tests that lets time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.01


class DeadlineError(AssertionError):
    """What was waited for did not come in time."""


def wait_until(condition: Callable[[], T], what: str, deadline_s: float = 15.0) -> T:
    """Return the first true value of `condition`; raise DeadlineError naming `what` after `deadline_s`."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise DeadlineError(f"not within {deadline_s:g} s: {what} (last seen: {value!r})")
        time.sleep(POLL_S)
