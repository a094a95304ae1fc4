# SPDX-License-Identifier: Apache-2.0
"""A control plane of its own: etcd, Kubernetes' API server and controller manager. Nothing runs pods; kubelet.py does."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import urllib.error
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from harness.certificates import Authority
from harness.processes import Process
from harness.redis_server import free_port
from harness.waiting import wait_until

from .api import Api, Refused

ROOT = Path(__file__).resolve().parent.parent.parent
KUBETEST = ROOT / "build/kube/kubetest"
CONTROLLERS = "deployment,replicaset,cronjob,job,serviceaccount,garbagecollector,namespace,disruption,resourcequota"


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def kubeconfig(path: Path, api: Api, namespace: str = "default") -> Path:
    ca = base64.b64encode(api.ca.read_bytes()).decode()
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "contexts": [
                    {
                        "name": "test",
                        "context": {"cluster": "c", "user": "u", "namespace": namespace},
                    }
                ],
                "clusters": [
                    {
                        "name": "c",
                        "cluster": {
                            "server": f"https://{api.host}:{api.port}",
                            "certificate-authority-data": ca,
                        },
                    }
                ],
                "users": [{"name": "u", "user": {"token": api.token}}],
            }
        )
    )
    return path


class Cluster:
    """`admin` may do everything; `api_for` gives a client with a real token of a service account."""

    def __init__(self, folder: Path) -> None:
        assert KUBETEST.exists(), f"{KUBETEST} is missing: `make test-kube` builds it"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # etcd syncs each write: memory makes that quick.
        self.data = Path(tempfile.mkdtemp(prefix="kube-etcd-", dir="/dev/shm"))
        self.host, self.port = "127.0.0.1", free_port()
        authority = Authority(folder / "pki")
        self.ca = authority.pem
        self.certificate = authority.issue("apiserver", "127.0.0.1", "::1", "localhost")
        self.key = folder / "sa.key"
        subprocess.run(
            ["openssl", "genrsa", "-out", str(self.key), "2048"], check=True, capture_output=True
        )
        (folder / "tokens.csv").write_text("admin-token,admin,admin,system:masters\n")
        self.admin = Api(self.host, self.port, self.ca, "admin-token")
        self.etcd = self._start_etcd()
        self.server = self.start_server()
        self.manager = self._start_manager()

    def _start_etcd(self) -> Process:
        self.etcd_url = f"http://127.0.0.1:{free_port()}"
        peer = f"http://127.0.0.1:{free_port()}"
        return Process(
            "etcd",
            [
                "etcd",
                f"--data-dir={self.data}",
                f"--listen-client-urls={self.etcd_url}",
                f"--advertise-client-urls={self.etcd_url}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
            ],
            self.folder,
        )

    def start_server(self) -> Process:
        """Also after `server.stop()`: everything is still there."""
        self.server = Process(
            "apiserver",
            [
                KUBETEST,
                "apiserver",
                f"--etcd-servers={self.etcd_url}",
                f"--secure-port={self.port}",
                "--bind-address=127.0.0.1",
                f"--cert-dir={self.folder / 'certs'}",
                f"--tls-cert-file={self.certificate}",
                f"--tls-private-key-file={self.certificate.with_suffix('.key')}",
                f"--service-account-key-file={self.key}",
                f"--service-account-signing-key-file={self.key}",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=RBAC",
                f"--token-auth-file={self.folder / 'tokens.csv'}",
                # Without it a list's next page never expires as long as this one server runs.
                "--feature-gates=ListFromCacheSnapshot=false",
            ],
            self.folder,
        )
        wait_until(self._ready, "the API server is ready", 60)
        return self.server

    def _ready(self) -> bool:
        assert self.server.alive, self.server.log_tail()
        try:
            return bool(self.admin.raw("GET", "/readyz").body == "ok")
        except (OSError, urllib.error.URLError):
            return False

    def _start_manager(self) -> Process:
        return Process(
            "controller-manager",
            [
                KUBETEST,
                "controller-manager",
                f"--kubeconfig={kubeconfig(self.folder / 'manager.kubeconfig', self.admin)}",
                f"--service-account-private-key-file={self.key}",
                "--use-service-account-credentials",
                "--leader-elect=false",
                "--secure-port=0",
                f"--controllers={CONTROLLERS}",
            ],
            self.folder,
        )

    def namespace(self, name: str) -> str:
        self.admin.ok("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

        def has_account() -> bool:
            try:
                return bool(self.admin.get(f"/api/v1/namespaces/{name}/serviceaccounts/default"))
            except Refused:
                return False

        wait_until(has_account, f"the default service account of {name}", 30)
        return name

    def token(self, namespace: str, account: str, seconds: int = 3600) -> str:
        body: Any = {"spec": {"expirationSeconds": seconds}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(self.admin.ok("POST", path, body)["status"]["token"])

    def expired_token(self, namespace: str, account: str) -> str:
        """One that was good an hour ago, signed by the cluster's own key."""
        head, body, _ = self.token(namespace, account).split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        for claim in ("exp", "iat", "nbf"):
            claims[claim] -= 7200
        text = ".".join([head, _unpadded(json.dumps(claims).encode())])
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        signature = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{text}.{_unpadded(signature)}"

    def api_for(self, namespace: str, account: str) -> Api:
        return Api(self.host, self.port, self.ca, self.token(namespace, account))

    def stop(self) -> None:
        for process in (self.manager, self.server, self.etcd):
            process.stop()
        shutil.rmtree(self.data, ignore_errors=True)
