# SPDX-License-Identifier: Apache-2.0
"""The broker goes away in every way that one can, under load, and comes back: each worker consumes again within five
seconds, nothing is lost or run twice, and nobody is taken for dead.

Better than Celery: a Python worker may wait half a minute before it tries again, may come back
without consuming, and loses what it had popped and not noted when the server was killed. `make test` has one round of each
kind, `make chaos` fifty rounds in turn."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from harness.fleet import nothing_left
from harness.messages import message
from harness.network import Line
from harness.redis_server import RedisServer
from harness.sentinels import Sentinels
from harness.waiting import wait_until
from harness.workers import WorkerFactory
from redis.backoff import NoBackoff
from redis.retry import Retry

DURABLE = ["--appendonly", "yes", "--appendfsync", "always"]
BACK_WITHIN_S = 5.0
PAUSE_S = 0.02


class Trickle:
    """Pushes tasks one by one, early-ack and late-ack in turn, each until it is acknowledged by the server of the moment.
    `unsure` are those whose push had to be repeated: they may be there twice."""

    def __init__(self, socket_path: Callable[[], Path], notes: Path) -> None:
        self.socket_path = socket_path
        self.notes = notes
        self.sent: list[str] = []
        self.unsure: set[str] = set()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.thread.join()

    def _push(self, name: str, raw: str) -> bool:
        client = redis.Redis(
            unix_socket_path=str(self.socket_path()), socket_timeout=10, retry=Retry(NoBackoff(), 0)
        )
        try:
            client.lpush("celery", raw)
        except (redis.ConnectionError, redis.TimeoutError):
            self.unsure.add(name)
            return False
        except redis.ReadOnlyError:
            return False
        finally:
            client.close()
        return True

    def _run(self) -> None:
        while not self.stopping.wait(PAUSE_S):
            name = f"{'el'[len(self.sent) % 2]}{len(self.sent)}"
            task = "interop.note" if name[0] == "e" else "interop.note_late"
            raw = json.dumps(message(name, task, [str(self.notes), name, 0.0]))
            while not self._push(name, raw):
                if self.stopping.wait(PAUSE_S):
                    return
            self.sent.append(name)


class Site:
    """Two workers on one queue, each with one of its own besides, and the server they are at."""

    def __init__(
        self,
        workers: WorkerFactory,
        folder: Path,
        server: Callable[[], RedisServer],
        url: str,
        settings: dict[str, object] | None = None,
    ) -> None:
        self.server = server
        self.url = url
        self.trickle = Trickle(lambda: server().socket_path, folder / "notes")
        self.n_probes = 0
        self.workers = [
            workers.start(
                "celeryc", url, queues=["celery", f"own{n}"], settings=settings, wait=False
            )
            for n in range(2)
        ]
        for worker in self.workers:
            worker.wait_ready()
        self.incarnations = self._incarnations()
        assert len(self.incarnations) == 2
        self.trickle.start()

    def _incarnations(self) -> set[bytes]:
        return set(self.server().client().zrange("celeryc:workers", 0, -1))

    def push_probes(self) -> list[str]:
        """One task for each worker, that no other one can take."""
        names = []
        for n in range(len(self.workers)):
            self.n_probes += 1
            name = f"probe{self.n_probes}"
            raw = json.dumps(message(name, "examples.add", [1, 2]))
            self.server().client().lpush(f"own{n}", raw)
            names.append(name)
        return names

    def consumed(self, names: list[str]) -> bool:
        keys = [f"celery-task-meta-{name}" for name in names]
        return bool(self.server().client().exists(*keys) == len(names))

    def consumes_by(self, deadline: float) -> None:
        names = self.push_probes()
        left = max(deadline - time.monotonic(), 0.1)
        wait_until(lambda: self.consumed(names), "both workers consume again", left)

    def round(self, fault: Callable[[Site], float]) -> None:
        self.consumes_by(time.monotonic() + BACK_WITHIN_S)
        back = fault(self)
        self.consumes_by(back + BACK_WITHIN_S)
        assert all(w.process.alive for w in self.workers)

    def check(self) -> None:
        names = self.trickle.sent
        wait_until(lambda: len(names) >= 100, "enough was sent", 60.0)
        self.trickle.stop()
        client = self.server().client()

        def all_there() -> bool:
            return bool(client.exists(*(f"celery-task-meta-{n}" for n in names)) == len(names))

        wait_until(all_there, "every task has a result", 60.0)
        for name in names:
            assert json.loads(client.get(f"celery-task-meta-{name}"))["status"] == "SUCCESS", name
        lines = self.trickle.notes.read_text().splitlines()
        begun = Counter(line.split()[1] for line in lines if line.startswith("s "))
        twice = {n for n, times in begun.items() if times > 1}
        assert twice <= self.trickle.unsure, "nothing ran twice"
        assert self._incarnations() == self.incarnations
        for worker in self.workers:
            log = worker.process.log()
            assert "is dead" not in log, "no live worker is taken for dead"
            assert "gone deaf" not in log
        nothing_left(self.server(), deadline_s=30.0)


def until_it_answers(server: RedisServer) -> float:
    def answers() -> bool:
        try:
            return bool(server.client().ping())
        except redis.RedisError:
            return False

    wait_until(answers, "the server is back", 30.0)
    return time.monotonic()


def hold(seconds: float) -> None:
    """The length of an outage is what is tested, so it is waited out."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, "the outage is over", seconds + 5)


def restart(site: Site) -> float:
    server = site.server()
    server.kill_9()
    hold(1.5)
    server.start()
    return time.monotonic()


def kill_clients(site: Site) -> float:
    """Each connection of each worker in turn, then all at once."""
    client = site.server().client()
    ours = [c for c in client.client_list() if c["name"].startswith("celeryc")]
    assert len({c["name"] for c in ours}) >= 4, "commands, waiter, subscriber, control"
    for connection in ours:
        client.client_kill_filter(_id=connection["id"], skipme=True)
        site.consumes_by(time.monotonic() + BACK_WITHIN_S)
    for connection in client.client_list():
        if connection["name"].startswith("celeryc"):
            client.client_kill_filter(_id=connection["id"], skipme=True)
    return time.monotonic()


def stop(site: Site) -> float:
    process = site.server().process
    process.send_signal(signal.SIGSTOP)
    hold(3.0)
    process.send_signal(signal.SIGCONT)
    return until_it_answers(site.server())


def pause(site: Site) -> float:
    site.server().client().execute_command("CLIENT", "PAUSE", "3000", "ALL")
    return until_it_answers(site.server())


FAULTS = {"restart": restart, "kill-clients": kill_clients, "sigstop": stop, "pause": pause}


@pytest.fixture
def plain_site(tmp_path: Path, workers: WorkerFactory) -> Iterator[Site]:
    server = RedisServer(tmp_path / "redis", options=DURABLE)
    site = Site(workers, tmp_path, lambda: server, server.url())
    yield site
    site.trickle.stop()
    workers.stop_all()
    server.stop()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path / "line", DURABLE)
    yield made
    made.heal()
    made.close()


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    made = Sentinels(tmp_path / "sentinels", DURABLE)
    yield made
    made.close()


@pytest.fixture
def cut_site(tmp_path: Path, workers: WorkerFactory, line: Line) -> Iterator[Site]:
    site = Site(workers, tmp_path, lambda: line.server, line.url())
    yield site
    site.trickle.stop()
    workers.stop_all()


@pytest.fixture
def master_site(tmp_path: Path, workers: WorkerFactory, sentinels: Sentinels) -> Iterator[Site]:
    site = Site(workers, tmp_path, sentinels.master, sentinels.url(), sentinels.settings())
    yield site
    site.trickle.stop()
    workers.stop_all()


def drop_packets(line: Line, seconds: float) -> Callable[[Site], float]:
    def fault(site: Site) -> float:
        line.cut()
        hold(seconds)
        line.heal()
        return time.monotonic()

    return fault


def fail_over(sentinels: Sentinels) -> Callable[[Site], float]:
    """Every connection leaves the old master on the Sentinels' word alone; it has not hung up."""
    switched = 0.0

    def moved(old: RedisServer) -> None:
        nonlocal switched
        switched = time.monotonic()

        def left() -> bool:
            return not any(c["name"].startswith("celeryc") for c in old.client().client_list())

        wait_until(left, "every connection has left the old master", BACK_WITHIN_S)

    def fault(site: Site) -> float:
        sentinels.fail_over_cleanly(moved)
        return switched

    return fault


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_one_round(fault: str, plain_site: Site) -> None:
    plain_site.round(FAULTS[fault])
    plain_site.check()


def test_one_round_of_dropped_packets(line: Line, cut_site: Site) -> None:
    cut_site.round(drop_packets(line, 4.0))
    cut_site.check()


def test_one_round_of_failover(sentinels: Sentinels, master_site: Site) -> None:
    master_site.round(fail_over(sentinels))
    master_site.check()


# Fifty rounds: 32 of the first four kinds, 10 of dropped packets of 1 to 20 s, 8 of failover.


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_many_rounds(plain_site: Site) -> None:
    for n in range(32):
        plain_site.round(list(FAULTS.values())[n % len(FAULTS)])
    plain_site.check()


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_many_rounds_of_dropped_packets(line: Line, cut_site: Site) -> None:
    for seconds in (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0):
        cut_site.round(drop_packets(line, seconds))
    cut_site.check()


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_many_rounds_of_failover(sentinels: Sentinels, master_site: Site) -> None:
    for _ in range(8):
        master_site.round(fail_over(sentinels))
    master_site.check()
