# SPDX-License-Identifier: Apache-2.0
"""Errors for people: every text names what was found and what would help."""

from __future__ import annotations


class ScatterError(Exception):
    """Something that the user can mend; commands show it as a CommandError."""
