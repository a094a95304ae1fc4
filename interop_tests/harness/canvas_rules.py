# SPDX-License-Identifier: Apache-2.0
"""Whether two endings of one canvas are the same; and the few differences that are right, each under its name.

`compare` gives what differs and is not explained. What is allowed to differ from Celery 5.7 alone:

* "several failures": get() of a group raises the failure that arrived first, so with several of them it may be any.
* "ran twice": a step behind a chord whose body is a group is linked to every member of it, so Celery runs it several
  times under one id; its record is that of the run that ended last, and so is everything that follows.
* "failed, not forgotten": what stands behind a failed member (in the body of its chord, behind its chord or group in a
  chain) can never run. Celery leaves some of it without a record, and then an outer chord waits for ever
  (a failing header inside a header; steps in the middle of a chain that is a body; steps behind a revoked task).
  celeryc fails it, with the errbacks that hang on it. Allowed are FAILURE and, behind a revoked task, REVOKED records of
  ids that have no record on Celery, and the errbacks called for them.
"""

from __future__ import annotations

import json
import re
from collections import Counter

from .canvas import Spec
from .canvas_run import Ending
from .canvas_specs import every

MARK = re.compile(r"c\d+\.\d+")


def marks(spec: Spec) -> set[str]:
    return {s["kwargs"]["mark"] for s in every(spec) if s["kind"] == "task"}


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


def _record(line: str) -> tuple[str, dict[str, object]]:
    mark, _, text = line.partition(": ")
    return mark, json.loads(text)


def _states(records: Counter[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in records:
        mark, record = _record(line)
        found.setdefault(mark, set()).add(str(record["status"]))
    return found


def _ran_twice(ending: Ending) -> set[str]:
    """Marks that ran with different arguments."""
    digests: dict[str, set[str]] = {}
    for run in ending.runs:
        mark, _, digest = run.split(", ", 2)
        digests.setdefault(mark, set()).add(digest)
    return {mark for mark, seen in digests.items() if len(seen) > 1}


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
    used: set[str] = set()
    twice = _ran_twice(want)
    if twice:
        return _compare_loosely(want, got, twice, used), used
    states = _states(want.records)
    failed = {m for m, seen in states.items() if seen & {"FAILURE", "REVOKED"}}
    hopeless = behind_failures(spec, failed) - states.keys()
    left = [f"record missing: {line}" for line in (want.records - got.records).elements()]
    for line in (got.records - want.records).elements():
        mark, record = _record(line)
        if (record["status"] in ("FAILURE", "REVOKED") and (
            mark in hopeless or (mark == "?" and failed)
        )) or (mark in _errbacks(spec) and mark not in states):
            used.add("failed, not forgotten")
        else:
            left.append(f"record added: {line}")
    left += [f"run missing: {line}" for line in (want.runs - got.runs).elements()]
    for line in (got.runs - want.runs).elements():
        if line.split(",")[0] in _errbacks(spec) and set(MARK.findall(line)[1:]) <= hopeless:
            used.add("failed, not forgotten")
        else:
            left.append(f"run added: {line}")
    if want.get != got.get:
        if want.get == "no end" and "failed, not forgotten" in used:
            pass
        elif len(failed) > 1 and got.get in _failures(want.records):
            used.add("several failures")
        else:
            left.append(f"get: {want.get} became {got.get}")
    return left, used


def _errbacks(spec: Spec) -> set[str]:
    return {m for s in every(spec) for e in s["errbacks"] for m in marks(e)}


def _compare_loosely(want: Ending, got: Ending, twice: set[str], used: set[str]) -> list[str]:
    """How often each task ran and in which states it is."""
    used.add("ran twice")

    def often(ending: Ending) -> Counter[str]:
        return Counter(run.split(",")[0] for run in ending.runs.elements())

    left = []
    if often(want) != often(got):
        left.append(f"runs {often(want) - often(got)} missing, {often(got) - often(want)} added")
    if _states(want.records) != _states(got.records):
        left.append(f"states {_states(want.records)} became {_states(got.records)}")
    return left
