# SPDX-License-Identifier: Apache-2.0
"""The batch file, format 1: zstd over NDJSON, a header object and one array per record.

Records are decoded when they are needed: a batch of a million lines is kept as bytes. Numbers keep the text that they
have in the file, because the guard compares texts.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zstandard

from django_scatter.errors import ScatterError

FORMAT = 1
MAX_BATCH_BYTES = 2 << 30
READ_BYTES = 1 << 20


class BadBatch(ScatterError):
    """The object is not what the plan says; no retry mends it."""


class RawFloat(float):
    """A JSON number with fraction or exponent that remembers its text."""

    text: str

    def __new__(cls, text: str) -> RawFloat:
        made = super().__new__(cls, text)
        made.text = text
        return made


class RawInt(int):
    """A JSON integer whose text is not the usual one (-0)."""

    text: str


def parse_int(text: str) -> int:
    value = int(text)
    if str(value) == text:
        return value
    raw = RawInt(value)
    raw.text = text
    return raw


def refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


DECODER = json.JSONDecoder(
    parse_float=RawFloat, parse_int=parse_int, parse_constant=refuse_constant
)


def text_of(value: Any) -> str | None:
    """The text form of a value of a batch file."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (RawFloat, RawInt)):
        return value.text
    return str(value)


@dataclass
class Batch:
    """One batch: what its header says, and its record lines."""

    plan: str
    batch: int
    migration: str
    table: str
    key: str
    columns: list[str]
    count: int
    total_batches: int | None
    lines: Sequence[bytes]
    source: str = ""
    sha256: str = ""
    statement: str | None = None  # of a migration in SQL

    def __post_init__(self) -> None:
        self.keys = key_columns(self.key)

    def record(self, position: int) -> list[Any]:
        """[key, ..., old value, ...] of record `position`, 0 being the first."""
        try:
            found = DECODER.decode(self.lines[position].decode("utf-8"))
        except (ValueError, UnicodeDecodeError) as e:
            raise BadBatch(f"{self.source}: line {position + 2} is not JSON: {e}") from e
        width = len(self.keys) + len(self.columns)
        if not isinstance(found, list) or len(found) != width:
            raise BadBatch(f"{self.source}: line {position + 2} is not an array of {width} values")
        if None in found[: len(self.keys)]:
            raise BadBatch(f"{self.source}: line {position + 2} has no key")
        return found


def key_columns(key: str) -> list[str]:
    """The columns of a key, of which there may be several: "region,number"."""
    return [c.strip() for c in key.split(",")]


def key_text(values: Sequence[str | None]) -> str:
    """A key as the control tables keep it: the text of a single column, or a JSON array of them."""
    if len(values) == 1:
        return values[0] or ""
    return json.dumps(list(values), ensure_ascii=False)


def parse(data: bytes, source: str, sha256: str | None = None) -> Batch:
    """Checks digest, header and number of lines."""
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and digest != sha256.lower():
        raise BadBatch(
            f"{source} has SHA-256 {digest}, the plan says {sha256}: "
            "the object was changed after it was planned"
        )
    lines = decompress(data, source).split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        raise BadBatch(f"{source} is empty")
    try:
        header = json.loads(lines[0])
        assert isinstance(header, dict)
    except (ValueError, AssertionError):
        raise BadBatch(f"{source}: line 1 is not a header object") from None
    return from_header(header, lines[1:], source, digest)


def decompress(data: bytes, source: str) -> bytes:
    """All frames of the object, no more than MAX_BATCH_BYTES."""
    found = bytearray()
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True)
    try:
        while True:
            part = reader.read(READ_BYTES)
            if not part:
                break
            found += part
            if len(found) > MAX_BATCH_BYTES:
                raise BadBatch(f"{source} is larger than {MAX_BATCH_BYTES:,} bytes inside")
    except zstandard.ZstdError as e:
        raise BadBatch(f"{source} is not a zstd file: {e}") from e
    return bytes(found)


def from_header(header: dict[str, Any], lines: list[bytes], source: str, digest: str) -> Batch:
    version = header.get("format")
    if version != FORMAT:
        raise BadBatch(f"{source} has format {version!r}, this program reads format {FORMAT}")
    try:
        batch = Batch(
            plan=expect(header, "plan", str),
            batch=expect(header, "batch", int),
            migration=expect(header, "migration", str),
            table=expect(header, "table", str),
            key=expect(header, "key", str),
            columns=expect(header, "columns", list),
            count=expect(header, "count", int),
            total_batches=header.get("total_batches"),
            statement=header.get("statement"),
            lines=lines,
            source=source,
            sha256=digest,
        )
    except (KeyError, TypeError) as e:
        raise BadBatch(f"{source}: the header's {e.args[0]} is missing or of the wrong type") from e
    if "" in batch.keys or len(set(batch.keys)) != len(batch.keys):
        raise BadBatch(f"{source}: the header's key has an empty or repeated name")
    if not all(isinstance(c, str) for c in batch.columns):
        raise BadBatch(f"{source}: the header's columns are not all names")
    if len(lines) != batch.count:
        raise BadBatch(f"{source} has {len(lines):,} records, its header says {batch.count:,}")
    return batch


def expect(header: dict[str, Any], name: str, kind: type) -> Any:
    value = header[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(name)
    return value
