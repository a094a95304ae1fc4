# SPDX-License-Identifier: Apache-2.0
"""Whether two endings of one canvas are the same; and the few differences that are right, each under its name.

`compare` gives what differs and is not explained. What is allowed to differ from Celery 5.7 alone:

* "several failures": get() of a group raises the failure that arrived first, so with several of them it may be any;
  a chord whose header holds groups tells of the first that it finds; and what stands behind several of them is failed
  with the one that came last.
* "ran twice": a step behind a chord whose body is a group is linked to every member of it, so Celery runs it several
  times under one id; its record is that of the run that ended last, and so is everything that follows. Only which tasks
  ran and how they ended is compared.
* "late RETRY": Celery sends the next attempt and stores RETRY then, also when that attempt has ended elsewhere meanwhile.
  Allowed where an attempt before the last one ran on a Python worker.
* "failed, not forgotten": what stands behind a failed member (in the body of its chord, behind its chord or group in a
  chain) can never run. Celery leaves some of it without a record, and then an outer chord waits for ever
  (a failing header inside a header; steps in the middle of a chain that is a body; steps behind a revoked task).
  celeryc fails it, with the errbacks that hang on it. Allowed are FAILURE and, behind a revoked task, REVOKED records of
  ids that have no record on Celery, and the errbacks called for them.
* "5.2 fails the last": where a 5.2 worker counts the last part of a failed chord whose body has no id of its own, it fails
  over that and calls the errbacks of this last member, which has succeeded (its record stays). Alone it never gets there
  when the part that fails the chord is one that only celeryc sends.
* "cannot link": Celery fails a task that replaces itself by a chord with a group for a body when it has a callback
  (group.link of what came with a message). How such a canvas ends elsewhere cannot be compared.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from .canvas import Spec
from .canvas_run import Ending
from .canvas_specs import every, marks

JOIN = re.compile(r"Join error: .*")
CANNOT_LINK = "'dict' object has no attribute 'clone'"
MARK = re.compile(r"c\d+\.\d+")


def behind_failures(spec: Spec, failed: set[str]) -> set[str]:
    """The marks of everything that stands behind something with a failed member in it."""
    found: set[str] = set()
    for s in every(spec):
        if s["kind"] == "chord" and any(marks(m) & failed for m in s["members"]):
            found |= marks(s["body"])
        if s["kind"] == "chain":
            for i, member in enumerate(s["members"]):
                if marks(member) & failed:
                    for later in s["members"][i + 1 :]:
                        found |= marks(later)
        if s["kind"] == "task" and s["sig"] and marks(s["sig"]) & failed:
            found.add(
                s["kwargs"]["mark"]
            )  # the end of the replacement has the id of what it replaces
    return found


def _record(line: str) -> tuple[str, dict[str, Any]]:
    mark, _, text = line.partition(": ")
    return mark, json.loads(text)


def _states(records: Counter[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in records:
        mark, record = _record(line)
        found.setdefault(mark, set()).add(str(record["status"]))
    return found


def _ran_twice(ending: Ending, errbacks: set[str]) -> set[str]:
    """Marks that ran with different arguments."""
    digests: dict[str, set[str]] = {}
    for run in ending.runs:
        mark, _, digest = run.split(", ", 2)
        digests.setdefault(mark, set()).add(digest)
    return {mark for mark, seen in digests.items() if len(seen) > 1} - errbacks


def _failures(records: Counter[str]) -> list[str]:
    texts = []
    for line in records:
        result = _record(line)[1]["result"]
        if isinstance(result, dict) and "exc_type" in result:
            texts.append(
                f"{result['exc_module']}.{result['exc_type']}{tuple(result['exc_message'])!r}"
            )
    return texts


def compare(spec: Spec, want: Ending, got: Ending) -> tuple[list[str], set[str]]:
    """Differences that nothing explains, and the names of the rules that explained others."""
    c = Comparison(spec, want, got)
    if any(CANNOT_LINK in line for line in want.records):
        return [], {"cannot link"}
    if _ran_twice(want, c.errbacks):
        return _compare_loosely(want, got, c.hopeless), {"ran twice"}
    c.compare_runs()
    c.compare_records()
    c.compare_gets()
    return c.left, c.used


class Comparison:
    def __init__(self, spec: Spec, want: Ending, got: Ending) -> None:
        self.want, self.got = want, got
        self.left: list[str] = []
        self.used: set[str] = set()
        self.called: set[str] = set()  # errbacks called for what Celery forgets
        states = _states(want.records)
        self.failed = {m for m, seen in states.items() if seen & {"FAILURE", "REVOKED"}}
        self.behind = behind_failures(spec, self.failed)
        self.hopeless = self.behind - states.keys()
        self.errbacks = {m for s in every(spec) for e in s["errbacks"] for m in marks(e)}

    def compare_runs(self) -> None:
        for line in (self.got.runs - self.want.runs).elements():
            mark = line.split(",")[0]
            if mark in self.errbacks and set(MARK.findall(line)[1:]) <= self.hopeless:
                self.called.add(mark)
                self.used.add("failed, not forgotten")
            elif mark in self.errbacks and self.failed_by_debian(MARK.findall(line)[1:]):
                self.called.add(mark)
                self.used.add("5.2 fails the last")
            else:
                self.left.append(f"run added: {line}")
        for line in (self.want.runs - self.got.runs).elements():
            self.left.append(f"run missing: {line}")

    def compare_records(self) -> None:
        several = len(self.failed) > 1
        want, got = (_of_any(e.records) if several else e.records for e in (self.want, self.got))
        missing, added = [self.others(lines) for lines in (want - got, got - want)]
        late = {_record(line)[0] for line in added if _record(line)[1]["status"] == "RETRY"}
        late &= self.got.retried_by_python
        if late:
            self.used.add("late RETRY")
            missing, added = [
                [line for line in lines if _record(line)[0] not in late]
                for lines in (missing, added)
            ]
        failed_otherwise = {_record(line)[0] for line in added if self.over(line)}
        for line in missing:
            mark = _record(line)[0]
            if several and mark in (self.behind | {"?"}) & failed_otherwise and self.over(line):
                self.used.add("several failures")
            else:
                self.left.append(f"record missing: {line}")
        failed_before = {_record(line)[0] for line in missing if self.over(line)}
        for line in added:
            mark = _record(line)[0]
            if self.over(line) and (mark in self.hopeless or (mark == "?" and self.failed)):
                self.used.add("failed, not forgotten")
            elif not (several and mark in self.behind & failed_before and self.over(line)):
                self.left.append(f"record added: {line}")

    def failed_by_debian(self, called_for: list[str]) -> bool:
        """Members that ran on 5.2 and are none the worse for it."""
        succeeded = {m for m, seen in _states(self.got.records).items() if seen == {"SUCCESS"}}
        return (
            bool(self.failed and called_for)
            and set(called_for) <= succeeded & self.got.run_by_debian
        )

    def others(self, lines: Counter[str]) -> list[str]:
        """Without those of the errbacks that were compared as runs."""
        return [line for line in lines.elements() if _record(line)[0] not in self.called]

    @staticmethod
    def over(line: str) -> bool:
        return _record(line)[1]["status"] in ("FAILURE", "REVOKED")

    def compare_gets(self) -> None:
        want, got = self.want.get, self.got.get
        if want == got or (want == "no end" and "failed, not forgotten" in self.used):
            return
        if got == "no end" and "late RETRY" in self.used:
            return
        # One of several; Celery may have forgotten others.
        there, here = _failures(self.want.records), _failures(self.got.records)
        if want in there and got in here and len(set(there + here)) > 1:
            self.used.add("several failures")
        else:
            self.left.append(f"get: {want} became {got}")


def _of_any(records: Counter[str]) -> Counter[str]:
    """Which of several failed members a join tells of is chance."""
    any_of: Counter[str] = Counter()
    for line, n in records.items():
        mark, record = _record(line)
        result = record["result"]
        if isinstance(result, dict) and result.get("exc_type") == "ChordError":
            result["exc_message"] = [JOIN.sub("Join error: any", m) for m in result["exc_message"]]
        any_of[f"{mark}: {json.dumps(record)}"] += n
    return any_of


def _compare_loosely(want: Ending, got: Ending, hopeless: set[str]) -> list[str]:
    """Which tasks ran, and in which states they are."""
    ran = [{run.split(",")[0] for run in e.runs} for e in (want, got)]
    left = [f"runs missing: {ran[0] - ran[1]}"] if ran[0] - ran[1] else []
    left += [f"runs added: {ran[1] - ran[0]}"] if ran[1] - ran[0] else []
    states = [_states(e.records) for e in (want, got)]
    for mark in (states[0].keys() | states[1].keys()) - hopeless - {"?"}:
        there, here = (s.get(mark, set()) for s in states)
        if there != here and not (there | here <= {"FAILURE", "REVOKED"} and there and here):
            left.append(f"states of {mark}: {there} became {here}")
    return left
