# SPDX-License-Identifier: Apache-2.0
"""A private PgBouncer in transaction mode in front of a private PostgreSQL, with fewer sessions than clients."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from urllib.parse import quote

from .postgres_server import PostgresServer
from .processes import Process
from .waiting import wait_until

PORT = 6432  # of a Unix socket's name: nothing listens on the network


class PgBouncer:
    def __init__(self, server: PostgresServer, sessions: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bouncer-", dir=server.folder))
        self.folder.chmod(0o777)
        config = self.folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host={server.folder}\n"
            f"[pgbouncer]\nlisten_addr =\nlisten_port = {PORT}\nunix_socket_dir = {self.folder}\n"
            f"auth_type = any\npool_mode = transaction\ndefault_pool_size = {sessions}\n"
            "max_client_conn = 100\nserver_reset_query =\n"
            # The least time that each session is kept: whatever was set in one is met by others.
            "server_round_robin = 1\n"
        )
        # auth_type any ignores who asks; all are this user at the server.
        config.write_text(config.read_text().replace("* = host", "* = user=postgres host"))
        self.process = Process("pgbouncer", [*server.drop, "pgbouncer", config], self.folder)
        wait_until(self._answers, "PgBouncer answers", 30)

    def _answers(self) -> bool:
        assert self.process.alive, self.process.log_tail()
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(str(self.folder / f".s.PGSQL.{PORT}")) == 0

    def url(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={quote(str(self.folder), safe='/')}&port={PORT}"

    def stop(self) -> None:
        self.process.stop()
