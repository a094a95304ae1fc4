# SPDX-License-Identifier: Apache-2.0
"""Canvases as plain data, which a client of any Celery version builds and sends (client_driver.py)."""

from __future__ import annotations

import json
from typing import Any

Spec = dict[str, Any]


def plain(signature: Any) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(signature))


def _spec(kind: str, options: dict[str, Any], **fields: Any) -> Spec:
    lists = {key: options.pop(key, []) for key in ("links", "errbacks")}
    return {"kind": kind, "options": options, **lists, **fields}


def task(
    name: str,
    *args: Any,
    immutable: bool = False,
    kwargs: dict[str, Any] | None = None,
    sig: Spec | None = None,
    **options: Any,
) -> Spec:
    """Options are Celery's; `links` and `errbacks` are specs, and so is `sig`, which becomes a keyword argument."""
    fields = {"args": list(args), "kwargs": kwargs or {}, "immutable": immutable, "sig": sig}
    return _spec("task", options, name=name, **fields)


def add(a: Any, *b: Any, **options: Any) -> Spec:
    return task("examples.add", a, *b, **options)


def echo(*args: Any, **options: Any) -> Spec:
    return task("examples.echo", *args, **options)


def fail(message: str, **options: Any) -> Spec:
    return task("examples.fail", "ValueError", message, **options)


def chain(*members: Spec, **options: Any) -> Spec:
    return _spec("chain", options, members=list(members))


def group(*members: Spec, **options: Any) -> Spec:
    return _spec("group", options, members=list(members))


def chord(members: list[Spec], body: Spec, **options: Any) -> Spec:
    return _spec("chord", options, members=members, body=body)
