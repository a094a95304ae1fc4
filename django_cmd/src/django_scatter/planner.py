# SPDX-License-Identifier: Apache-2.0
"""Runs scatter-plan: its argument list, its progress lines, rows for its standard input, its result.

scatter-plan writes progress as JSON lines and messages for people to stderr, and one JSON object to stdout.
"""

from __future__ import annotations

import getpass
import json
import subprocess
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from django_scatter import conf
from django_scatter.binary import find_binary
from django_scatter.errors import ScatterError

# How a plan is to be run: options of scatter_plan that scatter-plan create takes as they are.
RUN_OPTIONS = {
    "on-error": ("NAME=ACTION,...", "what becomes of failures: 23505=skip,ValueError=retry:5"),
    "max-quarantine": ("N|P%", "records that may be set aside; one more pauses the plan"),
    "max-quarantine-batch": ("N|P%", "the same for a batch"),
    "max-failure-rate": ("P%|off", "part of the last 1,000 records that may be set aside (5%)"),
    "canary": ("N", "the first N records alone, then the plan pauses"),
    "workers": ("N", "with --dry-run: workers that the forecast of the time is for"),
    "database-cores": ("N", "with --dry-run: processor cores of the database, for the same"),
}

BROKERLESS = ("set", "governor", "report", "audit", "status")

OnProgress = Callable[[dict[str, Any]], None]


@dataclass
class PlanRequest:
    """What scatter-plan create is asked for."""

    migration: str
    database: str
    queue: str
    batch_size: int | None = None
    upload_parallel: int | None = None
    query: str | None = None
    table: str | None = None
    key: str | None = None
    columns: Sequence[str] = ()
    params: Sequence[str] = ()
    on_planned: str | None = None
    on_batch: str | None = None
    on_paused: str | None = None
    on_failed: str | None = None
    on_finish: str | None = None
    retry_on: str | None = None
    run: Mapping[str, Any] = field(default_factory=dict)  # RUN_OPTIONS by name
    windows: Sequence[str] = ()
    plan: str | None = None
    enqueue: bool = True
    dry_run: bool = False
    external: bool = False  # the migration's effect is outside of the database


@dataclass
class PlanResult:
    """The object that scatter-plan printed."""

    plan: str
    total: int
    batches: int
    enqueued: int
    raw: dict[str, Any] = field(default_factory=dict)


def created_by() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return ""


def common_arguments(database: str, queue: str) -> list[str]:
    """Arguments of both phases. URLs that hold credentials are in the environment instead."""
    return ["--database", database, "--store", conf.store_url(), "--queue", queue,
            "--format", "json", "--progress", "json"]  # fmt: skip


def create_arguments(request: PlanRequest) -> list[str]:
    argv = ["create", "--migration", request.migration]
    for plugin in conf.plugins():
        argv += ["-A", plugin]
    argv += ["--stdin"] if request.query is None else ["--query", request.query]
    argv += common_arguments(request.database, request.queue)
    for option, value in (
        ("--batch-size", request.batch_size),
        ("--upload-parallel", request.upload_parallel),
        ("--table", request.table),
        ("--key", request.key),
        ("--columns", ",".join(request.columns)),
        ("--on-planned", request.on_planned),
        ("--on-batch", request.on_batch),
        ("--on-paused", request.on_paused),
        ("--on-failed", request.on_failed),
        ("--on-finish", request.on_finish),
        ("--retry-on", request.retry_on),
        *((f"--{name}", request.run.get(name.replace("-", "_"))) for name in RUN_OPTIONS),
        ("--plan", request.plan),
        ("--created-by", created_by()),
    ):
        if value:
            argv += [option, str(value)]
    for param in request.params:
        argv += ["--param", param]
    for window in request.windows:
        argv += ["--window", window]
    if not request.enqueue:
        argv.append("--no-enqueue")
    if request.dry_run:
        argv.append("--dry-run")
        if request.external:
            argv.append("--external")
    return argv


def create(
    request: PlanRequest,
    rows: Iterable[bytes] | None = None,
    on_progress: OnProgress | None = None,
) -> PlanResult:
    """Writes a plan's objects and control rows, and its messages unless told not to."""
    good = (0, 3) if request.dry_run else (0,)  # 3: a check of the dry run blocks
    found = run(create_arguments(request), request.database, rows, on_progress, good)
    return as_result(found)


def enqueue(
    plan: str, database: str, queue: str, on_progress: OnProgress | None = None
) -> PlanResult:
    """Sends the messages of a plan; sending twice is harmless."""
    argv = ["enqueue", "--plan", plan, *common_arguments(database, queue)]
    return as_result(run(argv, database, None, on_progress))


def plan_arguments(
    command: str, plan: str, database: str, options: Mapping[str, Any], flags: Sequence[str] = ()
) -> list[str]:
    """Arguments of a command on a plan that is there; options without a value are left out."""
    argv = [command, plan, "--database", database, "--format", "json"]
    for name, value in options.items():
        if value is not None:
            argv += [f"--{name}", str(value)]
    return argv + [f"--{flag}" for flag in flags]


def child_arguments(
    command: str, plan: str, database: str, options: Mapping[str, Any], flags: Sequence[str] = ()
) -> list[str]:
    """The same for a command that makes a plan out of the other."""
    argv = plan_arguments(command, plan, database, options, flags)
    for plugin in conf.plugins():
        argv += ["-A", plugin]
    argv += ["--store", conf.store_url()]
    return [*argv, "--progress", "json", "--created-by", created_by() or "django"]


def as_result(found: dict[str, Any]) -> PlanResult:
    try:
        return PlanResult(
            plan=str(found.get("plan") or ""),
            total=int(found["total"]),
            batches=int(found["batches"]),
            enqueued=int(found.get("enqueued") or 0),
            raw=found,
        )
    except (KeyError, TypeError, ValueError):
        raise ScatterError(f"scatter-plan printed {found!r}, which is no result") from None


def prefix_arguments(command: str) -> list[str]:
    prefix = "" if command in BROKERLESS else conf.key_prefix()
    return ["--global-keyprefix", prefix] if prefix else []


def run(
    arguments: Sequence[str],
    database: str,
    rows: Iterable[bytes] | None = None,
    on_progress: OnProgress | None = None,
    good: Sequence[int] = (0,),
) -> dict[str, Any]:
    """Runs scatter-plan to its end. Rows are fed from this thread, because they come from Django's connection."""
    argv = [find_binary(), *arguments, *prefix_arguments(arguments[0])]
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if rows is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=conf.planner_environment(database),
        )
    except OSError as e:
        raise ScatterError(f"{argv[0]} cannot be run: {e.strerror}") from e
    assert process.stdout is not None
    assert process.stderr is not None
    messages: list[str] = []
    printed: list[bytes] = []
    readers = [
        threading.Thread(target=read_progress, args=(process.stderr, messages, on_progress)),
        threading.Thread(target=lambda out: printed.append(out.read()), args=(process.stdout,)),
    ]
    for reader in readers:
        reader.start()
    try:
        if rows is not None:
            assert process.stdin is not None
            feed(process.stdin, rows)
        status = process.wait()
    except BaseException:
        # Without its end of input the planner would take the rows that it has for all there are.
        process.kill()
        process.wait()
        raise
    finally:
        for reader in readers:
            reader.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                close_quietly(pipe)
    if status not in good:
        text = "\n".join(messages) or f"no message, exit status {status}"
        raise ScatterError(f"scatter-plan {arguments[0]} failed: {text}")
    return parse_printed(b"".join(printed))


def feed(stdin: IO[bytes], rows: Iterable[bytes]) -> None:
    """Writes rows until the planner stops reading; why it did is in its own message."""
    try:
        for row in rows:
            stdin.write(row)
    except BrokenPipeError:
        return
    finally:
        # Its transaction ends here, not whenever the generator is collected.
        if isinstance(rows, Generator):
            rows.close()
    try:
        stdin.close()
    except BrokenPipeError:
        return


def close_quietly(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return


def read_progress(stderr: IO[bytes], messages: list[str], on_progress: OnProgress | None) -> None:
    for raw in stderr:
        line = raw.decode("utf-8", "replace").rstrip("\n")
        found = parse_object(line) if line.startswith("{") else None
        if found is None or "phase" not in found:
            if line.strip():
                messages.append(line)
        elif on_progress is not None:
            on_progress(found)


def parse_object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def parse_printed(text: bytes) -> dict[str, Any]:
    found = parse_object(text.decode("utf-8", "replace"))
    if found is None:
        shown = text[:200].decode("utf-8", "replace")
        raise ScatterError(f"scatter-plan printed {shown!r} instead of a JSON object")
    return found
