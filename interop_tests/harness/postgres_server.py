# SPDX-License-Identifier: Apache-2.0
"""A private PostgreSQL cluster on a Unix socket; started by root it runs as the user postgres."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from .processes import Process
from .waiting import wait_until


def program(name: str) -> str:
    """Debian keeps the server's programs outside of PATH."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    assert found, f"{name} is not installed"
    return found


class PostgresServer:
    """`settings`, "name=value", come behind those that make a short-lived server quick."""

    def __init__(self, settings: Sequence[str] = ()) -> None:
        self.settings = list(settings)
        # Not below pytest's folders: they are closed to other users.
        self.folder = Path(tempfile.mkdtemp(prefix="interop-pg-"))
        self.drop: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.drop = [
                "setpriv",
                f"--reuid={user.pw_uid}",
                f"--regid={user.pw_gid}",
                "--clear-groups",
                "--pdeathsig",
                "KILL",
                "--",
            ]
        data = self.folder / "data"
        subprocess.run(
            [
                *self.drop,
                program("initdb"),
                "-D",
                data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-N",
                "-E",
                "UTF8",
                "--locale=C",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
        )
        self.start()

    def start(self) -> None:
        data = self.folder / "data"
        self.process = Process(
            "postgres",
            [
                *self.drop,
                program("postgres"),
                "-D",
                data,
                "-k",
                self.folder,
                "-c",
                "listen_addresses=",
                "-c",
                "fsync=off",
                "-c",
                "full_page_writes=off",
                "-c",
                "max_connections=50",
                *(word for setting in self.settings for word in ("-c", setting)),
            ],
            self.folder,
        )
        wait_until(self._answers, "PostgreSQL answers", 30)

    def _answers(self) -> bool:
        assert self.process.alive, self.process.log_tail()
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(self, name: str) -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self.folder), user="postgres", dbname=name, autocommit=True)

    def create(self, name: str) -> str:
        """A new database; its URL."""
        with self.connect("postgres") as c:
            c.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def url(self, name: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@/{name}?host={quote(str(self.folder), safe='/')}"

    def restart(self) -> None:
        """Down at once, as after a crash, and up again."""
        self.down()
        self.start()

    def down(self) -> None:
        self.process.send_signal(3)  # QUIT: at once
        self.process.stop()

    def stop(self) -> None:
        self.down()
        shutil.rmtree(self.folder, ignore_errors=True)
