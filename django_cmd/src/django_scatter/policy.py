# SPDX-License-Identifier: Apache-2.0
"""A plan's answers to failures: entries of --on-error, then --retry-on, then the migration's retry_on,
then the defaults of errors.txt.

The plan's row holds the entries as a JSON object, {"23505": "skip", "ValueError": "retry:5"}; the first that matches
counts. celeryc does the same in celeryc/migrate/policy.c.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union

from django_scatter import sqlstates
from django_scatter.migration import Retry

MAX_ATTEMPTS = 20  # at one record or place of a batch; retry:N names another number
ACTIONS = ("retry", "quarantine", "skip", "fail-batch", "fail-plan")
# Nobody knows what the database has done when the connection broke: such a record is never set aside.
CUT_OFF = ("08", "57P", "58", "25P03")

WINDOW = 1000
MIN_TRIED = 50  # records before the breaker may judge
DEFAULT_RATE = 0.05

ErrorClass = Union[type[BaseException], str]


@dataclass(frozen=True)
class Answer:
    action: str
    max_attempts: int = (
        MAX_ATTEMPTS  # of a retry: then the record is set aside, or the batch failed
    )


class Policy:
    def __init__(
        self,
        on_error: str | None,
        retry_on: str | None,
        own: Mapping[ErrorClass, Retry] | None = None,
    ) -> None:
        self.retry_on = retry_on
        self.own = {k if isinstance(k, str) else k.__name__: v for k, v in (own or {}).items()}
        self.entries: list[tuple[str, Answer]] = []
        try:
            found = json.loads(on_error or "{}")
        except ValueError:
            found = {}
        for name, word in found.items() if isinstance(found, dict) else ():
            action, _, count = str(word).partition(":")
            if action in ACTIONS:
                self.entries.append((name, Answer(action, int(count or MAX_ATTEMPTS))))

    def ask(self, error: ErrorClass, sqlstate: str) -> Answer:
        """sqlstate "" for what the migration itself raised."""
        answer = self.find(error, sqlstate)
        if sqlstate.startswith(CUT_OFF) and answer.action in ("quarantine", "skip"):
            return Answer("retry")
        return answer

    def find(self, error: ErrorClass, sqlstate: str) -> Answer:
        for name, answer in self.entries:
            if sqlstates.listed(name, error, sqlstate):
                return answer
        if sqlstates.listed(self.retry_on, error, sqlstate):
            return Answer("retry")
        rule = self.rule(error, sqlstate)
        if rule is not None:
            return Answer("retry", rule.times)
        name = error if isinstance(error, str) else error.__name__
        return Answer(sqlstates.default_action(name, sqlstate))

    def rule(self, error: ErrorClass, sqlstate: str) -> Retry | None:
        """The migration's own, which counts when the plan says nothing."""
        for name, rule in self.own.items():
            if sqlstates.listed(name, error, sqlstate):
                return rule
        return None


class Breaker:
    """How many of the last records that this process tried for a plan were set aside."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The plan was paused: whoever resumes it has seen why, and wants it judged by what comes then."""
        self.bad = bytearray(WINDOW)  # a ring
        self.at = self.tried = self.n_bad = 0

    def add(self, bad: bool) -> None:
        self.n_bad += bad - self.bad[self.at]
        self.bad[self.at] = bad
        self.at = (self.at + 1) % WINDOW
        self.tried = min(WINDOW, self.tried + 1)

    def add_good(self, n: int) -> None:
        if self.n_bad == 0:  # the ring is all zeros: only the count moves
            self.tried = min(WINDOW, self.tried + n)
            return
        for _ in range(min(n, WINDOW)):
            self.add(False)

    def trips(self, max_rate: float) -> bool:
        return self.tried >= MIN_TRIED and self.n_bad > max_rate * self.tried


_breakers: dict[str, Breaker] = {}


def breaker_of(plan: str) -> Breaker:
    """Of this process; only the latest plan is remembered."""
    if plan not in _breakers:
        _breakers.clear()
        _breakers[plan] = Breaker()
    return _breakers[plan]
