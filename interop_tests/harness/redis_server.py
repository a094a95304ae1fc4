# SPDX-License-Identifier: Apache-2.0
"""A private redis-server on a Unix socket and a loopback port."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis

from .processes import Process
from .waiting import wait_until

SEP = "\x06\x16"
N_DATABASES = 64


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        assert isinstance(port, int)
        return port


class RedisServer:
    """`url(db)` over TCP and `socket_url(db)` name it in Celery's forms; `client(db)` is a raw connection pool, over the
    socket. `prefix` is put before the command line (nsenter, say)."""

    def __init__(
        self,
        folder: Path,
        password: str | None = None,
        acl_user: tuple[str, str] | None = None,
        options: Sequence[str] = (),
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket_path = folder / "redis.sock"
        self.port = free_port()
        self.password = password
        self.acl_user = acl_user
        self.options = list(options)
        self.host = host
        self.prefix = list(prefix)
        self._clients: dict[int, Any] = {}
        self.start()

    def start(self) -> None:
        argv = [
            *self.prefix,
            "redis-server",
            "--port",
            str(self.port),
            "--bind",
            self.host,
            "--unixsocket",
            str(self.socket_path),
            "--dir",
            str(self.folder),
            "--save",
            "",
            "--databases",
            str(N_DATABASES),
            "--daemonize",
            "no",
            "--maxmemory-policy",
            "noeviction",
        ]
        if self.password is not None:
            argv += ["--requirepass", self.password]
        if self.acl_user is not None:
            name, password = self.acl_user
            argv += ["--user", name, "on", f">{password}", "~*", "&*", "+@all"]
        argv += self.options
        self.process = Process("redis", argv, self.folder)
        wait_until(self._answers, "redis-server answers")

    def _answers(self) -> bool:
        assert self.process.alive, self.process.log_tail()
        try:
            return bool(self.client().ping())
        except redis.ConnectionError:
            return False

    def client(self, db: int = 0) -> Any:
        if db not in self._clients:
            self._clients[db] = redis.Redis(
                unix_socket_path=str(self.socket_path),
                db=db,
                password=self.password,
                decode_responses=False,
            )
        return self._clients[db]

    def url(self, db: int = 0) -> str:
        return f"redis://{self.host}:{self.port}/{db}"

    def password_url(self, db: int = 0) -> str:
        assert self.password is not None
        return f"redis://:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{db}"

    def user_url(self, db: int = 0) -> str:
        assert self.acl_user is not None
        name, password = (quote(part, safe="") for part in self.acl_user)
        return f"redis://{name}:{password}@127.0.0.1:{self.port}/{db}"

    def socket_url(self, db: int = 0) -> str:
        auth = f":{quote(self.password, safe='')}@" if self.password is not None else ""
        return f"redis+socket://{auth}{self.socket_path}" + (f"?virtual_host={db}" if db else "")

    def stop(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self.process.stop()

    def kill_9(self) -> None:
        """What was not synced to disk is lost."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self.process.kill_9()
        self.process.stop(0)

    def restart(self) -> None:
        """Down and up again on the same addresses; without persistence everything is gone."""
        self.stop()
        self.start()


def queue_key(queue: str, priority: int = 0) -> str:
    """kombu's list for a queue and one of the steps 0, 3, 6, 9."""
    return queue if priority == 0 else f"{queue}{SEP}{priority}"
