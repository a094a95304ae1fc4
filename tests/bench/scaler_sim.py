#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Simulates a queue, pods and an autoscaler, second by second: scatter-scale's decision (the program itself, by
--replay) beside models of KEDA's Redis scaler and of a plain HPA on the queue's length.

The models are of their documented rules, not the programs. KEDA: polls every 30 s, wakes one pod from zero, goes back to
zero 300 s after the list was last empty of work; above zero its HPA: every 15 s ceil(length / target), 10 % tolerance,
up by the larger of 4 pods and 100 %, down by the highest wish of 300 s. HPA: the same without zero. Both see the length of
the list only, and the ReplicaSet takes the newest pods first. scatter-scale runs every 60 s, sees what its sample would
show, and idle pods go first (`--pod-costs`), or not.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCALER = Path(os.environ.get("CELERYC_BUILD", ROOT / "build")) / "scatter-scale"
WAKE_LEAD_S = 60


@dataclass
class Task:
    sent: int
    due: int
    takes: float
    started: int = -1


@dataclass
class Pod:
    born: int
    ready: int
    held: list[Task] = field(default_factory=list)
    running: list[tuple[float, Task]] = field(default_factory=list)
    stop_by: int | None = None  # TERM was sent: killed then
    starts: int = 0
    starts_before: int = 0  # at the last run of the scaler

    def is_up(self, now: int) -> bool:
        return self.ready <= now and self.stop_by is None


@dataclass
class Scenario:
    name: str
    arrivals: list[tuple[int, int]]  # when sent, when due
    takes: Callable[[random.Random], float]
    seconds: int = 7200
    concurrency: int = 1
    prefetch: int = 1
    grace_s: int = 600
    start_s: int = 25
    outage: tuple[int, int] = (0, 0)  # Redis cannot be reached
    keda_fallback: int | None = None  # its fallback.replicas
    most: int = 20


class Cluster:
    def __init__(self, s: Scenario) -> None:
        self.s = s
        self.random = random.Random(1)
        self.queue: deque[Task] = deque()
        self.pods: list[Pod] = []
        self.coming = deque(sorted(s.arrivals))
        self.replicas = 0
        self.idle_first = False
        self.done: list[Task] = []
        self.killed = self.activations = self.changes = self.pod_seconds = 0

    def scale(self, n: int) -> None:
        if n != self.replicas:
            self.changes += 1
            self.activations += self.replicas == 0
            self.replicas = n

    def turn(self, now: int) -> None:
        while self.coming and self.coming[0][0] <= now:
            sent, due = self.coming.popleft()
            self.queue.append(Task(sent, due, self.s.takes(self.random)))
        self._reconcile(now)
        for pod in self.pods:
            self._work(pod, now)
        self._bury(now)
        self.pod_seconds += len(self.pods)

    def _reconcile(self, now: int) -> None:
        staying = [p for p in self.pods if p.stop_by is None]
        for _ in range(self.replicas - len(staying)):
            self.pods.append(Pod(now, now + self.s.start_s))
        too_many = len(staying) - self.replicas
        if too_many <= 0:
            return

        def rank(p: Pod) -> tuple[bool, bool, int]:
            works = bool(p.running or p.held)
            return (p.ready <= now, works if self.idle_first else False, -p.born)

        for pod in sorted(staying, key=rank)[:too_many]:
            pod.stop_by = now + self.s.grace_s

    def _work(self, pod: Pod, now: int) -> None:
        ended = [task for until, task in pod.running if until <= now]
        pod.running = [(until, task) for until, task in pod.running if until > now]
        self.done += ended
        if not pod.is_up(now):
            return
        room = self.s.concurrency * self.s.prefetch
        while True:
            due = [t for t in pod.held if t.due <= now]
            if due and len(pod.running) < self.s.concurrency:
                task = due[0]
                pod.held.remove(task)
                task.started = now
                pod.starts += 1
                pod.running.append((now + task.takes, task))
            elif self.queue and len(due) < room:
                pod.held.append(self.queue.popleft())
            else:
                return

    def _bury(self, now: int) -> None:
        staying = []
        for pod in self.pods:
            if pod.stop_by is None or (pod.running and now < pod.stop_by):
                staying.append(pod)
                continue
            self.killed += len(pod.running)  # early-ack tasks: lost
            self.queue.extendleft(reversed(pod.held))
        self.pods = staying

    def waits(self) -> list[int]:
        running = [task for pod in self.pods for _, task in pod.running]
        return [t.started - max(t.sent, t.due) for t in (*self.done, *running)]

    def left(self) -> int:
        return len(self.queue) + sum(len(p.running) + len(p.held) for p in self.pods)


class ScatterScale:
    period_s = 60

    def __init__(self, s: Scenario, program: str, idle_first: bool) -> None:
        self.idle_first = idle_first
        self.rules = {"concurrency": s.concurrency, "prefetch": s.prefetch, "max": s.most}
        self.state: dict[str, Any] = {}
        self.popen = subprocess.Popen(
            [program, "--replay", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def sample(self, c: Cluster, now: int) -> dict[str, Any]:
        if c.s.outage[0] <= now < c.s.outage[1]:
            return {"now": now, "ok": False, "current": c.replicas}
        up = [p for p in c.pods if p.is_up(now)]
        soon = now + WAKE_LEAD_S
        busy = [p for p in up if not self._is_idle(c, p)]
        processed = sum(p.starts - p.starts_before for p in up)
        for p in c.pods:
            p.starts_before = p.starts
        stopping = sum(1 for p in c.pods if p.stop_by is not None)
        return {
            "now": now,
            "ready": sum(1 for t in c.queue if t.due <= soon),
            "unacked": sum(1 for p in c.pods for t in p.held if t.due <= soon),
            "active": sum(len(p.running) for p in up),
            "processed": processed,
            "busy": len(busy),
            "idle": len(up) - len(busy),
            "starting": len(c.pods) - len(up) - stopping,
            "terminating": stopping,
            "current": c.replicas,
        }

    def _is_idle(self, c: Cluster, p: Pod) -> bool:
        n = p.starts - p.starts_before
        return not p.running and (n == 0 or self.period_s * c.s.concurrency <= 15 * n)

    def turn(self, c: Cluster, now: int) -> int:
        case = {"rules": self.rules, "state": self.state, "sample": self.sample(c, now)}
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(json.dumps(case) + "\n")
        self.popen.stdin.flush()
        answer = json.loads(self.popen.stdout.readline())
        self.state = answer["state"]
        return int(answer["target"])

    def close(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        assert self.popen.wait() == 0
        assert self.popen.stdout is not None
        self.popen.stdout.close()


class Hpa:
    """On the length of the list, one pod at least."""

    period_s = 15
    idle_first = False
    least = 1

    def __init__(self, s: Scenario) -> None:
        self.most = s.most
        self.target = s.concurrency
        self.wishes: list[tuple[int, int]] = []

    def wish(self, length: int, current: int, now: int) -> int:
        n = max(self.least, min(self.most, math.ceil(length / self.target)))
        if abs(length / self.target / max(current, 1) - 1) <= 0.1:
            n = current
        self.wishes = [w for w in self.wishes if now - w[0] < 300] + [(now, n)]
        if n > current:
            return min(n, max(2 * current, current + 4))
        return min(current, max(w for _, w in self.wishes))

    def turn(self, c: Cluster, now: int) -> int:
        if c.s.outage[0] <= now < c.s.outage[1]:
            return c.replicas
        return self.wish(len(c.queue), max(c.replicas, 1), now)

    def close(self) -> None:
        pass


class Keda(Hpa):
    def __init__(self, s: Scenario) -> None:
        super().__init__(s)
        self.last_active = -(10**9)

    def turn(self, c: Cluster, now: int) -> int:
        away = c.s.outage[0] <= now < c.s.outage[1]
        if now % 30 == 0:
            if not away and c.queue:
                self.last_active = now
                if c.replicas == 0:
                    self.wishes = []
                    return 1
            elif (
                c.replicas and now - self.last_active > 300 and (not away or c.s.keda_fallback == 0)
            ):
                return 0
        if away or c.replicas == 0:
            return c.replicas
        return self.wish(len(c.queue), c.replicas, now)


def scenarios() -> list[Scenario]:
    spread = random.Random(3)
    return [
        Scenario("burst: 500 tasks of 30 s", [(60, 0)] * 500, lambda r: 30),
        Scenario(
            "long: 40 tasks of 20 min, grace 30 s", [(60, 0)] * 40, lambda r: 1200, grace_s=30
        ),
        Scenario("trickle: 5 s of work every 20 s", [(i * 20, 0) for i in range(360)], lambda r: 5),
        Scenario(
            "later: 20 tasks with a countdown of 1 h",
            [(60, 3660)] * 20,
            lambda r: 2,
            seconds=5400,
            concurrency=2,
            prefetch=4,
        ),
        Scenario(
            "random: 600 in 100 min, Redis away for 10",
            [(int(spread.uniform(0, 6000)), 0) for _ in range(600)],
            lambda r: r.uniform(20, 200),
            grace_s=30,
            outage=(2400, 3000),
            keda_fallback=0,
        ),
        Scenario(
            "prefetch 4: 300 tasks of 60 s",
            [(60, 0)] * 300,
            lambda r: 60,
            concurrency=2,
            prefetch=4,
        ),
    ]


SCALERS: dict[str, Callable[[Scenario, str], Any]] = {
    "KEDA": lambda s, program: Keda(s),
    "HPA": lambda s, program: Hpa(s),
    "scatter-scale": lambda s, program: ScatterScale(s, program, True),
    "no pod costs": lambda s, program: ScatterScale(s, program, False),
}


@dataclass
class Result:
    scenario: str
    scaler: str
    killed: int
    activations: int
    changes: int
    wait_s: float
    pod_hours: float
    done: int
    left: int

    def row(self) -> str:
        return (
            f"{self.scenario:42} {self.scaler:14} {self.killed:6} {self.activations:11} "
            f"{self.changes:7} {self.wait_s:8.1f} {self.pod_hours:9.2f} {self.done:5} {self.left:4}"
        )


HEAD = f"{'scenario':42} {'scaler':14} killed activations changes   wait s pod-hours  done left"


def simulate(s: Scenario, name: str, program: str) -> Result:
    scaler = SCALERS[name](s, program)
    c = Cluster(s)
    c.idle_first = scaler.idle_first
    for now in range(s.seconds):
        c.turn(now)
        if now % scaler.period_s == 0:
            c.scale(scaler.turn(c, now))
    scaler.close()
    waits = c.waits()
    return Result(
        s.name,
        name,
        c.killed,
        c.activations,
        c.changes,
        sum(waits) / max(len(waits), 1),
        c.pod_seconds / 3600,
        len(c.done),
        c.left(),
    )


def faults(results: list[Result]) -> list[str]:
    """What must hold: nothing killed, everything done, and no wait more than 10 % behind any that killed nothing."""
    found = []
    for mine in results:
        if mine.scaler in ("KEDA", "HPA"):
            continue
        if mine.killed or mine.left:
            found.append(f"{mine.scenario}, {mine.scaler}: {mine.killed} killed, {mine.left} left")
        rivals = [r for r in results if r.scenario == mine.scenario and not r.killed]
        found += [
            f"{mine.scenario}: {mine.scaler} waits {mine.wait_s:.0f} s, {r.scaler} {r.wait_s:.0f} s"
            for r in rivals
            if mine.wait_s > 1.1 * r.wait_s + 1
        ]
    return found


def main(argv: list[str]) -> int:
    """scaler_sim.py [PROGRAM]: the table; exit code 1 when something that must hold does not."""
    program = argv[0] if argv else str(SCALER)
    results = []
    print(HEAD)
    for s in scenarios():
        for name in SCALERS:
            results.append(simulate(s, name, program))
            print(results[-1].row(), flush=True)
    found = faults(results)
    for fault in found:
        print(fault, file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
