# SPDX-License-Identifier: Apache-2.0
"""A node for tests: binds every pod of its namespace, runs its container as a process, and stops it as a kubelet does, by
TERM, the grace period, and KILL.

An image with a file system (tools/images) runs in it: root changed and read only, the pod's volumes mounted, process 1
of a process namespace of its own, as the pod's user without capabilities. Other images are plain processes of this
machine (`programs`)."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from shutil import which
from typing import Any

from harness.processes import PROCESS_MARK, SESSION_MARK, Process

from .api import Api, Refused, collection, path_of
from .cluster import Cluster

Object = dict[str, Any]
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
ENTER = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]


@dataclass
class Image:
    """`root`: its file system; `entrypoint`: what `args` are given to. Without a root a program of this machine."""

    entrypoint: Sequence[str] = ()
    root: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Running:
    name: str
    uid: str
    process: Process
    grace_s: float = 30.0
    asked_at: float | None = None
    killed: bool = False


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Kubelet:
    """`ended` tells of every pod that has ended: its name, its exit code, and whether the grace period was over."""

    def __init__(
        self, cluster: Cluster, namespace: str, folder: Path, images: Mapping[str, Image]
    ) -> None:
        self.cluster = cluster
        self.api: Api = cluster.admin
        self.ns = namespace
        self.folder = folder
        self.images = dict(images)
        self.pods: dict[str, Running] = {}
        self.logs: dict[str, Path] = {}
        self.ended: list[tuple[str, int, bool]] = []
        self.errors: list[str] = []
        self.tokens: dict[str, str] = {}
        # What a pod is told of the API server; a test may put something between.
        self.server = (cluster.host, cluster.port, cluster.ca)
        self.done = threading.Event()
        with contextlib.suppress(Refused):
            self.api.ok("POST", "/api/v1/nodes", {"metadata": {"name": "node"}})
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    # -- the loop

    def _run(self) -> None:
        while not self.done.is_set():
            try:
                self._turn()
            except Refused as e:
                if e.answer.status not in (404, 409):  # gone or changed since it was listed
                    self.errors.append(str(e))
            except (OSError, http.client.HTTPException) as e:
                self.errors.append(repr(e))
            self.done.wait(0.1)

    def _turn(self) -> None:
        listed = self.api.get(collection("Pod", self.ns))["items"]
        for pod in listed:
            self._look_at(pod)
        here = {pod["metadata"]["uid"] for pod in listed}
        for running in [r for r in self.pods.values() if r.uid not in here]:
            running.process.stop(0)  # forced away by somebody
            del self.pods[running.uid]

    def _look_at(self, pod: Object) -> None:
        meta, uid = pod["metadata"], pod["metadata"]["uid"]
        running = self.pods.get(uid)
        if running is None:
            if "deletionTimestamp" in meta:
                self._let_go(meta["name"])
            elif "nodeName" not in pod["spec"]:
                self._bind(meta["name"])
            elif pod["status"].get("phase") == "Pending":
                self._start(pod)
        elif not running.process.alive:
            self._bury(pod, running)
        elif "deletionTimestamp" in meta or self._too_long(pod):
            self._stop(running, float(meta.get("deletionGracePeriodSeconds", 1)))

    @staticmethod
    def _too_long(pod: Object) -> bool:
        limit = pod["spec"].get("activeDeadlineSeconds")
        started = pod["status"].get("startTime")
        if limit is None or started is None:
            return False
        began = datetime.fromisoformat(started.replace("Z", "+00:00"))
        return bool((datetime.now(timezone.utc) - began).total_seconds() > limit)

    def _bind(self, name: str) -> None:
        body = {"metadata": {"name": name}, "target": {"kind": "Node", "name": "node"}}
        self.api.ok("POST", f"{path_of('Pod', self.ns, name)}/binding", body)

    def _status(self, name: str, status: Object) -> None:
        with contextlib.suppress(Refused):  # it may have gone meanwhile
            self.api.merge(f"{path_of('Pod', self.ns, name)}/status", {"status": status})

    def _let_go(self, name: str) -> None:
        with contextlib.suppress(Refused):
            self.api.ok("DELETE", path_of("Pod", self.ns, name), {"gracePeriodSeconds": 0})

    def _start(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        process = self._launch(pod, self.folder / name)
        self.pods[pod["metadata"]["uid"]] = Running(name, pod["metadata"]["uid"], process)
        self.logs[name] = process.log_path
        self._status(
            name,
            {
                "phase": "Running",
                "startTime": now(),
                "podIP": "127.0.0.1",
                "conditions": [
                    {"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")
                ],
                "containerStatuses": [self._container(pod, {"running": {"startedAt": now()}})],
            },
        )

    @staticmethod
    def _container(pod: Object, state: Object) -> Object:
        container = pod["spec"]["containers"][0]
        return {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": "running" in state,
            "restartCount": 0,
            "state": state,
        }

    def _bury(self, pod: Object, running: Running) -> None:
        code = running.process.returncode or 0
        running.process.stop(0)  # what it left behind
        self.ended.append((running.name, code, running.killed))
        del self.pods[running.uid]
        if "deletionTimestamp" in pod["metadata"]:
            self._let_go(running.name)
            return
        # A worker that ends by itself would be restarted; here that is a failed pod, which a ReplicaSet replaces.
        self._status(
            running.name,
            {
                "phase": "Succeeded" if code == 0 else "Failed",
                "conditions": [
                    {"type": kind, "status": "False"} for kind in ("Ready", "ContainersReady")
                ],
                "containerStatuses": [
                    self._container(pod, {"terminated": {"exitCode": code, "finishedAt": now()}})
                ],
            },
        )

    def _stop(self, running: Running, grace_s: float) -> None:
        if running.asked_at is None:
            running.asked_at = time.monotonic()
            running.grace_s = grace_s
            self._signal(running, signal.SIGTERM)
        elif time.monotonic() - running.asked_at > running.grace_s and not running.killed:
            running.killed = True
            self._signal(running, signal.SIGKILL)

    @staticmethod
    def first_process(process: Process) -> int:
        """Process 1 of the container: below unshare, or the program itself."""
        path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if b"unshare" in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            return int(path.read_text().split()[0])
        return process.pid

    def _signal(self, running: Running, number: int) -> None:
        with contextlib.suppress(OSError, IndexError, ProcessLookupError):
            os.kill(self.first_process(running.process), number)

    # -- a container

    def _launch(self, pod: Object, folder: Path) -> Process:
        folder.mkdir(parents=True, exist_ok=True)
        container = pod["spec"]["containers"][0]
        image = self.images[container["image"]]
        env = self._environment(pod, container)
        argv = [*(container.get("command") or image.entrypoint), *(container.get("args") or [])]
        argv = [re.sub(r"\$\((\w+)\)", lambda m: env.get(m[1], m[0]), word) for word in argv]
        mounts = self._mounts(pod, container, folder)
        if image.root is None:
            # No file system of its own: the places of its volumes become folders of ours.
            for inside, outside in mounts.items():
                argv = [
                    word.replace(inside, str(outside)) if inside != "/tmp" else word
                    for word in argv
                ]
            return Process("log", argv, folder, {**image.env, **env})
        script = self._script(image.root, mounts, pod, {**image.env, **env}, folder)
        return Process("log", [*ENTER, "sh", "-eu", str(script), *argv], folder)

    def _environment(self, pod: Object, container: Object) -> dict[str, str]:
        host, port, _ = self.server
        env = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}
        for one in container.get("env") or []:
            if "value" in one:
                env[one["name"]] = one["value"]
                continue
            source = one["valueFrom"]
            if "fieldRef" in source:
                _, _, key = source["fieldRef"]["fieldPath"].partition(".")
                env[one["name"]] = pod["metadata"][key]
            else:
                ref = source["secretKeyRef"]
                secret = self.api.get(path_of("Secret", self.ns, ref["name"]))
                env[one["name"]] = base64.b64decode(secret["data"][ref["key"]]).decode()
        return env

    def _mounts(self, pod: Object, container: Object, folder: Path) -> dict[str, Path]:
        volumes = {v["name"]: v for v in pod["spec"].get("volumes") or []}
        mounts: dict[str, Path] = {}
        for mount in container.get("volumeMounts") or []:
            volume, place = volumes[mount["name"]], folder / "volumes" / mount["name"]
            if "projected" in volume:
                self._service_account(pod, place)
            else:
                place.mkdir(parents=True)
                place.chmod(0o777)
                if "configMap" in volume:
                    config = self.api.get(
                        path_of("ConfigMap", self.ns, volume["configMap"]["name"])
                    )
                    for key, text in config["data"].items():
                        (place / key).write_text(text)
            mounts[mount["mountPath"]] = place
        return mounts

    def _service_account(self, pod: Object, place: Path) -> None:
        place.mkdir(parents=True)
        account = pod["spec"]["serviceAccountName"]
        token = self.tokens.get(account) or self.cluster.token(self.ns, account)
        (place / "token").write_text(token)
        (place / "ca.crt").write_bytes(self.server[2].read_bytes())
        (place / "namespace").write_text(self.ns)

    @staticmethod
    def _script(
        root: Path, mounts: Mapping[str, Path], pod: Object, env: Mapping[str, str], folder: Path
    ) -> Path:
        context = pod["spec"].get("securityContext", {})
        user = f"{context.get('runAsUser', 0)}:{context.get('runAsGroup', context.get('runAsUser', 0))}"
        here = folder / "root"
        here.mkdir()
        lines = [f"mount --bind {root} {here}"]
        lines += ["mount -o remount,ro,bind " + str(here)]
        lines += [
            f"mount -t tmpfs tmpfs {here}/run",
            f"mkdir -p {here}/run/secrets/kubernetes.io/serviceaccount",
        ]
        for inside, outside in mounts.items():
            place = str(here) + inside.replace("/var/run", "/run")
            lines += [f"mount --bind {outside} {place}"]
        lines += [f"mount -t proc proc {here}/proc", f"mount --bind /dev {here}/dev"]
        # Nothing of our own environment but the marks by which processes are found again.
        kept = [f'{mark}="${mark}"' for mark in (SESSION_MARK, PROCESS_MARK)]
        kept += [f"{k}={shlex.quote(v)}" for k, v in {"PATH": "/usr/bin", **env}.items()]
        enter = f"{which('setpriv')} --no-new-privs {which('chroot')} --userspec={user} {here}"
        lines += [f'exec env -i {" ".join(kept)} {enter} "$@"']
        script = folder / "run"
        script.write_text("\n".join(lines) + "\n")
        return script

    # -- for tests

    def log(self, pod: str) -> str:
        return self.logs[pod].read_text(errors="replace")

    def stop(self) -> None:
        self.done.set()
        self.thread.join()
        for running in self.pods.values():
            running.process.stop(0)
        self.pods.clear()


def permitted() -> bool:
    """May this user make namespaces and mounts?"""
    return subprocess.run([*ENTER, "true"], check=False, capture_output=True).returncode == 0
