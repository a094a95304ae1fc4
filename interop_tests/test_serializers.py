# SPDX-License-Identifier: Apache-2.0
"""Serializers, compressions and signed messages between Python and celeryc, on a real queue in both directions: the
Python worker first, then celeryc. Every combination of values is in test_wire_oracle.py."""

from __future__ import annotations

import base64
import json
import math
import pickle
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from harness.canvas import chain, chord, echo, fail, task
from harness.client import Client
from harness.messages import message
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.wire_values import same
from harness.workers import Worker, WorkerFactory, celeryc

MakeClient = Callable[..., Client]

ACCEPT = {"accept_content": ["json", "msgpack", "yaml"]}
KINDS = ["python", "celeryc"]
OTHER = {"python": "celeryc", "celeryc": "python"}

PLAIN = [
    0,
    -1,
    1.0,
    0.1,
    1e22,
    math.inf,
    math.nan,
    "",
    "text",
    "yes",
    "😀 é",
    None,
    True,
    [1, [2]],
    {"a": 1, "b": [None]},
]
WITH_BYTES = [*PLAIN, b"text", b"\xff\x00", 2**63]
WITH_TIMES = [
    *PLAIN,
    b"\xff\x00",
    2**70,
    datetime(2024, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    date(2024, 2, 29),
]
WITH_ALL = [*WITH_TIMES, Decimal("1.10"), uuid.UUID(int=7), "\ud83d"]
VALUES = {"json": WITH_ALL, "msgpack": WITH_BYTES, "yaml": WITH_TIMES}


@dataclass
class Place:
    """A worker of one kind alone on one database."""

    worker: Worker
    redis: RedisServer
    url: str
    db: int


@pytest.fixture(scope="module")
def places(
    shared_redis: RedisServer, plugins: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Place]]:
    """Both take everything and write JSON; each also has a queue of its own name."""
    factory = WorkerFactory(tmp_path_factory.mktemp("serializers"), plugins)
    made = {}
    try:
        for db, kind in enumerate(KINDS, 12):
            url = shared_redis.socket_url(db)
            worker = factory.start(kind, url, settings=ACCEPT, wait=False)
            made[kind] = Place(worker, shared_redis, url, db)
        for place in made.values():
            place.worker.wait_ready()
        yield made
    finally:
        factory.stop_all()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, places: dict[str, Place]) -> Place:
    return places[request.param]


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml"])
def test_values_survive(
    place: Place, make_client: MakeClient, serializer: str, compression: str
) -> None:
    client = make_client(place.url)
    value = VALUES[serializer]
    outcome = client.call("examples.echo", value, serializer=serializer, compression=compression)
    assert outcome.state == "SUCCESS"
    assert same(outcome.value, value), outcome.value


@pytest.mark.parametrize(
    "name", ["zlib", "gzip", "bzip2", "bzip", "lzma", "xz", "zstd", "zstandard", "brotli"]
)
def test_compressions_are_read(place: Place, make_client: MakeClient, name: str) -> None:
    text = "compress me " * 1000
    outcome = make_client(place.url).call(
        "examples.echo", text, serializer="msgpack", compression=name
    )
    assert outcome.value == text


@pytest.mark.parametrize("compression", [None, "zlib", "bzip2", "lzma"])
@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml"])
def test_an_old_client(
    places: dict[str, Place], make_client: MakeClient, serializer: str, compression: str
) -> None:
    """Debian's 5.2 to celeryc; its JSON has no typed values."""
    client = make_client(places["celeryc"].url, version="debian-5.2")
    outcome = client.call("examples.echo", PLAIN, serializer=serializer, compression=compression)
    assert same(outcome.value, PLAIN)


def take_message(place: Place, queue: str) -> dict[str, Any]:
    """From a queue that nobody serves."""
    r = place.redis.client(place.db)
    wait_until(lambda: r.llen(queue) == 1, f"a message on {queue}")
    envelope = json.loads(r.rpop(queue))
    assert isinstance(envelope, dict)
    return envelope


@pytest.mark.parametrize(
    ("serializer", "compression", "content_type", "encoding", "mime"),
    [
        ("msgpack", None, "application/x-msgpack", "binary", None),
        ("yaml", "bzip", "application/x-yaml", "utf-8", "application/x-bz2"),
        ("json", "xz", "application/json", "utf-8", "application/x-lzma"),
    ],
)
def test_options_of_a_signature(
    place: Place,
    make_client: MakeClient,
    serializer: str,
    compression: str | None,
    content_type: str,
    encoding: str,
    mime: str | None,
) -> None:
    """The step says how its message is written; the worker that publishes it obeys."""
    queue = f"nobody-{uuid.uuid4()}"
    options = {"serializer": serializer, "compression": compression}
    step = echo(queue=queue, **{k: v for k, v in options.items() if v})
    make_client(place.url).apply(chain(echo([1, "x"]), step))
    envelope = take_message(place, queue)
    assert envelope["content-type"] == content_type
    assert envelope["content-encoding"] == encoding
    assert envelope["headers"].get("compression") == mime
    place.redis.client(place.db).lpush("celery", json.dumps(envelope))
    assert make_client(place.url).get(envelope["headers"]["id"]).value == [1, "x"]


def test_unknown_options_of_a_signature(places: dict[str, Place], make_client: MakeClient) -> None:
    for option in ({"serializer": "nonsense"}, {"compression": "nonsense"}):
        client = make_client(places["celeryc"].url)
        sent = client.apply(chain(echo(1, task_id=(first := str(uuid.uuid4()))), echo(**option)))
        del sent
        wait_until(lambda: client.meta(first).state == "FAILURE", "the sender has failed")  # noqa: B023
        assert "nonsense is not supported" in str(client.meta(first).exc_args)


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("serializer", ["msgpack", "yaml"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_worker_writes(
    shared_redis: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    kind: str,
    serializer: str,
    compression: str | None,
) -> None:
    """task_serializer and task_compression of the worker hold for what it publishes: retries, steps, callbacks; the other
    kind of worker reads them."""
    db = 14
    shared_redis.client(db).flushdb()
    url = shared_redis.socket_url(db)
    settings = ACCEPT | {"task_serializer": serializer, "task_compression": compression}
    workers.start(kind, url, settings=settings, wait=False)
    workers.start(OTHER[kind], url, settings=ACCEPT, queues=["other"], wait=False)
    for worker in workers.workers:
        worker.wait_ready()
    client = make_client(url)
    value = VALUES[serializer]
    steps = [echo(queue="other"), echo(), echo(queue="other")]
    assert same(client.get(client.apply(chain(echo(value), *steps))).value, value)
    assert client.call("examples.flaky", "key", 3).value == 3
    queue = f"nobody-{uuid.uuid4()}"
    client.apply(chain(echo(1), echo(queue=queue)))
    place = Place(workers.workers[0], shared_redis, url, db)
    envelope = take_message(place, queue)
    assert envelope["content-type"] == f"application/x-{serializer}"
    assert envelope["headers"].get("compression") == ("application/zstd" if compression else None)


def test_a_retry_that_the_serializer_cannot_write(
    shared_redis: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    """Better than Celery: decimals and the like have no form in msgpack, and Python fails the task; celeryc writes this
    one as JSON."""
    url = shared_redis.socket_url(14)
    workers.start("celeryc", url, settings=ACCEPT | {"task_serializer": "msgpack"}).wait_ready()
    client = make_client(url)
    errback = echo(Decimal("1.10"), immutable=True)
    assert client.get(client.apply(task("examples.flaky", "key", 3, errbacks=[errback]))).value == 3


# ---- refused ----


def refused_messages() -> dict[str, tuple[str, bytes, str]]:
    body: Any = [[1], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    return {
        "pickle": ("application/x-python-serialize", pickle.dumps(body), "task_serializer = "),
        "msgpack": (
            "application/x-msgpack",
            msgpack.packb(body),
            'add "msgpack" to accept_content',
        ),
        "yaml": ("application/x-yaml", json.dumps(body).encode(), 'add "yaml" to accept_content'),
        "unknown": ("text/nonsense", b"hello", "celeryc reads json, msgpack, yaml and auth"),
        "unsigned": ("application/data", b"hello", 'add "auth" to accept_content'),
    }


@pytest.mark.parametrize("name", refused_messages())
def test_refused_content(
    shared_redis: RedisServer, workers: WorkerFactory, make_client: MakeClient, name: str
) -> None:
    """Better than Celery, which drops such a message: whoever waits for its result waits for ever."""
    url = shared_redis.socket_url(14)
    r = shared_redis.client(14)
    r.flushdb()
    workers.start("celeryc", url, settings={"accept_content": ["json", "pickle"]}).wait_ready()
    content_type, body, fix = refused_messages()[name]
    envelope = message(str(uuid.uuid4()), "examples.echo", [1])
    envelope |= {"content-type": content_type, "body": base64.b64encode(body).decode()}
    r.lpush("celery", json.dumps(envelope))
    outcome = make_client(url).get(envelope["headers"]["id"])
    assert outcome.state == "FAILURE"
    assert outcome.exc_type == "ContentDisallowed"
    assert outcome.exc_module == "kombu.exceptions"
    assert "Refusing to deserialize untrusted content" in str(outcome.exc_args)
    assert fix in str(outcome.exc_args)
    (parked,) = r.lrange("celeryc:dead:celery", 0, -1)
    assert json.loads(base64.b64decode(json.loads(parked)["raw"])) == envelope


def test_a_chord_hears_of_a_refused_member(
    shared_redis: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    """Better than Celery: with Python workers alone such a chord never ends."""
    url = shared_redis.socket_url(14)
    workers.start("celeryc", url).wait_ready()
    client = make_client(url)
    sent = client.apply(chord([echo(1), echo(2, serializer="msgpack")], echo()))
    wait_until(lambda: client.meta(sent).state == "FAILURE", "the chord has failed")
    assert client.meta(sent).exc_type == "ChordError"
    assert "ContentDisallowed" in str(client.meta(sent).exc_args)


# ---- signed ----


class Authority:
    """Keys and self-signed certificates in files; `store` holds the certificates that are trusted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.store.mkdir()

    def make(
        self, name: str, *, trusted: bool = True, days: int = 10, password: str | None = None
    ) -> dict[str, Any]:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        issuer = x509.Name(
            [
                x509.NameAttribute(NameOID.COUNTRY_NAME, "CZ"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Žluťoučký a syn"),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(issuer)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=20))
            .not_valid_after(now + timedelta(days=days))
            .sign(key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (self.folder / f"{name}.crt").write_bytes(pem)
        if trusted:
            (self.store / f"{name}.crt").write_bytes(pem)
        encryption: Any = serialization.NoEncryption()
        if password:
            encryption = serialization.BestAvailableEncryption(password.encode())
        (self.folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
            )
        )
        settings = {
            "task_serializer": "auth",
            "accept_content": ["auth"],
            "result_accept_content": ["json"],
            "security_key": str(self.folder / f"{name}.key"),
            "security_certificate": str(self.folder / f"{name}.crt"),
            "security_cert_store": str(self.store),
        }
        return settings | ({"security_key_password": password} if password else {})


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize("digest", ["sha256", "sha512", "sha3_256"])
def test_signed_messages_both_ways(
    shared_redis: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    authority: Authority,
    digest: str,
) -> None:
    """A Python client signs; steps go from celeryc to a Python worker and back, each signing what it publishes."""
    url = shared_redis.socket_url(14)
    shared_redis.client(14).flushdb()
    more = {"security_digest": digest}
    of = {name: authority.make(name) | more for name in ("client", "python")}
    of["celeryc"] = authority.make("celeryc", password="secret") | more
    for kind in KINDS:
        workers.start(
            kind,
            url,
            queues=["celery" if kind == "celeryc" else "other"],
            settings=of[kind],
            wait=False,
        )
    for worker in workers.workers:
        worker.wait_ready()
    client = make_client(url, **of["client"])
    value = [2**70, math.nan, "😀", Decimal("1.10"), {"b": 1, "a": b"\xff"}]
    sent = client.apply(chain(echo(value), echo(queue="other"), echo(), echo(queue="other")))
    assert same(client.get(sent).value, value)
    assert client.call("examples.flaky", "key", 3).value == 3
    sent = client.apply(chord([echo(1), echo(2, queue="other")], echo()))
    assert client.get(sent).value == [1, 2]


def test_untrusted_messages_are_refused(
    shared_redis: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    authority: Authority,
    tmp_path: Path,
) -> None:
    """Better than Celery, which drops all of these: the failure is stored and says why."""
    url = shared_redis.socket_url(14)
    r = shared_redis.client(14)
    r.flushdb()
    own = authority.make("celeryc")
    stranger = authority.make("stranger", trusted=False)
    workers.start("celeryc", url, settings=own).wait_ready()
    client = make_client(url, **stranger)
    unknown = client.call("examples.echo", 1)
    assert "Unknown certificate" in str(unknown.exc_args)

    own_client = make_client(url, **own)
    queue = "nobody"
    own_client.apply(echo("pay 1 euro", queue=queue))
    place = Place(workers.workers[0], shared_redis, url, 14)
    good = take_message(place, queue)
    fields = base64.b64decode(base64.b64decode(good["body"]))
    forged = base64.b64encode(base64.b64encode(fields.replace(b"pay 1 euro", b"pay 9 euro")))
    for body, why in (
        (forged.decode(), "Bad signature"),
        (base64.b64encode(base64.b64encode(b"[[1], {}, {}]")).decode(), "not signed"),
        (
            base64.b64encode(
                base64.b64encode(fields.replace(b"application/json", b"text/plain"))
            ).decode(),
            "text/plain",
        ),
    ):
        task_id = str(uuid.uuid4())
        again = good | {"body": body, "headers": good["headers"] | {"id": task_id}}
        r.lpush("celery", json.dumps(again))
        outcome = own_client.get(task_id)
        assert outcome.state == "FAILURE"
        assert why in str(outcome.exc_args)

    # Without a signature nothing of a message counts, not even who is to be told of its failure.
    marks = tmp_path / "errbacks"
    errback: dict[str, Any] = {
        "task": "interop.note_failure",
        "args": [str(marks)],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    task_id = str(uuid.uuid4())
    r.lpush(
        "celery", json.dumps(message(task_id, "examples.echo", [1], embed={"errbacks": [errback]}))
    )
    assert own_client.get(task_id).exc_type == "ContentDisallowed"
    assert own_client.call("examples.echo", 5).value == 5
    assert not marks.exists()
    assert r.llen("celeryc:dead:celery") == 5


@pytest.mark.parametrize("serializer", ["msgpack", "yaml", "auth"])
@pytest.mark.parametrize("kind", KINDS)
def test_remote_control(
    shared_redis: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    authority: Authority,
    kind: str,
    serializer: str,
) -> None:
    """Commands and replies are written with task_serializer too, and read by accept_content."""
    url = shared_redis.socket_url(14)
    settings = {"task_serializer": serializer, "accept_content": [serializer]}
    if serializer == "auth":
        settings = authority.make("both")
    worker = workers.start(kind, url, settings=settings).wait_ready()
    client = make_client(url, **settings)
    assert client.request("ping", node=worker.node) == [{worker.node: {"ok": "pong"}}]


def test_wrong_keys_are_named(authority: Authority, tmp_path: Path) -> None:
    good = authority.make("worker")
    secret = authority.make("secret", password="right")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"accept_content": ["auth"]}, "security_cert_store"),
        (good | {"security_key": str(tmp_path / "none.key")}, "security_key: cannot read"),
        (good | {"security_key": good["security_certificate"]}, "is not a private key"),
        (good | {"security_key": secret["security_key"]}, "without security_key_password"),
        (secret | {"security_key_password": "wrong"}, "security_key_password is wrong"),
        (good | {"security_certificate": good["security_key"]}, "is not a certificate"),
        (secret | {"security_certificate": good["security_certificate"]}, "does not belong to"),
        (good | {"security_cert_store": str(tmp_path / "none")}, "no certificates in"),
        (good | {"security_digest": "sha0"}, "sha0 is not a digest"),
        (good | {"accept_content": ["nonsense"]}, "accept_content"),
        ({"task_serializer": "pickle"}, "task_serializer: pickle cannot be written"),
        ({"task_compression": "rar"}, "task_compression: rar is not a compression"),
    ]
    config = tmp_path / "config.json"
    for settings, why in cases:
        config.write_text(json.dumps(settings))
        ended = celeryc("worker", "-b", "redis://localhost:1/0", "--config", config)
        assert ended.returncode != 0
        assert why in ended.stderr, (settings, ended.stderr)
        assert "right" not in ended.stderr
    authority.make("old", days=-1)
    config.write_text(json.dumps(good))
    ended = celeryc("worker", "-b", "redis://localhost:1/0", "--config", config)
    assert "has expired" in ended.stderr


def test_call_signs(
    shared_redis: RedisServer, workers: WorkerFactory, authority: Authority, tmp_path: Path
) -> None:
    """`celeryc call` writes as its settings say, and a Python worker takes it."""
    url = shared_redis.socket_url(14)
    shared_redis.client(14).flushdb()
    config = tmp_path / "config.json"
    config.write_text(json.dumps(authority.make("caller")))
    workers.start("python", url, settings=authority.make("python")).wait_ready()
    arguments = ["examples.add", "--args", "[2, 3]", "-b", url, "--result-backend", url]
    ended = celeryc("call", *arguments, "--config", config, "--wait")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "5"


def test_failures_of_signed_chains(
    shared_redis: RedisServer, workers: WorkerFactory, make_client: MakeClient, authority: Authority
) -> None:
    """Errbacks are messages of the worker too."""
    url = shared_redis.socket_url(14)
    settings = authority.make("celeryc")
    workers.start("celeryc", url, settings=settings).wait_ready()
    client = make_client(url, **settings)
    path = authority.folder / "marks"
    sent = client.apply(fail("no", errbacks=[task("interop.note_failure", str(path))]))
    assert client.get(sent).state == "FAILURE"
    wait_until(path.exists, "the errback has run")
