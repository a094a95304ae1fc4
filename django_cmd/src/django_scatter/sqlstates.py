# SPDX-License-Identifier: Apache-2.0
"""What a database error means: retry, bad data of one record, or a schema that no record would survive.

The same table as celeryc's, so that both kinds of worker treat a failure alike.
"""

from __future__ import annotations

import enum
import re
import sqlite3
from typing import Any

from django.db import utils

from django_scatter.schema import schema_text


class Kind(enum.Enum):
    RETRY = "retry"
    DATA = "data"
    SCHEMA = "schema"


KINDS = {"retry": Kind.RETRY, "quarantine": Kind.DATA, "skip": Kind.DATA}


def read_table() -> tuple[list[tuple[str, str, str]], dict[str, str], dict[str, tuple[str, ...]]]:
    """errors.txt: (beginning of a SQLSTATE, action, class), actions of exceptions, SQLSTATEs of a parent's name."""
    states: list[tuple[str, str, str]] = []
    errors: dict[str, str] = {}
    above: dict[str, tuple[str, ...]] = {}
    for line in schema_text("errors.txt").splitlines():
        kind, *words = line.partition("#")[0].split() or [""]
        if kind == "state":
            states.append((words[0].rstrip("*"), words[1], words[2]))
        elif kind == "error":
            errors[words[0]] = words[1]
        elif kind == "above":
            above[words[0]] = tuple(w.rstrip("*") for w in words[1:])
    return states, errors, above


# What a state is called and what becomes of the record: celeryc is built from the same file.
STATES, ERRORS, PARENTS = read_table()

# SQLite's extended result codes as SQLSTATEs.
SQLITE_STATES = (
    ("SQLITE_CONSTRAINT_UNIQUE", "23505"),
    ("SQLITE_CONSTRAINT_PRIMARYKEY", "23505"),
    ("SQLITE_CONSTRAINT_ROWID", "23505"),
    ("SQLITE_CONSTRAINT_NOTNULL", "23502"),
    ("SQLITE_CONSTRAINT_FOREIGNKEY", "23503"),
    ("SQLITE_CONSTRAINT_CHECK", "23514"),
    ("SQLITE_CONSTRAINT_TRIGGER", "P0001"),
    ("SQLITE_CONSTRAINT", "23000"),
    ("SQLITE_BUSY", "55P03"),
    ("SQLITE_LOCKED", "55P03"),
    ("SQLITE_READONLY", "25006"),
    ("SQLITE_FULL", "53100"),
    ("SQLITE_IOERR", "58030"),
    ("SQLITE_CANTOPEN", "58P01"),
    ("SQLITE_TOOBIG", "22001"),
    ("SQLITE_MISMATCH", "22P02"),
    ("SQLITE_INTERRUPT", "57014"),
    ("SQLITE_AUTH", "42501"),
    ("SQLITE_PERM", "42501"),
    ("SQLITE_NOTADB", "42601"),
    ("SQLITE_CORRUPT", "XX001"),
    ("SQLITE_SCHEMA", "40001"),
)


def sqlstate_of(error: BaseException) -> str:
    """The SQLSTATE of a driver's or Django's database error; "" for any other exception."""
    cause: Any = error.__cause__ if isinstance(error, utils.Error) and error.__cause__ else error
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state:
        return str(state)
    if isinstance(cause, sqlite3.Error):
        return sqlite_state(cause)
    if isinstance(cause, (utils.InterfaceError, utils.OperationalError)) or type(
        cause
    ).__name__ in (
        "OperationalError",
        "InterfaceError",
    ):
        return "08006"  # the connection broke: there is no answer that could hold a state
    return "42000" if isinstance(error, utils.Error) else ""


def sqlite_state(error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", "") or ""
    for prefix, state in SQLITE_STATES:
        if name.startswith(prefix):
            return state
    text = str(error)
    for words, state in (
        ("locked", "55P03"),
        ("readonly", "25006"),
        ("no such table", "42P01"),
        ("no such column", "42703"),
        ("has no column", "42703"),
        ("constraint failed", "23000"),
    ):
        if words in text:
            return state
    return "42601"


def state_entry(state: str) -> tuple[str, str, str]:
    return next(entry for entry in STATES if state.startswith(entry[0]))


def kind_of(state: str) -> Kind:
    return KINDS.get(state_entry(state)[1], Kind.SCHEMA)


def class_of(state: str) -> str:
    return state_entry(state)[2]


def default_action(error_class: str, state: str) -> str:
    """For a refusal of the database, or for an exception of the migration (state "")."""
    if state:
        return state_entry(state)[1]
    return ERRORS.get(error_class.rpartition(".")[2], ERRORS["*"])


def text_of(error: BaseException) -> str:
    """The first line of the server's words, and its detail."""
    cause: Any = error.__cause__ or error
    diagnostics = getattr(cause, "diag", None)
    primary = getattr(diagnostics, "message_primary", None)
    if primary:
        detail = getattr(diagnostics, "message_detail", None)
        return f"{primary}: {detail}" if detail else str(primary)
    return str(cause).partition("\n")[0] or type(cause).__name__


def listed(retry_on: str | None, error: type[BaseException] | str, sqlstate: str) -> bool:
    """Does a plan's --retry-on name the failure? Items are whole SQLSTATEs or their first two letters, or names of the
    exception's class or a class above it, with or without a module in front."""
    return any(
        item_names(item.rpartition(".")[2], error, sqlstate)
        for item in re.split(r"[, \t]+", retry_on or "")
        if item
    )


def item_names(item: str, error: type[BaseException] | str, sqlstate: str) -> bool:
    if re.fullmatch(r"[0-9A-Z]{2}|[0-9A-Z]{5}", item):
        return bool(sqlstate) and sqlstate.startswith(item)
    if isinstance(error, str):
        names = {error.rpartition(".")[2], "Exception"}
    else:
        names = {c.__name__ for c in error.__mro__}
    return item in names or bool(sqlstate and sqlstate.startswith(PARENTS.get(item, ("-",))))
