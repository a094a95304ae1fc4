# SPDX-License-Identifier: Apache-2.0
"""Serializers, compressions and messages against Python's, value by value: what kombu, PyYAML and msgpack write celeryc
reads as the same, what celeryc writes they read as the same, what they refuse it refuses.

`make properties` runs the round trip of messages 100,000 times (WIRE_MESSAGES)."""

from __future__ import annotations

import json as plain_json
import os
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import yaml
from harness.codec import Codec, RefusedError
from harness.wire_messages import COMPRESSIONS, TYPES, Producer, random_message, read_body
from harness.wire_values import Values, same
from kombu import compression
from kombu.utils import json

MESSAGES = int(os.environ.get("WIRE_MESSAGES", "1000"))
VALUES = 1500

pytestmark = pytest.mark.timeout(120 + MESSAGES // 20)


@pytest.fixture(scope="module")
def codec() -> Iterator[Codec]:
    made = Codec()
    yield made
    made.close()


@pytest.fixture(scope="module")
def producer() -> Iterator[Producer]:
    made = Producer()
    yield made
    made.close()


def dump_yaml(value: Any, seed: int) -> bytes:
    styles = [None, True, False]
    text = yaml.safe_dump(
        value,
        default_flow_style=styles[seed % 3],
        allow_unicode=seed % 2 == 0,
        default_style=[None, None, None, '"', "'"][seed % 5],
    )
    return text.encode()


@pytest.mark.parametrize("serializer", ["msgpack", "yaml"])
def test_what_python_writes_is_read(codec: Codec, serializer: str) -> None:
    for seed in range(VALUES):
        value = Values(seed, serializer).value(4)
        if serializer == "yaml":
            written, op = dump_yaml(value, seed), "y"
            value = yaml.safe_load(written)
        else:
            written, op = msgpack.packb(value), "m"
        read = codec.ask(op, written)
        assert same(json.loads(read), value), (seed, written, read)
        plain_json.loads(read)


@pytest.mark.parametrize("serializer", ["msgpack", "yaml"])
def test_what_is_written_python_reads(codec: Codec, serializer: str) -> None:
    for seed in range(VALUES):
        value = Values(seed, serializer).value(4)
        text = json.dumps(value).encode()
        if serializer == "yaml":
            written = codec.ask("Y", text)
            assert same(yaml.safe_load(written), value), (seed, text, written)
        else:
            # The very bytes that msgpack for Python would write.
            assert codec.ask("M", text) == msgpack.packb(value), (seed, text)


# PyYAML gives the verdict; what it gives must have a form in JSON.
YAML_TEXTS = """
a: 0x1F|b: 0o7|c: 017|d: 1_000|e: 190:20:30|f: 1e3|g: 1.5e+3|h: .5|i: 190:20:30.15|j: -.inf|k: 0b101|l: +12|m: -0
n: '08'|o: 08|p: -0x10|q: 0_7|r: 1.|s: -.5|t: +.5|u: .|v: 1_0.5_0|w: 1:30|x: 1:60|y: 0:5|z: 12e03|y|N|=|{=: 1}|<<|[<<]
a: 0xFFFFFFFFFFFFFFFFFFFFFF|b: 0b11111111111111111111111111111111111111111111111111111111111111111111111|-0o7
c: 07777777777777777777777777777777777|d: 99999999999999999999:59:59|0b|0x|0x_|0_|00|0|-|+|1__0|1.e5|1.e+5|1.5E-3
!!binary aGVsbG8=|!!binary /w==|!!binary '####'|!!binary 'aGk'|!!set {a, b}|!!set [a]|!!set {a: 1}
!!omap [a: 1, b: 2]|!!pairs [a: 1, a: 2]|!!omap [1]|!!omap [{a: 1, b: 2}]|!!omap {a: 1}
2024-01-02|2024-1-2|2024-01-02 03:04:05.5 -5|2024-1-2T3:04:05Z|2024-01-02 03:04:05 +05:30|2024-13-02|2024-02-30
2024-01-02 03:04:05.1234567|2024-01-02 03:04:05.|0001-01-01|0000-01-01|2024-01-02 24:00:00|2024-01-02 03:04:60
2024-01-02 03:04:05 +25:00|2024-01-02 03:04:05 +23:60|2024-01-02t03:04:05z|2024-01-02  03:04:05 Z|2024-01-02 3:4:5
2024-01-02 03:04:05-00:30|2024-01-02T03:04|2024-01-02 03:04:05 +1:30|20240-01-02
{<<: {a: 1}, b: 2, a: 3}|a: {<<: [{x: 1},{x: 2, y: 3}]}|{<<: 1}|{<<: [1]}|{'<<': {a: 1}}|{!!merge x: {a: 1}}
{a: &a {x: 1}, b: {<<: *a, y: 2}}|[&a [1], *a, *a]|[*a]|[&a 1, &a 2]|&a [*a]|&a {b: *a}
!!int '5'|!!int '5.5'|!!int ''|!!int '0x_'|!!int ' 5 '|!!int 1:30|!!int '5 5'|!!int '-'|!!float 5|!!float '5e3'
!!float nan|!!float infinity|!!float '1__2'|!!float '0x10'|!!float 1:30|!!bool yes|!!bool True|!!bool maybe
!!null foo|!!str 5|!!str [1]|!!timestamp '2024-01-02'|!!timestamp foo|!!seq [1]|!!seq {a: 1}|!!map {a: 1}|!!map [1]
! 5|!foo 5|!!python/tuple [1]|!!python/object/apply:os.system ['true']|- |[1,2,]|a: b: c|{|"\\/"|"\\U0001F600"
{1: 2, null: 4, 1.5: 6}|{[1]: 2}|{? a}|{? {a: 1} : 2}|--- 1\n--- 2|%YAML 1.1\n--- 5|--- 5\n...|# nothing
"\\x41\\u00e9\\n"|'it''s'|>\n  folded\n  text|"|\n  literal\n"|a: [b, {c: d}]|'\\ud83d'|\\ud83d|"\\ud83d"|"\\\\ud83d"|"\\\\\\ud83d"|['\\ud83d', "\\uDC00x"]|? a\n: b|[]|{}|''|null|~|True|oFF|on
""".strip().replace("\n", "|")


def has_json_form(value: Any, key: bool = False) -> bool:
    if key:
        return value is None or isinstance(value, str | int | float)
    if isinstance(value, dict):
        return all(has_json_form(k, True) and has_json_form(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(has_json_form(v) for v in value)
    return True


def as_json(value: Any) -> Any:
    """What stands for a value in JSON: sets are lists, keys are text as json.dumps writes them."""
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, dict):
        names = [next(iter(plain_json.loads(plain_json.dumps({k: 0})))) for k in value]
        return {n: as_json(v) for n, v in zip(names, value.values(), strict=True)}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    return value


@pytest.mark.parametrize("text", [t.replace("\\n", "\n") for t in YAML_TEXTS.split("|")])
def test_yaml_as_pyyaml_reads_it(codec: Codec, text: str) -> None:
    try:
        value = yaml.safe_load(text)
        str(value)
        assert has_json_form(as_json(value))
        wanted = as_json(value)
    except Exception:  # noqa: BLE001  whatever it is, it is a refusal
        with pytest.raises(RefusedError):
            codec.ask("y", text.encode())
        return
    read = json.loads(codec.ask("y", text.encode()))
    assert same(read, wanted), (read, wanted)


def test_yaml_that_stands_for_too_much(codec: Codec) -> None:
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        laughs += f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
    with pytest.raises(RefusedError, match="aliases stand for too much"):
        codec.ask("y", laughs.encode())
    merges = "a: &a {x: 1}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        merges += f"{name}: &{name} {{<<: [{','.join(['*' + before] * 9)}]}}\n"
    with pytest.raises(RefusedError, match="too much"):
        codec.ask("y", merges.encode())
    with pytest.raises(RefusedError, match="nested too deep"):
        codec.ask("y", b"[" * 300 + b"]" * 300)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (b"", "ends early"),
        (b"\x92\x01", "ends early"),
        (b"\xdd\xff\xff\xff\xff\x01", "ends early"),
        (b"\xc6\xff\xff\xff\xff\x01", "ends early"),
        (b"\x01\x01", "behind the value"),
        (b"\xc1", "no tag"),
        (b"\xa1\xff", "not UTF-8"),
        (b"\xa3\xed\xa0\x80", "not UTF-8"),
        (b"\xd4\x01\x00", "extension"),
        (b"\xd6\xff\x00\x00\x00\x00", "extension"),
        (b"\x81\xc4\x01a\x01", "bytes as a key"),
        (b"\x81\x90\x01", "as a key"),
        (b"\x91" * 300 + b"\xc0", "too deep"),
    ],
)
def test_msgpack_that_is_refused(codec: Codec, written: bytes, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        codec.ask("m", written)
    # Python reads these, as objects and keys that no JSON has, and nests 1024 deep.
    if why not in ("extension", "bytes as a key", "too deep"):
        with pytest.raises((ValueError, TypeError)):
            msgpack.unpackb(written, raw=False)


def test_msgpack_keys_are_text(codec: Codec) -> None:
    """Better than Celery: Python's own reader refuses keys that are no text; here they become what json.dumps writes."""
    value = {1: "a", -(2**40): "b", None: "c", 1.5: "d", False: "e"}
    assert codec.ask("m", msgpack.packb(value)) == plain_json.dumps(value).encode()


@pytest.mark.parametrize("half", [b"\xca\x3f\x80\x00\x00", b"\xca\x3d\xcc\xcc\xcd"])
def test_msgpack_short_floats(codec: Codec, half: bytes) -> None:
    assert same(json.loads(codec.ask("m", half)), msgpack.unpackb(half))


@pytest.mark.parametrize(
    ("op", "text", "why"),
    [
        ("M", "18446744073709551616", "64 bits"),
        ("M", "-9223372036854775809", "64 bits"),
        ("M", '"\\ud800"', "half a surrogate"),
        ("M", '{"__type__": "decimal", "__value__": "1"}', '"decimal" cannot be written'),
        ("M", '{"__type__": "mine", "__value__": 1}', '"mine" cannot be written'),
        ("M", '{"__type__": "base64", "__value__": "A"}', "damaged"),
        ("Y", '{"__type__": "uuid", "__value__": {"hex": "00"}}', '"uuid" cannot be written'),
        ("Y", '{"__type__": "datetime", "__value__": "tomorrow"}', '"datetime" cannot be'),
    ],
)
def test_what_cannot_be_written_is_refused(codec: Codec, op: str, text: str, why: str) -> None:
    """As kombu refuses it at the client."""
    with pytest.raises(RefusedError, match=why):
        codec.ask(op, text.encode())


@pytest.mark.parametrize(
    "name", ["zlib", "gzip", "bzip2", "bzip", "lzma", "xz", "zstd", "zstandard", "brotli"]
)
def test_compressions(codec: Codec, name: str) -> None:
    for data in (b"", b"x", b"text " * 10_000, bytes(range(256)) * 30, os.urandom(70_000)):
        written, mime = compression.compress(data, "lzma" if name == "xz" else name)
        assert codec.ask("z", written, name) == data
        assert codec.ask("z", written, mime) == data
        assert compression.decompress(codec.ask("Z", data, name), mime) == data
        for cut in {0, len(written) // 2, len(written) - 1}:
            with pytest.raises(RefusedError):
                codec.ask("z", written[:cut], name)


@pytest.mark.parametrize("name", ["zlib", "bzip2", "lzma", "zstd", "brotli"])
def test_a_small_message_cannot_take_all_memory(codec: Codec, name: str) -> None:
    bomb = compression.compress(bytes(80 << 20), name)[0]
    assert len(bomb) < 1 << 20
    with pytest.raises(RefusedError, match="too big"):
        codec.ask("z", bomb, name)


def test_messages_round_trip(codec: Codec, producer: Producer) -> None:
    """Celery writes, celeryc reads and writes again: as a retry and as a new message, in every form that it can write.
    Each time Python reads the same values."""
    forms = [f"{s},{c or ''}" for s in TYPES for c in dict.fromkeys(COMPRESSIONS)]
    refused = 0
    for seed in range(MESSAGES):
        raw = random_message(producer, seed)
        args, kwargs, embed = body = read_body(raw)
        read = json.loads(codec.ask("b", raw))
        assert same(read, plain(body)), (seed, raw)
        kept = codec.ask("r", raw, forms[seed % len(forms)])
        again = read_body(kept)
        again[2] = links(again[2])
        assert same(plain(again), plain([args, kwargs, links(embed)])), (seed, raw, kept)
        try:
            fresh = codec.ask("n", raw, forms[seed // 7 % len(forms)])
        except RefusedError:
            refused += 1  # a value that the form does not have
            continue
        assert same(plain(read_body(fresh)), plain(body)), (seed, raw, fresh)
    assert refused < MESSAGES / 2


def links(embed: Any) -> Any:
    return {k: embed[k] for k in ("callbacks", "errbacks", "chain", "chord")}


def plain(value: Any) -> Any:
    """Signatures as the mappings that they are."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value
