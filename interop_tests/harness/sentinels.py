# SPDX-License-Identifier: Apache-2.0
"""A master, its replica and three Sentinels that watch them, all on private ports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis

from .processes import Process
from .redis_server import RedisServer, free_port
from .waiting import wait_until

MASTER = "mymaster"
DOWN_AFTER_MS = 1000


class Sentinels:
    """`url(db)` names the Sentinels, `options()` are the transport options that go with it."""

    def __init__(
        self, folder: Path, options: Sequence[str] = (), password: str | None = None
    ) -> None:
        self.password = password
        self.servers = [RedisServer(folder / name, options=options) for name in ("one", "two")]
        self.servers[1].client().replicaof("127.0.0.1", self.servers[0].port)
        self.ports = [free_port() for _ in range(3)]
        self.processes = [
            self._start(folder / f"sentinel{n}", port) for n, port in enumerate(self.ports)
        ]
        self.sentinels: list[Any] = [
            redis.Redis(port=port, password=password, decode_responses=True) for port in self.ports
        ]
        wait_until(self._settled, "the Sentinels know each other and the replica", 30.0)

    def _start(self, folder: Path, port: int) -> Process:
        folder.mkdir(parents=True)
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor {MASTER} 127.0.0.1 {self.servers[0].port} 2",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER} 6000",
        ]
        if self.password is not None:
            lines += [f"requirepass {self.password}", f"sentinel sentinel-pass {self.password}"]
        config = folder / "sentinel.conf"
        config.write_text("\n".join(lines) + "\n")
        return Process("sentinel", ["redis-server", config, "--sentinel"], folder)

    def _ask(self, n: int, *words: str) -> Any:
        try:
            return self.sentinels[n].execute_command(*words)
        except redis.ConnectionError:
            return None

    def _settled(self) -> bool:
        for n in range(3):
            state = self._ask(n, "SENTINEL", "MASTER", MASTER)
            if not state or int(state["num-other-sentinels"]) != 2 or int(state["num-slaves"]) != 1:
                return False
            replicas = self._ask(n, "SENTINEL", "REPLICAS", MASTER)
            if any(r["flags"] != "slave" or r["master-link-status"] != "ok" for r in replicas):
                return False
        return True

    def master_port(self) -> int:
        """As all of them say; 0 while they differ."""
        said = {self._ask(n, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1] for n in range(3)}
        return int(said.pop()) if len(said) == 1 else 0

    def master(self) -> RedisServer:
        port = wait_until(self.master_port, "the Sentinels agree", 30.0)
        return next(s for s in self.servers if s.port == port)

    def replica(self) -> RedisServer:
        master = self.master()
        return next(s for s in self.servers if s is not master)

    def fail_over_cleanly(self, meanwhile: Callable[[RedisServer], None]) -> RedisServer:
        """Writes are held on the master and all of them are at the replica before it takes over: nothing can be lost.
        `meanwhile` is given the old master, which nobody has told yet."""
        old, new = self.master(), self.replica()
        wait_until(self._settled, "the Sentinels are settled", 60.0)
        old.client().execute_command("CLIENT", "PAUSE", "60000", "WRITE")

        def caught_up() -> bool:
            ours = old.client().info("replication")["master_repl_offset"]
            theirs = new.client().info("replication")["slave_repl_offset"]
            return bool(ours == theirs)

        wait_until(caught_up, "the replica has everything")
        self.sentinels[0].execute_command("SENTINEL", "FAILOVER", MASTER)
        wait_until(
            lambda: self.master_port() == new.port, "the Sentinels name the new master", 30.0
        )
        meanwhile(old)
        # The pause holds up the Sentinels' own REPLICAOF, too. In one piece: what waits on the old master finds a replica.
        pipeline = old.client().pipeline(transaction=False)
        pipeline.execute_command("CLIENT", "UNPAUSE")
        pipeline.execute_command("REPLICAOF", new.host, str(new.port))
        pipeline.execute()
        return new

    def url(self, db: int = 0) -> str:
        return ";".join(f"sentinel://127.0.0.1:{port}/{db}" for port in self.ports)

    def options(self) -> dict[str, Any]:
        kwargs = {"password": self.password} if self.password is not None else {}
        return {"master_name": MASTER, "sentinel_kwargs": kwargs}

    def settings(self) -> dict[str, Any]:
        return {
            "broker_transport_options": self.options(),
            "result_backend_transport_options": self.options(),
        }

    def close(self) -> None:
        for client in self.sentinels:
            client.close()
        for process in self.processes:
            process.stop(0)
        for server in self.servers:
            server.stop()
