# SPDX-License-Identifier: Apache-2.0
"""A Django project in one file whose Celery worker runs phones.vn_renumber in Python, beside the C one.

INTEROP_ENGINE, INTEROP_NAME and INTEROP_HOST describe its database.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import django
from celery import Celery
from django.conf import settings

from harness.parcels import PLANNER

settings.configure(
    SECRET_KEY="tests only",
    INSTALLED_APPS=["django_scatter"],
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    SCATTER={"BINARY": str(PLANNER)},
    DATABASES={
        "default": {
            "ENGINE": f"django.db.backends.{os.environ['INTEROP_ENGINE']}",
            "NAME": os.environ["INTEROP_NAME"],
            "HOST": os.environ.get("INTEROP_HOST", ""),
            "PORT": os.environ.get("INTEROP_PORT", ""),
            "USER": "postgres",
        }
    },
)
django.setup()

from django_scatter.migration import Migration, Record, Skip, register  # noqa: E402
from harness.phones import renumbered  # noqa: E402

app = Celery("scatter_app")
app.conf.update(json.loads(os.environ.get("INTEROP_SETTINGS") or "{}"))


TYPES = (
    "flag small big exact real word padded folded day moment zoned span bytes doc docb list words ident mood"
).split()


@register
class CopyTypes(Migration):
    name = "interop.copy_types"
    table = "sample"
    reads = TYPES
    writes = tuple(f"{name}_new" for name in TYPES)

    def process(self, record: Record) -> Mapping[str, Any]:
        return {f"{name}_new": record[name] for name in TYPES}


@register
class Upper(Migration):
    name = "interop.upper"
    table = "sample"
    reads = ("word",)
    writes = ("word",)

    def process(self, record: Record) -> Mapping[str, Any]:
        return {"word": record["word"].upper()}


@register
class Book(Migration):
    name = "interop.book"
    table = "account"
    reads = ("word",)
    writes = ("changes",)

    def process_row(self, record: Record, cursor: Any) -> None:
        entry = [record.key, record["word"]]
        cursor.execute("INSERT INTO entry (account, word) VALUES (%s, %s)", entry)
        cursor.execute("UPDATE account SET changes = changes + 1 WHERE id = %s", entry[:1])

    def undo_row(self, record: Record, cursor: Any) -> Skip | None:
        cursor.execute(
            "UPDATE account SET changes = changes - 1 WHERE id = %s AND changes = 1", [record.key]
        )
        if not cursor.rowcount:
            return Skip("changed since")
        entry = [record.key, record["word"]]
        cursor.execute("DELETE FROM entry WHERE account = %s AND word = %s", entry)
        return None


@register
class Tell(Migration):
    name = "interop.tell"
    table = "account"
    reads = ("word",)

    def process_external(self, record: Record) -> None:
        time.sleep(0.001)  # as a call takes its time
        note(record)


def note(record: Record) -> None:
    with Path(record.params["file"]).open("a", encoding="utf-8") as f:
        f.write(record.idempotency_key + "\n")


def wait_for_go(record: Record) -> None:
    """The record whose key is `at` waits until there is the file `go`."""
    while str(record.key) == record.params["at"] and not Path(record.params["go"]).exists():
        time.sleep(0.01)


@register
class Linger(Migration):
    name = "interop.linger"
    table = "account"
    reads = ("word",)

    def process_external(self, record: Record) -> None:
        note(record)
        wait_for_go(record)


@register
class Hold(Migration):
    """With the locks of its chunk."""

    name = "interop.hold"
    table = "account"
    reads = ("word",)

    def process_row(self, record: Record, cursor: Any) -> None:
        cursor.execute("UPDATE account SET changes = changes + 1 WHERE id = %s", [record.key])
        note(record)
        wait_for_go(record)


@register
class Renumber(Migration):
    name = "phones.vn_renumber"
    table = "parcel"
    reads = ("phone",)
    writes = ("phone",)

    def process(self, record: Record) -> Mapping[str, Any] | None:
        fresh = renumbered(record["phone"])
        return None if fresh == record["phone"] else {"phone": fresh}


@app.task(name="scatter_app.seen")
def seen(*args: Any, **kwargs: Any) -> list[Any]:
    """A callback: what it was called with."""
    return [list(args), kwargs]


@register
class Mark(Migration):
    """interop_tests/plugin_faults in Python."""

    name = "faults.mark"
    table = "marked"
    reads = ("name",)
    writes = ("done",)

    def process(self, record: Record) -> Mapping[str, Any] | Skip | None:
        time.sleep(0.0003)
        if record["name"] == "skip":
            return Skip("its name says so")
        return None if record["name"] == "same" else {"done": 1}
