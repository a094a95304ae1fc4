# SPDX-License-Identifier: Apache-2.0
"""Private servers for the demo and the tests: Redis, PostgreSQL, SeaweedFS. Each lives in a folder of its own, listens on
a Unix socket or a loopback port that was free, and ends with the program that started it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Callable

SOCKET_PATH_MAX = 100
UNPRIVILEGED = ("postgres", "nobody")


class ServerError(Exception):
    pass


def wait_for(what: str, ready: Callable[[], bool], process: subprocess.Popen[bytes] | None,
             log: Path, seconds: float = 30.0) -> None:  # fmt: skip
    """Until ready() is true; the log's end when the process dies or time is up."""
    deadline = time.monotonic() + seconds
    while not ready():
        if process is not None and process.poll() is not None:
            raise ServerError(f"{what} ended with status {process.returncode}:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise ServerError(f"{what} was not ready after {seconds:.0f} s:\n{tail(log)}")
        time.sleep(0.02)


def tail(log: Path, lines: int = 20) -> str:
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def spawn(argv: list[str], log: Path, cwd: Path | None = None, env: dict[str, str] | None = None,
          user: str | None = None) -> subprocess.Popen[bytes]:  # fmt: skip
    """Output goes to the log; the program gets a session of its own, so that a ^C reaches only us."""
    with log.open("ab") as out:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd, env=env, user=user,
            group=pwd.getpwnam(user).pw_gid if user else None,
            extra_groups=[] if user else None, start_new_session=True,
        )  # fmt: skip


def stop(
    process: subprocess.Popen[bytes], sig: int = signal.SIGTERM, seconds: float = 10.0
) -> None:
    """Asks, waits, then kills. Only ever called for processes that we started."""
    if process.poll() is not None:
        return
    process.send_signal(sig)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_ports(count: int, below: int = 65536) -> list[int]:
    """Loopback ports that were free a moment ago, all different."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            s = stack.enter_context(socket.socket())
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
            if port < below:
                found.append(port)
    return found


def free_ports_with_grpc(count: int) -> list[int]:
    """Ports whose number plus 10,000 is free too, where SeaweedFS puts its gRPC."""
    found: list[int] = []
    while len(found) < count:
        port = 20000 + int.from_bytes(os.urandom(2), "big") % 12000
        with contextlib.suppress(OSError), socket.socket() as a, socket.socket() as b:
            a.bind(("127.0.0.1", port))
            b.bind(("127.0.0.1", port + 10000))
            if port not in found:
                found.append(port)
    return found


def socket_folder(wanted: Path) -> Path:
    """The folder itself, or a short one under the system's temporary folder: socket paths have 107 bytes."""
    if len(str(wanted)) + 24 < SOCKET_PATH_MAX:
        wanted.mkdir(parents=True, exist_ok=True)
        return wanted
    return Path(tempfile.mkdtemp(prefix="scatter-"))


class Redis:
    """redis-server on a Unix socket, without persistence."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.socket = socket_folder(folder) / "redis.sock"
        log = folder / "redis.log"
        self.process = spawn(
            ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", "",
             "--appendonly", "no", "--dir", str(folder)],
            log,
        )  # fmt: skip
        wait_for("redis-server", self.answers, self.process, log)

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(str(self.socket))
                s.sendall(b"PING\r\n")
                return s.recv(16).startswith(b"+PONG")
            except OSError:
                return False

    def url(self, database: int = 0) -> str:
        """As Celery writes it for a Unix socket."""
        return f"redis+socket://{self.socket}?virtual_host={database}"

    def stop(self) -> None:
        stop(self.process)


class Postgres:
    """A private cluster on a Unix socket. initdb refuses to run as root, so root lends it to another user; the folder is
    then under the system's temporary folder, which that user can reach."""

    def __init__(self, folder: Path, settings: dict[str, str] | None = None) -> None:
        self.user = unprivileged_user()
        if self.user:
            folder = Path(tempfile.mkdtemp(prefix="scatter-pg-"))
            shutil.chown(folder, self.user)
            self.owned: Path | None = folder
        else:
            folder.mkdir(parents=True, exist_ok=True)
            folder = socket_folder(folder)
            self.owned = None
        self.folder = folder
        self.log = folder / "postgres.log"
        data = folder / "data"
        self.run(
            ["initdb", "-D", str(data), "-U", "scatter", "-A", "trust", "-E", "UTF8",
             "--locale=C.UTF-8", "--no-sync"]
        )  # fmt: skip
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(folder),
            **(settings or {}),
        }
        argv = [postgres_program("postgres"), "-D", str(data)]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        self.process = spawn(argv, self.log, cwd=folder, user=self.user)
        wait_for("postgres", self.answers, self.process, self.log)
        self.run(["createdb", "-h", str(folder), "-U", "scatter", "scatter"])

    def run(self, argv: list[str]) -> None:
        done = subprocess.run(
            [postgres_program(argv[0]), *argv[1:]], stdin=subprocess.DEVNULL, capture_output=True,
            cwd=self.folder, user=self.user, text=True, check=False,
            extra_groups=[] if self.user else None,
        )  # fmt: skip
        if done.returncode != 0:
            raise ServerError(f"{argv[0]}: {done.stdout}{done.stderr}")

    def answers(self) -> bool:
        done = subprocess.run(
            [postgres_program("pg_isready"), "-q", "-h", str(self.folder)],
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return done.returncode == 0

    def url(self, database: str = "scatter") -> str:
        return f"postgresql://scatter@/{database}?host={self.folder}"

    def stop(self) -> None:
        stop(self.process, signal.SIGQUIT)  # at once: nobody needs the data any more
        if self.owned is not None:
            shutil.rmtree(self.owned, ignore_errors=True)


def unprivileged_user() -> str | None:
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return name
    raise ServerError(
        "running as root, and there is no user postgres or nobody to run PostgreSQL as"
    )


def postgres_program(name: str) -> str:
    """Debian keeps a server's programs out of PATH; the newest version is taken."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    for folder in reversed(folders):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise ServerError(f"{name} is not installed; run make setup")
    return found


class SeaweedFS:
    """An S3 server that checks signatures: `weed` with an identity file."""

    access_key = "scatter-demo"
    secret_key = "scatter-demo-secret"

    def __init__(self, folder: Path, bucket: str = "scatter") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "weed.log"
        self.bucket = bucket
        master, volume, filer, s3 = free_ports_with_grpc(4)
        self.endpoint = f"http://127.0.0.1:{s3}"
        config = folder / "identities.json"
        config.write_text(json.dumps({"identities": [{
            "name": "scatter",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]}))  # fmt: skip
        self.process = spawn(
            [str(Path(sys.executable).parent / "weed"), "server", f"-dir={folder}",
             "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
             f"-volume.port={volume}", "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}",
             f"-s3.config={config}", "-volume.max=100", "-master.volumeSizeLimitMB=64",
             "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"],
            self.log, cwd=folder,
        )  # fmt: skip
        wait_for("SeaweedFS", self.answers, self.process, self.log, 60.0)
        self.make_bucket()

    def answers(self) -> bool:
        """An unsigned request must be refused: the S3 part is up and checks."""
        try:
            urllib.request.urlopen(self.endpoint, timeout=1).close()
        except urllib.error.HTTPError as e:
            return e.code == 403
        except OSError:
            return False
        return False

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def make_bucket(self) -> None:
        import boto3
        import botocore.exceptions

        client = boto3.session.Session().client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key, region_name="us-east-1",
        )  # fmt: skip

        def made() -> bool:
            try:
                client.create_bucket(Bucket=self.bucket)
                client.put_object(Bucket=self.bucket, Key="ready", Body=b"ready")
            except client.exceptions.BucketAlreadyOwnedByYou:
                return False
            except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
                return False
            return True

        def ready() -> bool:
            try:
                client.put_object(Bucket=self.bucket, Key="ready", Body=b"ready")
            except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
                return made()
            return True

        wait_for("the bucket", ready, self.process, self.log, 60.0)

    def stop(self) -> None:
        stop(self.process, signal.SIGTERM, 5.0)
