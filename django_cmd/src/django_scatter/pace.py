# SPDX-License-Identifier: Apache-2.0
"""How many records the next chunk takes, and the next piece of one. celeryc does the same (celeryc/migrate/work.c)."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

CHUNK_FIRST = 200
CHUNK_MIN = 50
CHUNK_MAX = 5000
PIECE_ROWS = 60  # what a piece costs besides its rows, in rows, and what a refusal makes of it
PIECE_MIN = 50
STATEMENT_ROWS = 100  # what a chunk costs besides its rows, in rows: round trips, commit
TRIED_MEMORY = 200_000  # records after which half of what was learnt about refusals is forgotten


class Pace:
    """Chunk size follows time: weighted rows over weighted seconds."""

    def __init__(self, target_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.target_s = target_s
        self.size = CHUNK_FIRST
        self.rows = 0.0
        self.seconds = 0.0
        self.begun = 0.0
        self.tried = self.refused = 0.0  # records: how often the database refuses one
        self.in_pieces = False  # then a refused record costs little, whatever the chunk's size

    def begin(self, target_s: float = 0.0) -> None:
        """target_s 0: the worker's own."""
        if target_s not in (0.0, self.target_s):
            self.target_s = target_s
            self.resize()
        self.begun = self.clock()

    def spent(self, times: float) -> bool:
        """The chunk has taken so many times what one aims at: a slow function must not keep orders waiting, nor hold the
        batch until the lease has ended."""
        return self.clock() - self.begun > times * self.target_s

    def end(self, rows: int) -> None:
        self.rows = self.rows * 0.75 + rows
        self.seconds = self.seconds * 0.75 + max(1e-6, self.clock() - self.begun)
        self.resize()

    def timed_out(self) -> None:
        """Chunks were too large for what else goes on in the database."""
        self.rows /= 2
        self.resize()

    def learn_refusals(self, rows: int, refused: int) -> None:
        self.tried += rows
        self.refused += refused
        if self.tried > TRIED_MEMORY:
            self.tried /= 2
            self.refused /= 2

    def piece_size(self) -> int:
        """The rarer refusals are, the larger are the pieces."""
        if not self.refused:
            return sys.maxsize
        return max(PIECE_MIN, int(math.sqrt(PIECE_ROWS * self.tried / self.refused)))

    def resize(self) -> None:
        """A refused record costs what stands in front of it in its chunk once more: where there are some, the cheapest
        chunk is the one whose share of that is as large as its share of a statement's own cost."""
        if self.seconds:
            wanted = self.rows / self.seconds * self.target_s
            if self.refused and not self.in_pieces:
                wanted = min(wanted, math.sqrt(STATEMENT_ROWS * self.tried / self.refused))
            self.size = int(min(CHUNK_MAX, max(CHUNK_MIN, wanted)))
