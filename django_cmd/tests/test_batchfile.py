# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest
import zstandard

from django_scatter import batchfile
from django_scatter.batchfile import BadBatch, text_of

HEADER = {
    "format": 1, "plan": "p", "batch": 1, "migration": "m", "table": "t", "key": "id",
    "columns": ["a"], "count": 1, "total_batches": None,
}  # fmt: skip


def packed(text: str | bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(text.encode() if isinstance(text, str) else text)


def a_batch(*lines: str, **header: Any) -> bytes:
    return packed("\n".join([json.dumps({**HEADER, "count": len(lines), **header}), *lines]) + "\n")


def test_values_keep_their_text() -> None:
    lines = [
        '[1,"x"]',
        "[2,1.50]",
        "[3,-0]",
        "[4,1e5]",
        "[5,true]",
        "[6,null]",
        "[12345678901234567890,7]",
    ]
    batch = batchfile.parse(a_batch(*lines), "s")
    found = [[text_of(v) for v in batch.record(i)] for i in range(len(lines))]
    assert found == [
        ["1", "x"], ["2", "1.50"], ["3", "-0"], ["4", "1e5"], ["5", "true"], ["6", None],
        ["12345678901234567890", "7"],
    ]  # fmt: skip
    assert batch.record(1)[1] == 1.5
    assert batch.record(4)[1] is True


def test_several_frames_are_one_file() -> None:
    data = packed(json.dumps({**HEADER, "count": 2}) + "\n[1,2]") + packed("\n[2,3]\n")
    assert batchfile.parse(data, "s").record(1) == [2, 3]


def test_digest_is_checked() -> None:
    data = a_batch("[1,2]")
    digest = batchfile.parse(data, "s").sha256
    assert batchfile.parse(data, "s", digest.upper()).sha256 == digest
    with pytest.raises(BadBatch, match="changed after it was planned"):
        batchfile.parse(data, "s", "0" * 64)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"no zstd", "not a zstd file"),
        (a_batch("[1,2]")[:20], "."),
        (packed("not json\n"), "line 1 is not a header"),
        (packed("[1]\n"), "line 1 is not a header"),
        (a_batch("[1,2]", format=2), "format 2, this program reads format 1"),
        (a_batch("[1,2]", plan=None), "header's plan"),
        (a_batch("[1,2]", batch="1"), "header's batch"),
        (a_batch("[1,2]", batch=True), "header's batch"),
        (a_batch("[1,2]", columns="a"), "header's columns"),
        (a_batch("[1,2]", columns=[1]), "columns are not all names"),
        (a_batch("[1,2]", count=2), "has 1 records, its header says 2"),
    ],
)
def test_damaged_files_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(BadBatch, match=words):
        batchfile.parse(data, "s")


@pytest.mark.parametrize(
    "line", ["[1]", "[1,2,3]", "{}", "[null,1]", "[1,", "[1,NaN]", '["\\ud800']
)
def test_damaged_records_are_named_by_line(line: str) -> None:
    batch = batchfile.parse(a_batch("[1,2]", line), "s")
    with pytest.raises(BadBatch, match="line 3"):
        batch.record(1)


def test_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchfile, "MAX_BATCH_BYTES", 1 << 20)
    with pytest.raises(BadBatch, match="larger than"):
        batchfile.parse(packed(b"\n" * (4 << 20)), "s")
