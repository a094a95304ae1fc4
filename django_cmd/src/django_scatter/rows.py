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
import enum
import json
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connections, models, transaction
from django.db.models.functions import Cast, Collate
from django.utils.module_loading import import_string

from django_scatter.batchfile import key_columns, text_of
from django_scatter.errors import ScatterError
from django_scatter.migration import pk_columns

# Databases that make the text form themselves, and their collation that compares bytes.
BYTE_ORDER = {"postgresql": "C", "sqlite": "BINARY"}
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


def key_names(queryset: models.QuerySet[Any], key: str | None) -> list[str]:
    return key_columns(key) if key else pk_columns(queryset.model)


def pick_fields(
    queryset: models.QuerySet[Any], key: str | None, columns: Sequence[str]
) -> list[models.Field[Any, Any]]:
    """The key's fields, then those of the columns, which may be given by column or field name; all columns of the model
    when none are given (scatter-plan keeps those that the migration reads)."""
    model = queryset.model
    by_column = columns_of(model)
    by_name = {f.attname: f for f in by_column.values()} | {f.name: f for f in by_column.values()}
    picked: list[models.Field[Any, Any]] = []
    for name in [*key_names(queryset, key), *(columns or by_column)]:
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
    if isinstance(value, datetime.timedelta):
        return interval_text(value)
    return other_text(value)


def other_text(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex()
    if isinstance(value, enum.Enum):
        return as_text(value.value)
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False)
    raise ScatterError(
        f"a value of type {type(value).__name__} has no known text form; plan with --query instead"
    )


def interval_text(value: datetime.timedelta) -> str:
    """PostgreSQL's interval of days and a time of day, both with the sign of the whole."""
    sign = "-" if value < datetime.timedelta() else ""
    value = abs(value)
    days = f"{sign}{value.days} day{'s' if sign or value.days != 1 else ''}" if value.days else ""
    hours, rest = divmod(value.seconds, 3600)
    clock = f"{sign}{hours:02}:{rest // 60:02}:{rest % 60:02}"
    if value.microseconds:
        clock = (clock + f".{value.microseconds:06}").rstrip("0")
    has_time = bool(value.seconds or value.microseconds)
    return " ".join(filter(None, [days, clock if has_time or not days else ""]))


def array_text(value: Sequence[Any]) -> str:
    """PostgreSQL's literal of an array."""
    parts = []
    for item in value:
        if isinstance(item, (list, tuple)):
            parts.append(array_text(item))
        elif item is None:
            parts.append("NULL")
        else:
            text = text_of(as_text(item)) or ""
            plain = text and not re.search(r'[\s{},"\\]', text) and text.upper() != "NULL"
            parts.append(text if plain else '"' + re.sub(r'(["\\])', r"\\\1", text) + '"')
    return "{" + ",".join(parts) + "}"


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
    vendor = connections[queryset.db].vendor
    header: dict[str, Any] = {
        "columns": [f.column for f in fields], "types": None, "trailer": True
    }  # fmt: skip
    if vendor not in BYTE_ORDER:
        header["order"] = "database"
    yield encode(header) + b"\n"
    expressions = [expression(f, vendor) for f in fields]
    # A slice keeps its own order: its rows depend on it, and Django refuses to change it.
    if not queryset.query.is_sliced:
        n_keys = len(key_names(queryset, key))
        queryset = queryset.order_by(*(sort_key(f, vendor) for f in fields[:n_keys]))
    lines: list[bytes] = []
    count = 0
    with pinned(queryset.db):
        for row in queryset.values_list(*expressions).iterator(chunk_size=CHUNK_ROWS):
            lines.append(encode([as_text(v) for v in row]))
            count += 1
            if len(lines) >= LINES_PER_WRITE:
                yield b"\n".join([*lines, b""])
                lines = []
    yield b"\n".join([*lines, encode({"rows": count}), b""])


def expression(column: models.Field[Any, Any], vendor: str) -> Any:
    """What is selected: the value itself, or the text that its database makes of it."""
    plain = is_plain(column) or vendor not in BYTE_ORDER
    if vendor == "sqlite" and isinstance(column, models.BinaryField):
        plain = True  # a cast would give the bytes themselves
    return column.attname if plain else Cast(column.attname, models.TextField())


def sort_key(column: models.Field[Any, Any], vendor: str) -> Any:
    """Integers by value, everything else byte by byte, whatever the collation: scatter-plan checks just that."""
    if is_plain(column) or vendor not in BYTE_ORDER:
        return column.attname
    if isinstance(column, models.UUIDField):
        return column.attname  # the same order, and the index has it
    return Collate(Cast(column.attname, models.TextField()), BYTE_ORDER[vendor]).asc()


# The text form of every value depends on these: planner and workers set the same.
PINNED = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}


@contextmanager
def pinned(alias: str) -> Iterator[None]:
    """One transaction with the settings that make the text form of values; inside of the caller's own transaction they
    are put back. A transaction also keeps a cursor alive behind a pooler that gives each one another session."""
    connection = connections[alias]
    if connection.vendor != "postgresql":
        yield
        return
    with transaction.atomic(using=alias):
        before = set_local(alias, PINNED)
        try:
            yield
        finally:
            if not connection.needs_rollback:
                set_local(alias, before)


def set_local(alias: str, wanted: dict[str, str]) -> dict[str, str]:
    """Sets them to the end of the transaction; what they were."""
    names = list(wanted)
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT " + ", ".join(["current_setting(%s)"] * len(names)), names)
        before = dict(zip(names, cursor.fetchone()))
        cursor.execute(
            "SELECT " + ", ".join(["set_config(%s, %s, true)"] * len(names)),
            [text for name in names for text in (name, wanted[name])],
        )
    return before


def encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
