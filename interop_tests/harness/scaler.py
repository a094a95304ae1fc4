# SPDX-License-Identifier: Apache-2.0
"""scatter-scale beside the API server of interop_tests/kube (the stub): one Deployment `worker` whose pods are said to be
there by name, and a broker."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kube.worlds import Scene

from .workers import BUILD

SCALER = BUILD / "scatter-scale"
HEARTBEAT_S = 2.5
# For workers: a heartbeat each second, so that a run need not wait long for one.
HEARTBEATS = ["--heartbeat-interval", "1"]


class Scaler:
    """`state` of the Lease lives in the scene, as in production."""

    def __init__(
        self,
        scene: Scene,
        folder: Path,
        broker: str,
        queues: Sequence[str] = ("celery",),
        redis: Mapping[str, Any] | None = None,
        **rules: Any,
    ) -> None:
        self.scene = scene
        self.folder = folder
        self.broker = broker
        folder.mkdir(parents=True, exist_ok=True)
        self.config: dict[str, Any] = {
            "redis": {"url_env": "SCALER_REDIS", "heartbeat_s": HEARTBEAT_S, **(redis or {})},
            "kubernetes": {"kubeconfig": str(folder / "kubeconfig")},
            "targets": [
                {
                    "deployment": "worker",
                    "lease": "worker",
                    "queues": list(queues),
                    "start_grace_s": 0,
                    "concurrency": 2,
                    **rules,
                }
            ],
        }
        (folder / "kubeconfig").write_text(json.dumps(self._kubeconfig()))

    def _kubeconfig(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [
                {
                    "name": "c",
                    "context": {"cluster": "k", "user": "u", "namespace": self.scene.ns},
                }
            ],
            "clusters": [
                {
                    "name": "k",
                    "cluster": {
                        "server": f"https://127.0.0.1:{self.scene.front.port}",
                        "certificate-authority": str(self.scene.world.authority.pem),
                    },
                }
            ],
            "users": [{"name": "u", "user": {"token": self.scene.token()}}],
        }

    def command(self, *args: str) -> tuple[list[str], dict[str, str]]:
        config = self.folder / "scaler.json"
        config.write_text(json.dumps(self.config))
        env = {k: v for k, v in os.environ.items() if not k.startswith(("CELERY_", "KUBE"))}
        return [str(SCALER), "--config", str(config), *args], env | {"SCALER_REDIS": self.broker}

    def run(self, *args: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        argv, env = self.command(*args)
        return subprocess.run(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def line(self, *args: str, code: int = 0) -> dict[str, Any]:
        """The line of one run, which ends with this exit code."""
        done = self.run(*args)
        assert done.returncode == code, done
        line = json.loads(done.stdout)
        assert isinstance(line, dict)
        return line

    def look(self, code: int = 0) -> dict[str, Any]:
        """A run that writes nothing."""
        return self.line("--dry-run", "client", code=code)

    def pods(self, *names: str) -> None:
        """These pods of the Deployment run, and so many are asked for."""
        for name in names:
            self.scene.pod(name, {"app": "worker"})
            self.scene.run_pod(name)
        self.scene.set_replicas(len(names))
        self.observed()

    def observed(self) -> None:
        """The controller has seen the last change, and all pods are of the newest template."""
        n = self.scene.replicas()
        seen = self.scene.get("Deployment")["metadata"]["generation"]
        status = {"observedGeneration": seen, "replicas": n, "updatedReplicas": n}
        self.scene.admin.merge(self.scene.path("Deployment") + "/status", {"status": status})

    def terminate(self, name: str) -> None:
        self.scene.admin.ok("DELETE", self.scene.path("Pod", name))

    def state(self) -> dict[str, Any]:
        text = self.scene.get("Lease")["metadata"]["annotations"]["scatter-scale/state"]
        state = json.loads(text)
        assert isinstance(state, dict)
        return state
