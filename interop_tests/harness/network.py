# SPDX-License-Identifier: Apache-2.0
"""A line to a Redis server that can be cut, so that neither side hears of it.

Where it is permitted the server lives in a network namespace behind a pair of virtual interfaces, and `cut` gives both
ends a wrong hardware address for the other: packets are dropped without a word. Elsewhere a proxy stands between, which
while cut moves nothing; what TCP would send again later waits in it."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import threading
from pathlib import Path

from .processes import Process
from .redis_server import RedisServer, free_port

NOWHERE = "02:00:00:00:de:ad"


def _ip(*args: str, inside: int | None = None) -> str:
    enter = ["nsenter", "-t", str(inside), "-n"] if inside is not None else []
    done = subprocess.run(
        [*enter, "ip", *args], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return done.stdout


class Namespace:
    """The namespace goes with its process; the interfaces go with the namespace."""

    def __init__(self, folder: Path) -> None:
        number = os.getpid() % 16384
        self.near, self.far = f"cr{number}a", f"cr{number}b"
        third, fourth = divmod(number * 4, 256)
        self.here, self.host = f"10.213.{third}.{fourth + 1}", f"10.213.{third}.{fourth + 2}"
        self.process = Process("network", ["unshare", "-n", "sleep", "infinity"], folder)
        self.process.wait_for_namespace()
        pid = self.process.pid
        _ip("link", "add", self.near, "type", "veth", "peer", "name", self.far, "netns", str(pid))
        _ip("addr", "add", f"{self.here}/30", "dev", self.near)
        _ip("link", "set", self.near, "up")
        _ip("addr", "add", f"{self.host}/30", "dev", self.far, inside=pid)
        _ip("link", "set", self.far, "up", inside=pid)
        self.near_mac = self._mac(_ip("-o", "link", "show", self.near))
        self.far_mac = self._mac(_ip("-o", "link", "show", self.far, inside=pid))
        self.heal()

    @staticmethod
    def permitted() -> bool:
        return os.geteuid() == 0 and (
            subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True).returncode
            == 0
        )

    @staticmethod
    def _mac(text: str) -> str:
        words = text.split()
        return words[words.index("link/ether") + 1]

    @property
    def prefix(self) -> list[str]:
        return ["nsenter", "-t", str(self.process.pid), "-n"]

    def _neighbours(self, far: str, near: str) -> None:
        permanent = ["nud", "permanent"]
        _ip("neigh", "replace", self.host, "lladdr", far, "dev", self.near, *permanent)
        pid = self.process.pid
        _ip("neigh", "replace", self.here, "lladdr", near, "dev", self.far, *permanent, inside=pid)

    def cut(self) -> None:
        self._neighbours(NOWHERE, NOWHERE)

    def heal(self) -> None:
        self._neighbours(self.far_mac, self.near_mac)

    def close(self) -> None:
        self.process.stop(0)


class Proxy:
    """One thread; a pair of sockets for each client."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.port = free_port()
        self.whole = threading.Event()
        self.whole.set()
        self.done = False
        self.peers: dict[socket.socket, socket.socket] = {}
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def cut(self) -> None:
        self.whole.clear()

    def heal(self) -> None:
        self.whole.set()

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        upstream = socket.socket(socket.AF_UNIX)
        try:
            upstream.connect(str(self.target))
        except OSError:
            upstream.close()
            client.close()
            return
        for one, other in ((client, upstream), (upstream, client)):
            self.peers[one] = other
            self.selector.register(one, selectors.EVENT_READ)

    def _drop(self, one: socket.socket) -> None:
        for s in (one, self.peers.get(one)):
            if s is not None and s in self.peers:
                del self.peers[s]
                self.selector.unregister(s)
                s.close()

    def _pass_on(self, one: socket.socket) -> None:
        other = self.peers.get(one)
        if other is None:
            return
        try:
            data = one.recv(1 << 16)
            if data:
                other.sendall(data)
            else:
                self._drop(one)
        except OSError:
            self._drop(one)

    def _run(self) -> None:
        while not self.done:
            ready = self.selector.select(0.1)
            self.whole.wait()
            for key, _ in ready:
                if key.fileobj is self.listener:
                    self._accept()
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._pass_on(key.fileobj)

    def close(self) -> None:
        self.done = True
        self.whole.set()
        self.thread.join()
        for s in [self.listener, *self.peers]:
            with contextlib.suppress(OSError):
                s.close()
        self.selector.close()


class Line:
    """`server` is reached by workers at `url()`; the test itself reaches it over its Unix socket, cut or not."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        self.namespace = Namespace(folder) if Namespace.permitted() else None
        self.proxy: Proxy | None = None
        if self.namespace is not None:
            self.server = RedisServer(
                folder,
                options=[*options, "--protected-mode", "no"],  # it is not on the loopback interface
                host=self.namespace.host,
                prefix=self.namespace.prefix,
            )
        else:
            self.server = RedisServer(folder, options=options)
            self.proxy = Proxy(self.server.socket_path)

    def url(self) -> str:
        port = self.proxy.port if self.proxy is not None else self.server.port
        return f"redis://{self.server.host}:{port}/0"

    def _ends(self) -> Namespace | Proxy:
        ends = self.namespace or self.proxy
        assert ends is not None
        return ends

    def cut(self) -> None:
        self._ends().cut()

    def heal(self) -> None:
        self._ends().heal()

    def close(self) -> None:
        self.server.stop()
        self._ends().close()
