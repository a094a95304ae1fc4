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


class Kind(enum.Enum):
    RETRY = "retry"
    DATA = "data"
    SCHEMA = "schema"


RETRY_STATES = ("08", "40", "53", "55P03", "55006", "57014", "57P01", "57P02", "57P03", "57P05", "58",
                "25P03")  # fmt: skip
DATA_STATES = ("21", "22", "23", "27", "44", "54", "P0")

NAMES = (
    ("22001", "StringDataRightTruncation"),
    ("22003", "NumericValueOutOfRange"),
    ("22007", "InvalidDatetimeFormat"),
    ("22008", "DatetimeFieldOverflow"),
    ("22P02", "InvalidTextRepresentation"),
    ("22", "DataError"),
    ("23502", "NotNullViolation"),
    ("23503", "ForeignKeyViolation"),
    ("23505", "UniqueViolation"),
    ("23514", "CheckViolation"),
    ("23P01", "ExclusionViolation"),
    ("23", "IntegrityError"),
    ("25006", "ReadOnlySqlTransaction"),
    ("40001", "SerializationFailure"),
    ("40P01", "DeadlockDetected"),
    ("40", "TransactionRollback"),
    ("42501", "InsufficientPrivilege"),
    ("42601", "SyntaxError"),
    ("42703", "UndefinedColumn"),
    ("42804", "DatatypeMismatch"),
    ("42P01", "UndefinedTable"),
    ("42", "ProgrammingError"),
    ("53100", "DiskFull"),
    ("53300", "TooManyConnections"),
    ("55P03", "LockNotAvailable"),
    ("57014", "QueryCanceled"),
    ("57P01", "AdminShutdown"),
    ("57P02", "CrashShutdown"),
    ("57P03", "CannotConnectNow"),
    ("P0001", "RaiseException"),
    ("08", "ConnectionError"),
    ("28", "InvalidAuthorizationSpecification"),
    ("3D", "InvalidCatalogName"),
    ("3F", "InvalidSchemaName"),
    ("53", "OperationalError"),
    ("55", "OperationalError"),
    ("57", "OperationalError"),
    ("58", "OperationalError"),
    ("XX", "InternalError"),
)

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


def kind_of(state: str) -> Kind:
    if state.startswith(RETRY_STATES):
        return Kind.RETRY
    if state.startswith(DATA_STATES):
        return Kind.DATA
    return Kind.SCHEMA


def class_of(state: str) -> str:
    return next((name for prefix, name in NAMES if state.startswith(prefix)), "DatabaseError")


def text_of(error: BaseException) -> str:
    """The first line of the server's words, and its detail."""
    cause: Any = error.__cause__ or error
    diagnostics = getattr(cause, "diag", None)
    primary = getattr(diagnostics, "message_primary", None)
    if primary:
        detail = getattr(diagnostics, "message_detail", None)
        return f"{primary}: {detail}" if detail else str(primary)
    return str(cause).partition("\n")[0] or type(cause).__name__


# PEP 249's classes and Python's own, by the beginnings of SQLSTATEs.
PARENTS: dict[str, tuple[str, ...]] = {
    "DatabaseError": ("",),
    "OperationalError": ("08", "40", "53", "55", "57", "58"),
    "ConnectionError": ("08", "57P01", "57P02", "57P03", "57P05", "25P03"),
    "TimeoutError": ("57014", "55P03"),
    "IntegrityError": ("23",),
    "DataError": ("22",),
    "ProgrammingError": ("42", "3F", "3D"),
    "InternalError": ("25", "XX"),
}


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
