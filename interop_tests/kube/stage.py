# SPDX-License-Identifier: Apache-2.0
"""A namespace in which the manifests of k8s/manifests run: with a kubelet, a Redis, and a Celery client that sends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.client import Client
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import HERE as HARNESS

from .api import Api, collection, path_of
from .cluster import KUBETEST, ROOT, Cluster, kubeconfig
from .kubelet import Image, Kubelet

MANIFESTS = ROOT / "k8s/manifests"
IMAGES = {
    "scatter-scale:0.1.0": Image(["/usr/bin/scatter-scale"], ROOT / "build/images/scaler"),
    "celeryc-worker:0.1.0": Image(["/usr/bin/celeryc"], ROOT / "build/images/worker"),
    "celery:test": Image(env={"PYTHONPATH": str(HARNESS.parent)}),
}
WORKERS = {
    "celeryc": [
        "celeryc",
        "worker",
        "--app=/usr/lib/celeryc/examples.so",
        "--hostname=celery@$(POD_NAME)",
        "--concurrency=2",
        "--disable-prefetch",
        "--loglevel=INFO",
    ],
    "celery": [
        sys.executable,
        "-m",
        "celery",
        f"--workdir={HARNESS}",
        "--app=interop_app",
        "worker",
        "--hostname=celery@$(POD_NAME)",
        "--concurrency=2",
        "--prefetch-multiplier=1",
        "--without-gossip",
        "--without-mingle",
        "--loglevel=INFO",
    ],
}
# Windows of seconds, where a real installation has minutes.
RULES = {
    "concurrency": 2,
    "prefetch": 1,
    "max": 4,
    "down_window_s": 3,
    "zero_cooldown_s": 3,
    "period_s": 1,
    "down_pods": 4,
    "start_grace_s": 1,
}


@dataclass
class Run:
    """One run of the scaler: its exit code and what it wrote."""

    pod: str
    code: int
    text: str

    @property
    def line(self) -> dict[str, Any]:
        lines = [x for x in self.text.splitlines() if x.startswith("{")]
        assert len(lines) == 1, self.text
        parsed = json.loads(lines[0])
        assert isinstance(parsed, dict)
        return parsed


class Stage:
    def __init__(
        self,
        cluster: Cluster,
        name: str,
        folder: Path,
        *,
        worker: str = "celeryc",
        overlay: str = "base",
        grace_s: int = 60,
        rules: dict[str, Any] | None = None,
        each_minute: bool = False,
    ) -> None:
        self.cluster = cluster
        self.api: Api = cluster.admin
        self.ns = cluster.namespace(name)
        self.folder = folder
        self.redis = RedisServer(folder / "redis")
        self.client = Client("celery-5.7", self.redis.url(), self.redis.url(), {})
        self.kubeconfig = kubeconfig(folder / "kubeconfig", self.api, self.ns)
        self.sent: list[str] = []
        self.n_runs = 0
        secret = {"metadata": {"name": "celery-broker"}, "stringData": {"url": self.redis.url()}}
        self.api.ok("POST", collection("Secret", self.ns), secret)
        self.kubelet = Kubelet(cluster, self.ns, folder / "pods", IMAGES)
        # A minute's own run must not meet those that the test makes.
        suspend = not each_minute and overlay != "loop"
        self.apply(self._overlay(overlay, worker, grace_s, {**RULES, **(rules or {})}, suspend))

    def _overlay(
        self, overlay: str, worker: str, grace_s: int, rules: dict[str, Any], suspend: bool
    ) -> Path:
        """What a user writes: an overlay on ours."""
        folder = self.folder / "overlay"
        folder.mkdir()
        target = {"deployment": "worker", "queues": ["celery"], **rules}
        scaler = {
            "redis": {"url_env": "CELERY_BROKER_URL", "heartbeat_s": 2.5},
            "targets": [target],
        }
        (folder / "scaler.json").write_text(json.dumps(scaler))
        at = "/spec/template/spec"
        patch = [
            {"op": "replace", "path": f"{at}/containers/0/command", "value": WORKERS[worker]},
            {"op": "replace", "path": f"{at}/terminationGracePeriodSeconds", "value": grace_s},
        ]
        if worker == "celery":
            patch += [{"op": "replace", "path": f"{at}/containers/0/image", "value": "celery:test"}]
        below = overlay if overlay == "base" else f"overlays/{overlay}"
        patches = [{"target": {"kind": "Deployment", "name": "worker"}, "patch": json.dumps(patch)}]
        if suspend:
            patch = [{"op": "add", "path": "/spec/suspend", "value": True}]
            patches.append({"target": {"kind": "CronJob"}, "patch": json.dumps(patch)})
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.ns,
            "resources": [os.path.relpath(MANIFESTS / below, folder)],
            "configMapGenerator": [
                {"name": "scatter-scale", "behavior": "replace", "files": ["scaler.json"]}
            ],
            "patches": patches,
        }
        (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
        return folder

    def kubectl(self, *args: str | Path, check: bool = True) -> str:
        argv = [KUBETEST, "kubectl", f"--kubeconfig={self.kubeconfig}", *args]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout + done.stderr

    def apply(self, folder: Path) -> None:
        self.kubectl("apply", "--server-side", "--validate=strict", "-k", folder)

    # -- the Deployment

    def path(self, kind: str, name: str = "worker") -> str:
        return path_of(kind, self.ns, name)

    def replicas(self) -> int:
        return int(self.api.get(self.path("Deployment"))["spec"].get("replicas", 1))

    def set_replicas(self, n: int) -> None:
        self.api.merge(self.path("Deployment") + "/scale", {"spec": {"replicas": n}})

    def worker_pods(self) -> list[dict[str, Any]]:
        selector = "?labelSelector=app.kubernetes.io%2Fname%3Dworker"
        items = self.api.get(collection("Pod", self.ns) + selector)["items"]
        return [pod for pod in items if isinstance(pod, dict)]

    def running(self) -> list[str]:
        """Pods whose worker has said that it is ready, and that are not being deleted."""
        return [
            pod["metadata"]["name"]
            for pod in self.worker_pods()
            if "deletionTimestamp" not in pod["metadata"]
            and pod["metadata"]["name"] in self.kubelet.logs
            and " ready." in self.kubelet.log(pod["metadata"]["name"])
        ]

    def wait_running(self, n: int) -> None:
        wait_until(lambda: len(self.running()) == n, f"{n} workers are ready", 60)

    def wait_gone(self) -> None:
        wait_until(lambda: not self.worker_pods(), "no worker is left", 90)

    # -- load

    def send(self, n: int, seconds: float) -> list[str]:
        ids = [self.client.send("examples.sleep", seconds) for _ in range(n)]
        self.sent += ids
        return ids

    def done(self) -> int:
        client = self.redis.client()
        keys = [f"celery-task-meta-{i}" for i in self.sent]
        return int(client.exists(*keys)) if keys else 0

    def wait_done(self, deadline_s: float = 90) -> None:
        wait_until(lambda: self.done() == len(self.sent), "every task has its result", deadline_s)

    def nothing_is_lost(self) -> None:
        """Every task that was sent has ended well, and the broker holds nothing."""
        for task_id in self.sent:
            assert self.client.meta(task_id).state == "SUCCESS", task_id
        client = self.redis.client()
        assert client.llen("celery") == 0
        assert client.hlen("unacked") == 0
        assert client.keys("celeryc:running:*") == []

    # -- the scaler

    def job(self) -> str:
        """As `kubectl create job --from=cronjob/scatter-scale` makes it."""
        self.n_runs += 1
        name = f"run{self.n_runs}"
        self.kubectl("create", "job", name, "--from=cronjob/scatter-scale")
        return name

    def run(self) -> Run:
        name = self.job()

        def ended() -> bool:
            status = self.api.get(self.path("Job", name))["status"]
            return any(
                c["type"] in ("Complete", "Failed") and c["status"] == "True"
                for c in status.get("conditions", [])
            )

        wait_until(ended, f"the end of {name}", 90)
        pod, code = next(
            (pod, code) for pod, code, _ in self.kubelet.ended if pod.startswith(f"{name}-")
        )
        return Run(pod, code, self.kubelet.log(pod))

    def run_until(self, replicas: int, runs: int = 12) -> list[Run]:
        made: list[Run] = []
        while len(made) < runs:
            made.append(self.run())
            assert made[-1].code == 0, made[-1].text
            if self.replicas() == replicas:
                return made
        raise AssertionError([run.line for run in made])

    def empty(self) -> None:
        """No worker, no work."""
        self.redis.client().delete("celery")
        self.set_replicas(0)
        self.wait_gone()
        self.redis.client().flushdb()
        self.sent.clear()

    def pods_killed(self) -> list[str]:
        """Those that were still there when their grace period was over."""
        return [name for name, _, killed in self.kubelet.ended if killed]

    def stop(self) -> None:
        self.kubelet.stop()
        self.client.close()
        self.redis.stop()
        assert not self.kubelet.errors, self.kubelet.errors


def manifests(overlay: Path) -> list[dict[str, Any]]:
    """What kustomize makes of a folder."""
    import yaml

    argv: Sequence[str | Path] = [KUBETEST, "kubectl", "kustomize", overlay]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return [one for one in yaml.safe_load_all(text) if one]
