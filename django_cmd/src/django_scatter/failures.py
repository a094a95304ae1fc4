# SPDX-License-Identifier: Apache-2.0
"""Why a batch stopped, in the words of the control tables."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import Error

from django_scatter import sqlstates, store
from django_scatter.chunk import told
from django_scatter.errors import SchemaError
from django_scatter.migration import Retry
from django_scatter.sqlstates import Kind


@dataclass
class Failure:
    """Why a batch stopped: the exception, and what the database called it."""

    error: Exception
    error_class: str
    sqlstate: str
    text: str
    transient: bool  # may pass by itself: worth another try without being asked
    action: str = ""  # what becomes of it, where known: retry, fail-batch, fail-plan, postpone
    retry: Retry | None = None  # the migration's own rule for it

    def __str__(self) -> str:
        return f"{self.error_class}{' ' if self.sqlstate else ''}{self.sqlstate}: {self.text}"


class Stopped(Exception):
    """A record ends the work in front of it; what stood before it is written."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


def failure_of(error: Exception) -> Failure:
    if isinstance(error, Error):
        sqlstate = sqlstates.sqlstate_of(error)
        transient = sqlstates.kind_of(sqlstate) is Kind.RETRY
        text = told(sqlstates.text_of(error))
        return Failure(error, sqlstates.class_of(sqlstate), sqlstate, text, transient)
    if isinstance(error, SchemaError):
        sqlstate = error.sqlstate
        return Failure(error, sqlstates.class_of(sqlstate), sqlstate, told(error), False)
    transient = isinstance(error, (store.StoreUnavailable, MemoryError))
    return Failure(error, type(error).__name__, "", told(error), transient)
