# SPDX-License-Identifier: Apache-2.0
"""Queue elements made by hand."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any


def message(
    task_id: str,
    task: str,
    args: Any,
    kwargs: Any = None,
    *,
    embed: dict[str, Any] | None = None,
    body_encoding: str | None = "base64",
    **headers: Any,
) -> dict[str, Any]:
    """A protocol 2 message as Celery 5.7 writes it."""
    none = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    body = json.dumps([args, kwargs or {}, none | (embed or {})])
    properties: dict[str, Any] = {
        "correlation_id": task_id,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "priority": 0,
        "delivery_tag": str(uuid.uuid4()),
    }
    if body_encoding is not None:
        properties["body_encoding"] = body_encoding
        body = encode(body)
    return {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": task_id,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": task_id,
            "parent_id": None,
            "argsrepr": "()",
            "kwargsrepr": "{}",
            "origin": "gen1@interop",
            "ignore_result": False,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
            **headers,
        },
        "properties": properties,
    }


def encode(body: str | bytes) -> str:
    data = body.encode() if isinstance(body, str) else body
    return base64.b64encode(data).decode()
