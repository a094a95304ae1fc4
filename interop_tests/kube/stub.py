# SPDX-License-Identifier: Apache-2.0
"""An API server in memory, as far as the scaler uses one. test_api.py asks it and the real one the same questions: where
they differ, the stub is wrong."""

from __future__ import annotations

import base64
import copy
import datetime
import json
import re
import threading
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlparse

from .api import GROUPS, JSON_PATCH, MERGE, STRATEGIC, Answer
from .front import Request

MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
PATH = re.compile(
    r"(?P<group>/api/v1|/apis/[a-z0-9.]+/v\w+)(/namespaces/(?P<ns>[^/]+))?"
    r"/(?P<plural>[a-z]+)(/(?P<name>[^/]+))?(/(?P<sub>[a-z]+))?"
)
COST = "controller.kubernetes.io/pod-deletion-cost"
Object = dict[str, Any]


class Refusal(Exception):
    def __init__(self, status: int, reason: str, message: str, **details: str) -> None:
        super().__init__(message)
        self.answer = Answer(
            status,
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": reason,
                **({"details": details} if details else {}),
                "code": status,
            },
            {},
        )


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def json_patched(target: Any, operations: list[Any]) -> Any:
    result = copy.deepcopy(target)
    for operation in operations:
        *parents, last = operation["path"].strip("/").split("/")
        at = result
        for part in parents:
            at = at[part]
        if operation["op"] == "test":
            if at.get(last) != operation["value"]:
                raise Refusal(
                    422, "Invalid", "the server rejected our request due to an error in our request"
                )
        else:
            at[last] = operation["value"]
    return result


class Target:
    """What a path names."""

    def __init__(self, path: str) -> None:
        url = urlparse(path)
        found = PATH.fullmatch(url.path)
        kinds = {(group, plural): kind for kind, (group, plural) in GROUPS.items()}
        self.kind = kinds.get((found["group"], found["plural"]), "") if found else ""
        if not found or not self.kind:
            raise LookupError
        self.group = found["group"].split("/")[2] if found["group"] != "/api/v1" else ""
        self.version = found["group"].removeprefix("/apis/").removeprefix("/api/")
        self.ns, self.plural = found["ns"] or "", found["plural"]
        self.name, self.sub = found["name"] or "", found["sub"] or ""
        self.query = {k: v[0] for k, v in parse_qs(url.query).items()}

    @property
    def named(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def missing(self) -> Refusal:
        return Refusal(
            404,
            "NotFound",
            f'{self.named} "{self.name}" not found',
            name=self.name,
            kind=self.plural,
        )

    def conflict(self) -> Refusal:
        return Refusal(
            409,
            "Conflict",
            f'Operation cannot be fulfilled on {self.named} "{self.name}": the object has been modified;'
            " please apply your changes to the latest version and try again",
            name=self.name,
        )


class Stub:
    """`handle` is a Backend of front.py. Tokens: "admin-token" may do everything."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.tokens = {"admin-token": "admin"}
        self.version = 100
        self.oldest = 0
        self.lock = threading.RLock()

    def expire_lists(self) -> None:
        """What a compaction of etcd does to the tokens of lists."""
        self.oldest = self.version + 1

    def handle(self, request: Request) -> Answer:
        with self.lock:
            try:
                return self._handle(request)
            except Refusal as refusal:
                return refusal.answer

    # -- who, and may they

    def _user(self, request: Request) -> str:
        sent = request.headers.get("authorization", "")
        if not sent:
            return "system:anonymous"
        user = self.tokens.get(sent.removeprefix("Bearer "))
        if user is None:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        return user

    def _allowed(self, user: str, ns: str, verb: str, group: str, resource: str, name: str) -> bool:
        if user == "admin":
            return True
        for (kind, of, _), binding in self.objects.items():
            if kind != "RoleBinding" or of != ns:
                continue
            who = [
                f"system:serviceaccount:{s.get('namespace', ns)}:{s['name']}"
                for s in binding["subjects"]
            ]
            role = self.objects.get(("Role", ns, binding["roleRef"]["name"]))
            if user in who and role is not None:
                for rule in role.get("rules") or []:
                    if (
                        verb in rule["verbs"]
                        and group in rule["apiGroups"]
                        and resource in rule["resources"]
                        and (not rule.get("resourceNames") or name in rule["resourceNames"])
                    ):
                        return True
        return False

    def _check(self, user: str, t: Target, verb: str) -> None:
        resource = t.plural + (f"/{t.sub}" if t.sub else "")
        if not self._allowed(user, t.ns, verb, t.group, resource, t.name):
            subject = f'{t.named} "{t.name}"' if t.name else t.named
            raise Refusal(
                403,
                "Forbidden",
                f'{subject} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group '
                f'"{t.group}" in the namespace "{t.ns}"',
                **({"name": t.name} if t.name else {}),
                kind=t.plural,
            )

    # -- what

    def _handle(self, request: Request) -> Answer:
        user = self._user(request)
        if request.resource.endswith("/selfsubjectaccessreviews"):
            return self._review(user, request)
        try:
            t = Target(request.path)
        except LookupError:
            return Answer(404, "404 page not found\n", {})
        verb = {"GET": "get" if t.name else "list", "POST": "create", "PUT": "update"}.get(
            request.method, request.method.lower()
        )
        self._check(user, t, verb)
        if verb == "list":
            return self._list(t)
        if t.sub == "token":
            return self._token(t)
        if verb == "create" and not t.name:
            return self._create(t, request)
        if (t.kind, t.ns, t.name) not in self.objects:
            raise t.missing()
        if t.sub == "binding":
            self.objects[t.kind, t.ns, t.name]["spec"]["nodeName"] = request.json["target"]["name"]
            return Answer(201, {"kind": "Status", "apiVersion": "v1", "status": "Success"}, {})
        if verb == "get":
            return Answer(200, self._shown(t), {})
        if verb == "delete":
            return self._delete(t, request)
        return self._write(t, request)

    def _review(self, user: str, request: Request) -> Answer:
        review = request.json
        a = review["spec"]["resourceAttributes"]
        resource = a["resource"] + (f"/{a['subresource']}" if a.get("subresource") else "")
        allowed = self._allowed(
            user, a.get("namespace", ""), a["verb"], a.get("group", ""), resource, a.get("name", "")
        )
        return Answer(201, {**review, "status": {"allowed": allowed}}, {})

    def _token(self, t: Target) -> Answer:
        token = uuid.uuid4().hex
        self.tokens[token] = f"system:serviceaccount:{t.ns}:{t.name}"
        return Answer(201, {"kind": "TokenRequest", "status": {"token": token}}, {})

    def _store(self, t: Target, made: Object) -> None:
        self.version += 1
        made["metadata"]["resourceVersion"] = str(self.version)
        self.objects[t.kind, t.ns, made["metadata"]["name"]] = made

    def _create(self, t: Target, request: Request) -> Answer:
        made: Object = {"kind": t.kind, "apiVersion": t.version, **request.json}
        meta = made["metadata"]
        t.name = meta["name"]
        if (t.kind, t.ns, t.name) in self.objects:
            raise Refusal(409, "AlreadyExists", f'{t.named} "{t.name}" already exists', name=t.name)
        meta.update(namespace=t.ns, uid=str(uuid.uuid4()), creationTimestamp=now())
        if t.kind == "Deployment":
            made["spec"].setdefault("replicas", 1)
            meta["generation"] = 1
            made["status"] = {"observedGeneration": 1}
        elif t.kind == "Pod":
            made["status"] = {"phase": "Pending"}
        self._validate(t, made)
        self._store(t, made)
        return Answer(201, copy.deepcopy(made), {})

    def _list(self, t: Target) -> Answer:
        found = [
            copy.deepcopy(o)
            for (kind, ns, _), o in sorted(self.objects.items(), key=lambda item: item[0])
            if kind == t.kind and ns == t.ns and self._selected(o, t.query.get("labelSelector", ""))
        ]
        meta: Object = {"resourceVersion": str(self.version)}
        if "continue" in t.query:
            try:
                mark = json.loads(base64.urlsafe_b64decode(t.query["continue"] + "=="))
            except ValueError:
                raise Refusal(
                    400, "BadRequest", "invalid continue token: continue key is not valid"
                ) from None
            if mark["rv"] < self.oldest:
                raise Refusal(410, "Expired", "The provided continue parameter is too old")
            found = [o for o in found if o["metadata"]["name"] > mark["after"]]
        limit = int(t.query.get("limit", "0"))
        if 0 < limit < len(found):
            found = found[:limit]
            mark = {"rv": self.version, "after": found[-1]["metadata"]["name"]}
            meta["continue"] = (
                base64.urlsafe_b64encode(json.dumps(mark).encode()).decode().rstrip("=")
            )
        return Answer(
            200,
            {"kind": f"{t.kind}List", "apiVersion": t.version, "metadata": meta, "items": found},
            {},
        )

    @staticmethod
    def _selected(o: Object, selector: str) -> bool:
        labels = o["metadata"].get("labels", {})
        for term in re.split(r",(?![^()]*\))", selector) if selector else []:
            within = re.fullmatch(r"(\S+) (in|notin) \((.*)\)", term)
            if within:
                listed = labels.get(within[1]) in within[3].split(",")
                ok = listed if within[2] == "in" else not listed
            elif "=" in term:
                key, _, value = term.partition("=")
                ok = labels.get(key) == value
            else:
                ok = (term.removeprefix("!") in labels) != term.startswith("!")
            if not ok:
                return False
        return True

    def _shown(self, t: Target) -> Object:
        stored = self.objects[t.kind, t.ns, t.name]
        return self._scale(stored) if t.sub == "scale" else copy.deepcopy(stored)

    @staticmethod
    def _scale(stored: Object) -> Object:
        replicas = stored["spec"]["replicas"]
        kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {k: stored["metadata"][k] for k in kept},
            "spec": {"replicas": replicas} if replicas else {},
            "status": {"replicas": stored["status"].get("replicas", 0)},
        }

    # -- changes

    def _write(self, t: Target, request: Request) -> Answer:
        before = self._shown(t)
        after = self._patched(before, request) if request.method == "PATCH" else request.json
        sent = after["metadata"].get("resourceVersion")
        stored = copy.deepcopy(self.objects[t.kind, t.ns, t.name])
        if sent is not None and sent != stored["metadata"]["resourceVersion"]:
            raise t.conflict()
        self._validate(t, after)
        if t.sub == "scale":
            replicas = after["spec"].get("replicas", 0)
            stored["metadata"]["generation"] += stored["spec"]["replicas"] != replicas
            stored["spec"]["replicas"] = replicas
        elif t.sub == "status":
            stored["status"] = after["status"]
        else:
            after["metadata"] = {**after["metadata"], "uid": stored["metadata"]["uid"]}
            stored = after
        if "dryRun" in t.query:
            return Answer(200, self._scale(stored) if t.sub == "scale" else stored, {})
        if stored != self.objects[t.kind, t.ns, t.name]:
            self._store(t, stored)
        return Answer(200, self._shown(t), {})

    @staticmethod
    def _patched(before: Object, request: Request) -> Object:
        kind = request.headers.get("content-type", "")
        if kind not in (MERGE, JSON_PATCH, STRATEGIC):
            raise Refusal(415, "UnsupportedMediaType", "415: Unsupported Media Type")
        try:
            patch = request.json
        except ValueError as e:
            raise Refusal(400, "BadRequest", f"error decoding patch: {e}") from None
        after = json_patched(before, patch) if kind == JSON_PATCH else merged(before, patch)
        assert isinstance(after, dict)
        return after

    def _validate(self, t: Target, o: Object) -> None:
        if t.sub == "scale":
            replicas = o["spec"].get("replicas", 0)
            if not isinstance(replicas, int):
                raise Refusal(422, "Invalid", f' "" is invalid: patch: Invalid value: {replicas!r}')
            if replicas < 0:
                raise Refusal(
                    422,
                    "Invalid",
                    f'Scale.autoscaling "{t.name}" is invalid: spec.replicas: Invalid value: {replicas}: '
                    "must be greater than or equal to 0",
                    name=t.name,
                )
        elif t.kind == "Lease":
            self._validate_lease(t, o["spec"])
        elif t.kind == "Pod":
            cost = o["metadata"].get("annotations", {}).get(COST, "0")
            if not isinstance(cost, str) or not re.fullmatch(r"-?\d+", cost):
                raise Refusal(
                    422, "Invalid", f'Pod "{t.name}" is invalid: {COST}: {cost!r}', name=t.name
                )

    @staticmethod
    def _validate_lease(t: Target, spec: Object) -> None:
        for field in ("acquireTime", "renewTime"):
            if field in spec and not MICRO_TIME.fullmatch(spec[field]):
                raise Refusal(
                    400,
                    "BadRequest",
                    f'Lease in version "v1" cannot be handled as a Lease: parsing time "{spec[field]}"',
                )
        checks: list[tuple[str, Callable[[int], bool]]] = [
            ("leaseDurationSeconds", lambda n: n > 0),
            ("leaseTransitions", lambda n: n >= 0),
        ]
        for field, good in checks:
            if field in spec and not good(spec[field]):
                raise Refusal(
                    422,
                    "Invalid",
                    f'Lease.coordination.k8s.io "{t.name}" is invalid: spec.{field}: Invalid value: '
                    f"{spec[field]}",
                    name=t.name,
                )

    def _delete(self, t: Target, request: Request) -> Answer:
        key = t.kind, t.ns, t.name
        stored = self.objects[key]
        now_at_once = request.body and request.json.get("gracePeriodSeconds") == 0
        if t.kind == "Pod" and "nodeName" in stored["spec"] and not now_at_once:
            stored["metadata"].setdefault("deletionTimestamp", now())
            self._store(t, stored)
        else:
            del self.objects[key]
        return Answer(200, copy.deepcopy(stored), {})
