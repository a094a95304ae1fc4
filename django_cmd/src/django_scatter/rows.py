# SPDX-License-Identifier: Apache-2.0
"""Rows of a queryset as the NDJSON that scatter-plan --stdin reads.

The first line is {"columns": [...], "trailer": true}, then one array per row, then {"rows": n}: without it the planner
knows that we were interrupted. Integers and booleans are JSON values,
everything else is the text form of the *target* database, because the guard compares texts. PostgreSQL and SQLite
make that text themselves (a cast); rows of any other database are written here as PostgreSQL would.
"""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.db import connections, models
from django.db.models.functions import Cast
from django.utils.module_loading import import_string

from django_scatter.errors import ScatterError

CHUNK_ROWS = 2000
LINES_PER_WRITE = 500
INTEGERS = (models.IntegerField, models.AutoField)


def load_queryset(path: str) -> models.QuerySet[Any]:
    """Calls app.module:callable, which returns a queryset."""
    module, colon, name = path.partition(":")
    if not colon or not module or not name:
        raise ScatterError(f"--queryset {path!r} is not of the form app.module:callable")
    try:
        found: Callable[[], Any] = import_string(f"{module}.{name}")
    except ImportError as e:
        raise ScatterError(f"--queryset {path}: {e}") from e
    queryset = found() if callable(found) else found
    if isinstance(queryset, models.Manager):
        queryset = queryset.all()
    if not isinstance(queryset, models.QuerySet):
        raise ScatterError(
            f"--queryset {path} gave {type(queryset).__name__}, it must give a queryset"
        )
    return queryset


def columns_of(model: type[models.Model]) -> dict[str, models.Field[Any, Any]]:
    """Column name -> field of a model's own table."""
    return {str(f.column): f for f in model._meta.concrete_fields}  # noqa: SLF001  Django's documented Meta API


def pick_fields(
    queryset: models.QuerySet[Any], key: str | None, columns: Sequence[str]
) -> list[models.Field[Any, Any]]:
    """The key's field, then those of the columns, which may be given by column or field name; all columns of the model
    when none are given (scatter-plan keeps those that the migration reads)."""
    model = queryset.model
    by_column = columns_of(model)
    by_name = {f.attname: f for f in by_column.values()} | {f.name: f for f in by_column.values()}
    picked: list[models.Field[Any, Any]] = []
    for name in [key or model._meta.pk.column, *(columns or by_column)]:  # noqa: SLF001
        found = by_column.get(name) or by_name.get(name)
        if found is None:
            raise ScatterError(
                f"{model.__name__} has no column {name!r}; it has {', '.join(sorted(by_column))}"
            )
        if found not in picked:
            picked.append(found)
    return picked


def is_plain(column: models.Field[Any, Any]) -> bool:
    """Integers and booleans travel as they are; a foreign key is what it points to."""
    target = getattr(column, "target_field", column)
    return isinstance(target, (*INTEGERS, models.BooleanField))


def as_text(value: Any) -> Any:
    """PostgreSQL's text form of a Python value (TimeZone UTC, DateStyle ISO); JSON's own types stay."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, datetime.datetime):
        return datetime_text(value)
    if isinstance(value, (datetime.date, uuid.UUID)):
        return str(value)
    if isinstance(value, datetime.time):
        return trim_fraction(value.isoformat())
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, (bytes, memoryview)):
        return "\\x" + bytes(value).hex()
    raise ScatterError(
        f"a value of type {type(value).__name__} has no known text form; plan with --query instead"
    )


def utc_naive(value: Any) -> Any:
    """An aware datetime in UTC without its zone; anything else as it is."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    return value


def datetime_text(value: datetime.datetime) -> str:
    zone = "+00" if value.tzinfo is not None else ""
    return trim_fraction(utc_naive(value).isoformat(" ")) + zone


def trim_fraction(text: str) -> str:
    return text.rstrip("0") if "." in text else text


def stream(
    queryset: models.QuerySet[Any], key: str | None, columns: Sequence[str]
) -> Iterator[bytes]:
    """The NDJSON of a queryset, in key order, streamed from the database."""
    fields = pick_fields(queryset, key, columns)
    header = {"columns": [f.column for f in fields], "types": None, "trailer": True}
    yield encode(header) + b"\n"
    casts = connections[queryset.db].vendor in ("postgresql", "sqlite")
    expressions: list[Any] = [
        f.attname if is_plain(f) or not casts else Cast(f.attname, models.TextField())
        for f in fields
    ]
    # A slice keeps its own order: its rows depend on it, and Django refuses to change it.
    ordered = queryset if queryset.query.is_sliced else queryset.order_by(fields[0].attname)
    lines: list[bytes] = []
    count = 0
    for row in ordered.values_list(*expressions).iterator(chunk_size=CHUNK_ROWS):
        lines.append(encode([as_text(v) for v in row]))
        count += 1
        if len(lines) >= LINES_PER_WRITE:
            yield b"\n".join([*lines, b""])
            lines = []
    yield b"\n".join([*lines, encode({"rows": count}), b""])


def encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
