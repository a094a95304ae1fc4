# SPDX-License-Identifier: Apache-2.0
"""Errors for people: every text names what was found and what would help."""

from __future__ import annotations


class ScatterError(Exception):
    """Something that the user can mend; commands show it as a CommandError."""


class SchemaError(ScatterError):
    """A table or column that is not there: no record of the plan would fare better."""

    def __init__(self, text: str, sqlstate: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
