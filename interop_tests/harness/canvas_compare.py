# SPDX-License-Identifier: Apache-2.0
"""Gives canvas the steps that Celery has taken and compares what each of them did, value by value. Ids that each side
made up are matched one to one."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from harness.canvas_world import Effects, Step

Json = Any

UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00$")

# Differ by nature, or are for people only.
SKIPPED = {"reply_to", "origin", "delivery_tag", "argsrepr", "date_done", "traceback", "expiration"}


# group.link() with a callback out of a message, in replace() by a chord with a group for a body.
CELERY_BUG = "'dict' object has no attribute 'clone'"


class DifferenceError(AssertionError):
    pass


class Matcher:
    """Equality with the ids of one side renamed; `known` ids stand for themselves."""

    def __init__(self, known: str) -> None:
        self.known = known
        self.there: dict[str, str] = {}
        self.back: dict[str, str] = {}

    def text(self, a: str, b: str, where: str) -> None:
        if TIME.match(a) and TIME.match(b):
            return
        if UUID.match(a) and UUID.match(b) and a not in self.known and b not in self.known:
            if self.there.setdefault(a, b) != b or self.back.setdefault(b, a) != a:
                raise DifferenceError(f"{where}: ids are mixed up: {a} is {self.there[a]}, not {b}")
            return
        if a != b:
            raise DifferenceError(f"{where}: {a!r} became {b!r}")

    def value(self, a: Json, b: Json, where: str) -> None:
        if isinstance(a, str) and isinstance(b, str):
            self.text(a, b, where)
        elif isinstance(a, dict) and isinstance(b, dict):
            self.keys(a, b, where)
        elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
            if len(a) != len(b):
                raise DifferenceError(f"{where}: {len(a)} elements became {len(b)}: {a} {b}")
            for i, (x, y) in enumerate(zip(a, b, strict=True)):
                self.value(x, y, f"{where}[{i}]")
        elif type(a) is not type(b) or (a != b and not (a != a and b != b)):
            raise DifferenceError(f"{where}: {a!r} became {b!r}")

    def keys(self, a: dict[str, Json], b: dict[str, Json], where: str) -> None:
        left, right = ({k: v for k, v in d.items() if k not in SKIPPED} for d in (a, b))
        if left.keys() != right.keys():
            raise DifferenceError(f"{where}: keys {sorted(left)} became {sorted(right)}")
        for key, x in left.items():
            self.value(x, right[key], f"{where}.{key}")

    def message(self, a: str, b: str, where: str) -> None:
        left, right = json.loads(a), json.loads(b)
        for m in (left, right):
            m["body"] = json.loads(base64.b64decode(m["body"]))
        self.value(left, right, where)


class Canvas:
    """The program of tests/canvas/oracle.c."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        self.process.communicate(timeout=10)

    def ask(self, **request: Json) -> dict[str, Json]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"canvas died over {json.dumps(request)}"
        answer: dict[str, Json] = json.loads(line)
        return answer


def compare_messages(m: Matcher, want: Effects, got: dict[str, Json]) -> None:
    names = [json.loads(raw)["headers"]["task"] for _, raw in want.messages]
    sent = [json.loads(raw)["headers"]["task"] for _, _, raw in got["messages"]]
    if names != sent:
        raise DifferenceError(f"messages {names} became {sent}: {got['error']}")
    for i, ((queue, raw), (got_queue, _, got_raw)) in enumerate(
        zip(want.messages, got["messages"], strict=True)
    ):
        m.message(raw, got_raw, f"message {i}")
        m.value(queue, got_queue, f"queue {i}")


def compare_starts(m: Matcher, want: Effects, got: dict[str, Json]) -> None:
    sizes = [[g, n] for g, n in want.starts.items()]
    m.value(sizes, [[g, n] for g, n, _ in got["starts"]], "starts")
    saved = {g: json.loads(s) for g, _, s in got["starts"] if s is not None}
    renamed = {m.there.get(g, g): v for g, v in want.saved.items() if g in want.starts}
    m.value(dict(sorted(renamed.items())), dict(sorted(saved.items())), "saved")


def _options(body: Json) -> Json:
    """Celery changes the lists inside a body when it looks at it; its options say which body it is."""
    return body["options"]


def compare_ends(
    m: Matcher, want: Effects, got: dict[str, Json], groups: set[str], exact: bool
) -> None:
    """Records and parts. Not exact: canvas may say more, where Celery would leave somebody waiting."""
    parts = [list(p) for p in got["parts"]]
    for p in want.parts:
        if p[1] in groups:
            continue  # Celery counts a group that will not run as one; canvas counts its members
        match = next((q for q in parts if q[:3] == list(p[:3])), None)
        if match is None:
            raise DifferenceError(f"no part {p[:3]} in {parts}")
        parts.remove(match)
        assert match[3] == p[3], f"part {p[3]} became {match[3]}"
        m.value(_options(p[4]), _options(json.loads(match[4])), "part body")
        assert match[5] == p[5]
    records = {i: json.loads(r) for i, r in got["records"]}
    for task_id, record in want.records:
        mine = records.pop(task_id, None)
        if mine is None:
            raise DifferenceError(f"no record of {task_id}: {sorted(records)}")
        for key in ("status", "result", "group_id", "parent_id", "task_id"):
            if key in record:
                m.value(record[key], mine.get(key), f"record {task_id} {key}")
    if exact and (parts or records):
        raise DifferenceError(f"unasked parts {parts} records {records}")


def forgotten_end(sig: Json) -> bool:
    """Whether Celery cannot put it in a task's place: nothing gets the task's id when the body of a chord is a group, and
    when it is a chain its last step counts for that chord instead of the one that the task is in. canvas can."""
    behind_chord = in_body = False
    while sig["subtask_type"] in ("chain", "chord"):
        chained = sig["subtask_type"] == "chain"
        in_body = in_body or (chained and behind_chord)
        behind_chord = behind_chord or not chained
        sig = sig["kwargs"]["tasks"][-1] if chained else sig["kwargs"]["body"]
    return behind_chord and (in_body or sig["subtask_type"] == "group")


def comparable(s: Step) -> bool:
    bug = s.state == "FAILURE" and s.result["exc_message"] == [CELERY_BUG]
    return not bug and not (s.replaced and forgotten_end(json.loads(s.replaced)))


def compare_step(canvas: Canvas, s: Step, exact: bool = False) -> None:
    if not comparable(s):
        return
    request: dict[str, Json] = {"raw": s.raw}
    if s.replaced:
        request |= {"op": "replace", "value": json.loads(s.replaced)}
    elif s.state == "SUCCESS":
        request |= {"op": "success", "value": s.result}
    else:
        x = s.result
        request |= {
            "op": "failure",
            "exception": {
                "type": x["exc_type"],
                "module": x["exc_module"],
                "args": x["exc_message"],
            },
        }
    got = canvas.ask(**request)
    if s.joined:
        first = canvas.ask(op="add", raw=s.raw, value=json.loads(s.joined))
        for key in ("messages", "parts", "starts", "children", "adds"):
            got[key] = first[key] + got[key]
    if got["code"]:
        raise DifferenceError(f"code {got['code']}: {got['error']}")
    if s.effects.adds != [group for group, _ in got["adds"]]:
        raise DifferenceError(f"adds {s.effects.adds} became {got['adds']}")
    m = Matcher(base64_free(s.raw))
    compare_messages(m, s.effects, got)
    compare_starts(m, s.effects, got)
    compare_ends(
        m, s.effects, got, group_ids(json.loads(body_text(s.raw))), exact or s.state == "SUCCESS"
    )
    if s.state == "SUCCESS" and s.children is not None:
        m.value(s.children, got["children"], "children")
    for f in s.fired:
        compare_fired(canvas, s, f)


def compare_fired(canvas: Canvas, s: Step, f: Any) -> None:
    if f.results is None:
        got = canvas.ask(op="fail_body", raw=s.raw, body=f.body, member=f.member)
    else:
        got = canvas.ask(op="fire", raw=s.raw, body=f.body, results=f.results)
    if got["code"]:
        raise DifferenceError(f"fire: code {got['code']}: {got['error']}")
    m = Matcher(base64_free(s.raw) + json.dumps(f.body))
    compare_messages(m, f.effects, got)
    compare_starts(m, f.effects, got)
    compare_ends(m, f.effects, got, group_ids(f.body), f.results is not None)


def body_text(raw: str) -> str:
    return base64.b64decode(json.loads(raw)["body"]).decode()


def base64_free(raw: str) -> str:
    return raw + body_text(raw)


def group_ids(v: Json) -> set[str]:
    """The ids of all groups in a value."""
    ids: set[str] = set()
    if isinstance(v, dict):
        if v.get("subtask_type") == "group":
            ids.add(v["options"].get("task_id"))
        v = list(v.values())
    if isinstance(v, list):
        for x in v:
            ids |= group_ids(x)
    return ids
